"""What a sysadmin reads about a certificate that would not do, made by openssl and looked at as on a login node."""

import importlib.util
import subprocess
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hpchub.preflight import certificate

ROOT = Path(__file__).resolve().parents[2]
HOST = "hub.example.org"


def module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "roles/preflight" / path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


PROBE = module("library/preflight_probe.py")


class Site:
    """The two files of a site, named as an inventory names them, and what preflight says of them."""

    def __init__(self, directory: Path) -> None:
        self.certificate, self.key = directory / "hub.pem", directory / "hub.key"
        self.directory = directory

    def issue(self, *more: str, names: str = f"DNS:{HOST}", days: int = 90, own: str = "hub") -> None:
        """A certificate and its key, signed by itself unless `more` says otherwise."""
        made = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
            "-subj", f"/CN={own}", "-days", str(days), "-keyout", self.directory / f"{own}.key",
            "-out", self.directory / f"{own}.pem", *(["-addext", f"subjectAltName={names}"] if names else []), *more,
        ]  # fmt: skip
        subprocess.run(made, check=True, capture_output=True)

    def told(self, *names: str) -> dict[str, Any]:
        """What the login node answers."""
        answer: dict[str, Any] = PROBE.certificate(str(self.certificate), str(self.key), list(names or (HOST,)))
        return answer

    def problems(self, *names: str) -> list[str]:
        return [self.plain(problem) for problem in certificate.problems(self.told(*names))]

    def warnings(self) -> list[str]:
        return [self.plain(warning) for warning in certificate.warnings(self.told())]

    def plain(self, text: str) -> str:
        return text.replace(f"{self.directory}/", "")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.issue()
    return made


def test_a_good_certificate_has_no_problem_and_no_warning(site: Site) -> None:
    assert site.problems() == []
    assert site.warnings() == []


@pytest.mark.parametrize(("which", "name"), [("certificate", "certificate"), ("key", "private_key")])
def test_a_file_that_is_not_there_is_named_with_its_variable(site: Site, which: str, name: str) -> None:
    path = getattr(site, which)
    path.unlink()
    assert site.problems() == [
        f"jupyterhub_proxy_tls_{name} is {path.name}, which root cannot read on the login node:"
        " No such file or directory."
    ]


def test_a_directory_in_place_of_a_file_cannot_be_read(site: Site) -> None:
    site.certificate.unlink()
    site.certificate.mkdir()
    assert site.problems() == [
        "jupyterhub_proxy_tls_certificate is hub.pem, which root cannot read on the login node: Is a directory."
    ]


def test_a_certificate_in_der_is_to_be_converted(site: Site) -> None:
    subprocess.run(
        ["openssl", "x509", "-outform", "der", "-in", site.certificate, "-out", site.certificate], check=True
    )
    assert site.problems() == [
        "hub.pem holds no certificate in PEM. If it is in DER, convert it:"
        " openssl x509 -inform der -in hub.pem -out NEW"
    ]


def test_a_key_with_a_passphrase_is_to_be_written_anew(site: Site) -> None:
    plain = site.key.rename(site.directory / "plain.key")
    argv = ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", plain, "-out", site.key]
    subprocess.run(argv, check=True)
    assert site.problems() == [
        "hub.key holds no private key in PEM that opens without a passphrase, and nobody is there to type one."
        " Write it anew: openssl pkey -in hub.key -out NEW"
    ]


