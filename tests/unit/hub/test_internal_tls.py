"""What a job's certificates are good for, tried with real handshakes."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from hpchub.hub.internal_tls import BEYOND_WALLTIME, Labs

if TYPE_CHECKING:
    from conftest import Authority

HOUR = timedelta(hours=1)


def context(purpose: ssl.Purpose, key: str, certificate: str, trusted: str, directory: Path) -> ssl.SSLContext:
    made = ssl.create_default_context(purpose, cadata=trusted)
    made.verify_mode = ssl.CERT_REQUIRED
    for name, text in (("key", key), ("pem", certificate)):
        (directory / name).write_text(text)
    made.load_cert_chain(directory / "pem", directory / "key")
    return made


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    """What the client reads from the server; raises what either side raises."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)
    problems: list[Exception] = []

    def serve() -> None:
        try:
            with server.wrap_socket(ours, server_side=True) as wrapped:
                wrapped.sendall(b"hello")
        except OSError as error:
            problems.append(error)
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname=host) as wrapped:
            received = wrapped.recv(16).decode()
    finally:
        thread.join()
    if problems:
        raise problems[0]
    return received


def lab_server(labs: Labs, node: str, directory: Path) -> ssl.SSLContext:
    pair = labs.caller("demo:alice::0f")
    return context(
        ssl.Purpose.CLIENT_AUTH, pair.key, labs.server(pair.certificate, node, HOUR), labs.services, directory
    )


def test_the_proxy_reaches_a_lab_by_the_name_of_its_node(labs: Labs, services: Authority, tmp_path: Path) -> None:
    proxy = context(ssl.Purpose.SERVER_AUTH, *services.sign("proxy"), labs.certificate, tmp_path)
    assert handshake(lab_server(labs, "c1", tmp_path), proxy, "c1") == "hello"
    assert handshake(lab_server(labs, "192.0.2.7", tmp_path), proxy, "192.0.2.7") == "hello"


def test_a_lab_is_not_taken_for_one_on_another_node(labs: Labs, services: Authority, tmp_path: Path) -> None:
    proxy = context(ssl.Purpose.SERVER_AUTH, *services.sign("proxy"), labs.certificate, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'c2'"):
        handshake(lab_server(labs, "c1", tmp_path), proxy, "c2")


def test_the_certificate_of_another_lab_opens_no_lab(labs: Labs, tmp_path: Path) -> None:
    bob = labs.caller("demo:bob::0f")
    for certificate in (bob.certificate, labs.server(bob.certificate, "c1", HOUR)):
        neighbour = context(ssl.Purpose.SERVER_AUTH, bob.key, certificate, labs.certificate, tmp_path)
        with pytest.raises(ssl.SSLError):
            handshake(lab_server(labs, "c1", tmp_path), neighbour, "c1")


def test_a_job_that_waits_can_call_the_hub_but_nobody_can_be_served_by_it(
    labs: Labs, services: Authority, tmp_path: Path
) -> None:
    pair = labs.caller("demo:alice::0f")
    job = context(ssl.Purpose.SERVER_AUTH, pair.key, pair.certificate, labs.services, tmp_path)
    hub = context(ssl.Purpose.CLIENT_AUTH, *services.sign("login1"), labs.certificate, tmp_path)
    assert handshake(hub, job, "login1") == "hello"

    server = context(ssl.Purpose.CLIENT_AUTH, pair.key, pair.certificate, labs.services, tmp_path)
    proxy = context(ssl.Purpose.SERVER_AUTH, *services.sign("proxy"), labs.certificate, tmp_path)
    with pytest.raises(ssl.SSLError):
        handshake(server, proxy, "c1")


def test_a_lab_cannot_pose_as_the_hub(labs: Labs, tmp_path: Path) -> None:
    pair = labs.caller("demo:alice::0f")
    job = context(ssl.Purpose.SERVER_AUTH, pair.key, pair.certificate, labs.services, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(lab_server(labs, "login1", tmp_path), job, "login1")


def test_a_certificate_outlives_the_wall_time_by_a_week_and_no_more(labs: Labs) -> None:
    pair = labs.caller("demo:alice::0f")
    signed = x509.load_pem_x509_certificate(labs.server(pair.certificate, "c1", HOUR).encode())
    lifetime = signed.not_valid_after_utc - signed.not_valid_before_utc
    assert BEYOND_WALLTIME + HOUR <= lifetime < BEYOND_WALLTIME + 2 * HOUR


def test_two_servers_never_have_the_same_key(labs: Labs) -> None:
    assert labs.caller("demo:alice::0f").key != labs.caller("demo:alice::0f").key
