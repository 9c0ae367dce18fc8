from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hpchub import cli
from hpchub.settings import Cluster, SettingsError, load


def changed(site_file: Path, **changes: object) -> Path:
    """A file with these keys of the site and, where they are the cluster's, of its cluster."""
    raw = yaml.safe_load(site_file.read_text())
    of_cluster = {key: value for key, value in changes.items() if key in Cluster.model_fields}
    raw["clusters"][0] |= of_cluster
    raw |= {key: value for key, value in changes.items() if key not in of_cluster}
    site_file.write_text(yaml.safe_dump(raw))
    return site_file


def directory(**changes: object) -> dict[str, Any]:
    """A change to a site that signs in at a directory."""
    good = {"servers": ["ldaps://ldap1"], "ca_file": "/etc/ca.pem", "bind_dn": "uid={username},dc=example,dc=org"}
    return {"login": {"ldap": good | changes}}


def test_a_directory_is_taken_as_it_stands(site_file: Path) -> None:
    ldap = load(changed(site_file, **directory(servers=["ldaps://ldap1", "ldap+starttls://ldap2:389"]))).login.ldap
    assert ldap is not None
    assert (len(ldap.servers), ldap.search_attribute, ldap.timeout_seconds) == (2, "uid", 5)


def test_a_short_file_is_completed_with_defaults(site_file: Path) -> None:
    site = load(site_file)
    assert site.cluster.jobs.poll_seconds == 10
    assert site.cluster.default_queue.name == "interactive"
    assert site.hub.api_url == "https://login1:8081/hub/api"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"skeduler": "slurm"}, "skeduler: is not a known key; write one of support_contact"),
        (
            {"scheduler": "lsf"},
            "clusters[0].scheduler: input should be 'slurm' or 'pbs', not 'lsf'; write slurm or pbs.",
        ),
        ({"queues": []}, "clusters[0].queues: tuple should have at least 1 item"),
        ({"queues": [{"name": "a"}, {"name": "a"}]}, "the queue 'a' stands in the list twice"),
        ({"queues": [{"name": "a", "default": True}, {"name": "b", "default": True}]}, "more than one queue has"),
        ({"queues": [{"name": "a;b"}]}, "clusters[0].queues[0].name: text should be letters, digits and _ . -"),
        ({"queues": [{"name": "a", "max_cores": 0}]}, "clusters[0].queues[0].max_cores: input should be greater than"),
        (
            {"queues": [{"name": "a", "max_coers": 1}]},
            "clusters[0].queues[0].max_coers: is not a known key; write one of name",
        ),
        ({"hub": {"connect_host": "login1"}}, "hub.public_url: is missing; write what people type into the browser"),
        ({"hub": {"connect_host": "login1", "public_url": "http://a/"}}, "hub.public_url: text should be https://"),
        ({"hub": {"connect_host": "a", "public_url": "https://a/", "port": "80"}}, "hub.port: input should be a valid"),
        ({"clusters": []}, "clusters: tuple should have at least 1 item"),
        ({"clusters": [{"nmae": "demo"}]}, "clusters[0].nmae: is not a known key; write one of name, scheduler"),
        (directory(servers=["ldap://ldap1"]), "servers[0]: text should be ldaps://HOST or ldap+starttls://HOST"),
        (directory(servers=["ldap://ldap1"]), "not 'ldap://ldap1'; write ldaps://HOST or ldap+starttls://HOST"),
        (directory(servers=[]), "login.ldap.servers: tuple should have at least 1 item"),
        (
            directory(bind_dn="uid={user},dc=example,dc=org"),
            "login.ldap.bind_dn: text should be a DN with {username} once",
        ),
        (directory(bind_dn=""), "login.ldap: write either bind_dn or search_base, and not both."),
        (directory(search_base="dc=example,dc=org"), "login.ldap: write either bind_dn or search_base, and not both."),
        (directory(lookup_dn="cn=lookup"), "login.ldap: lookup_dn searches below search_base, and bind_dn needs no"),
        (directory(bind="x"), "login.ldap.bind: is not a known key; write one of servers, ca_file, bind_dn"),
    ],
)
def test_a_mistake_is_told_with_file_key_and_remedy(site_file: Path, changes: dict[str, Any], words: str) -> None:
    changed(site_file, **changes)
    with pytest.raises(SettingsError) as caught:
        load(site_file)
    assert str(caught.value).startswith(f"{site_file}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "\0"])
def test_a_file_that_is_no_mapping_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "site.yml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=str(path)):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no\.yml: cannot be read"):
        load(tmp_path / "no.yml")


def test_every_key_says_what_it_is_for() -> None:
    from hpchub import settings

    models = [m for m in vars(settings).values() if isinstance(m, type) and issubclass(m, settings.Model)]
    fields = [(m.__name__, n) for m in models for n, f in m.model_fields.items() if not f.description]
    assert fields == []


def test_hpchub_check_prints_the_sentences_and_fails(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(site_file)]) == 0
    assert cli.main(["check", str(changed(site_file, scheduler="lsf", users_group=1))]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{site_file}: ") for line in lines)