@pytest.mark.parametrize("days", [-20, 20])
def test_a_certificate_out_of_its_time_is_refused(site: Site, days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    site.issue(days=10)
    there = time.time() + (days if days > 0 else -5) * 86400
    monkeypatch.setattr(PROBE.time, "time", lambda: there)
    (problem,) = site.problems()
    if days > 0:
        assert problem.startswith("The certificate hub.pem ended on 20")
        assert problem.endswith(" UTC. Have a new one issued.")
    else:
        assert problem.startswith("The certificate hub.pem is good from 20")
        assert problem.endswith("Correct the clock (timedatectl), or wait.")
    assert site.warnings() == []


@pytest.mark.parametrize(("days", "warned"), [(13, True), (16, False)])
def test_a_certificate_that_ends_within_two_weeks_is_a_warning(site: Site, days: int, warned: bool) -> None:
    site.issue(days=days)
    assert site.problems() == []
    found = site.warnings()
    assert len(found) == warned
    if warned:
        assert found[0].startswith("The certificate hub.pem ends on 20")
        assert found[0].endswith("UTC, in 13 days. Renew it, then: systemctl restart hpchub-proxy")


def test_the_key_of_another_certificate_is_refused(site: Site) -> None:
    site.issue(own="other")
    (site.directory / "other.key").rename(site.key)
    assert site.problems() == [
        "The key hub.key is not the one of the certificate hub.pem. Name the key with which it was requested."
    ]


def test_a_chain_in_the_wrong_order_is_told_from_a_wrong_key(site: Site) -> None:
    site.issue(own="ca")
    own = site.certificate.read_text()
    site.certificate.write_text((site.directory / "ca.pem").read_text() + own)
    assert site.problems() == [
        "The key hub.key belongs to the certificate number 2 in hub.pem. Put that first, and its chain behind it."
    ]


@pytest.mark.parametrize(
    ("mode", "above", "open_to_all"), [(0o644, 0o755, True), (0o640, 0o755, False), (0o644, 0o700, False)]
)
def test_a_key_that_everybody_can_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, mode: int, above: int, open_to_all: bool
) -> None:
    monkeypatch.setattr(PROBE, "FIRST_PERSON", 2**31)  # whoever runs this test
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are below one that is closed
        site = Site(Path(directory))
        site.issue()
        site.directory.chmod(above)
        site.key.chmod(mode)
        refused = ["The key hub.key can be read by everybody. Close it: chown root:root hub.key; chmod 600 hub.key"]
        assert site.problems() == (refused if open_to_all else [])


def test_a_key_of_a_persons_account_or_group_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.key.chmod(0o640)
    monkeypatch.setattr(PROBE, "FIRST_PERSON", 0)
    (problem,) = site.problems()
    assert problem.startswith("The key hub.key can be read by its owner ")
    assert " and the group " in problem


@pytest.mark.parametrize(
    ("names", "asked", "problem"),
    [
        (
            "DNS:www.example.org,DNS:example.org",
            [HOST],
            "The certificate hub.pem is for www.example.org, example.org, and jupyterhub_url needs hub.example.org."
            " Have one issued for hub.example.org, or change jupyterhub_url.",
        ),
        (
            f"DNS:{HOST}",
            [HOST, f"*.{HOST}"],
            "The certificate hub.pem is for hub.example.org, and jupyterhub_subdomains needs *.hub.example.org."
            " Have one issued for hub.example.org and *.hub.example.org, or change jupyterhub_subdomains.",
        ),
        (
            "IP:192.0.2.1",
            ["192.0.2.2"],
            "The certificate hub.pem is for 192.0.2.1, and jupyterhub_url needs 192.0.2.2."
            " Have one issued for 192.0.2.2, or change jupyterhub_url.",
        ),
        (
            "",
            ["hub"],
            "The certificate hub.pem is for no name (it has no subjectAltName), and jupyterhub_url needs hub."
            " Have one issued for hub, or change jupyterhub_url.",
        ),
        ("DNS:*.example.org", [HOST], ""),
        (f"DNS:{HOST},DNS:*.{HOST}", [HOST, f"*.{HOST}"], ""),
        ("IP:192.0.2.1", ["192.0.2.1"], ""),
    ],
)
def test_a_name_that_does_not_fit_is_told_with_those_that_the_certificate_has(
    site: Site, names: str, asked: list[str], problem: str
) -> None:
    site.issue(names=names)
    assert site.problems(*asked) == ([problem] if problem else [])


@pytest.mark.parametrize("chained", [True, False])
def test_a_chain_without_its_intermediate_is_a_warning(site: Site, chained: bool) -> None:
    site.issue(own="root")
    by = ("-CA", site.directory / "root.pem", "-CAkey", site.directory / "root.key")
    site.issue(*map(str, by), own="intermediate")
    by = ("-CA", site.directory / "intermediate.pem", "-CAkey", site.directory / "intermediate.key")
    site.issue(*map(str, by), "-addext", "basicConstraints=CA:FALSE")
    if chained:
        site.certificate.write_text(site.certificate.read_text() + (site.directory / "intermediate.pem").read_text())
    assert site.problems() == []
    assert site.warnings() == (
        []
        if chained
        else [
            "hub.pem lacks the certificate of the issuer, CN=intermediate, which the login node does not know either."
            " Unless it is a root that browsers here trust, append it: they would refuse the hub."
        ]
    )


def test_a_login_node_without_openssl_is_told_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(site.directory))
    assert site.problems() == [
        "The login node has no program openssl, which certificates are checked with. Install it."
    ]
    assert site.warnings() == []
