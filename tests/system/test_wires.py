"""What crosses the cluster's network: TLS with certificates on both sides, and nothing else."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

pytestmark = pytest.mark.proof

Run = Callable[[str, str], str]
Jobs = Callable[[str], list[dict[str, str]]]
PYTHON = "/usr/local/lib/hpchub/hub/current/bin/python"
INSIDE = "/etc/hpchub/internal"
ASK = """
import ssl, sys, urllib.request
url, *files = sys.argv[1:]
context = ssl.create_default_context(cafile=files[0]) if files else ssl._create_unverified_context()
if files[1:]:
    context.load_cert_chain(files[1], files[2])
try:
    print(urllib.request.urlopen(url, context=context, timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print(getattr(error, "reason", error))
except Exception as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def job(lab: Callable[[str], str], jobs: Jobs) -> dict[str, str]:
    """The job of alice's Lab, running."""
    number = lab("alice")
    return next(job for job in jobs("alice") if job["id"] == number)


@pytest.fixture(scope="module")
def port(job: dict[str, str], run: Run) -> str:
    """The port of alice's Lab on its node."""
    sockets = run(job["node"], "ss --no-header --listening --tcp --numeric --extended")
    (found,) = re.findall(r"0\.0\.0\.0:(\d+) .* uid:2001 ", sockets)
    return str(found)


@pytest.fixture(scope="module")
def ask(host: Callable[[str], Host], run: Run) -> Callable[..., str]:
    """What a request from a host comes to: a status, or why there is none. Files: authority, certificate, key."""
    for name in ("login1", "c1", "c2"):
        run(name, f"cat >/tmp/ask.py <<'EOF'\n{ASK}\nEOF")

    def asked(name: str, url: str, *files: str) -> str:
        return str(host(name).run(f"python3 /tmp/ask.py {url} {' '.join(files)}").stdout).strip()

    return asked


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_without_a_certificate_nobody_speaks_to_the_hubs_own_port(scheme: str, ask: Callable[..., str]) -> None:
    assert not ask("c1", f"{scheme}://login1:8081/hub/health").isdigit()


def test_the_services_speak_to_the_hub_with_theirs(ask: Callable[..., str]) -> None:
    files = (f"{INSIDE}/services-ca.pem", f"{INSIDE}/proxy.pem", f"{INSIDE}/proxy.key")
    assert ask("login1", "https://login1:8081/hub/health", *files) == "200"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_without_a_certificate_nobody_speaks_to_a_lab(
    scheme: str, job: dict[str, str], port: str, ask: Callable[..., str]
) -> None:
    for path in ("api", "api/contents", "api/kernels"):
        assert not ask("login1", f"{scheme}://{job['node']}:{port}/user/alice/{path}").isdigit(), path


def test_the_proxys_certificate_opens_a_lab_no_further_than_the_login(
    job: dict[str, str], port: str, ask: Callable[..., str]
) -> None:
    files = (f"{INSIDE}/labs-ca.pem", f"{INSIDE}/proxy.pem", f"{INSIDE}/proxy.key")
    for path, status in {"api": "200", "api/contents": "403", "api/terminals": "403"}.items():
        assert ask("login1", f"https://{job['node']}:{port}/user/alice/{path}", *files) == status, path


@pytest.fixture(scope="module")
def kept(job: dict[str, str], run: Run) -> str:
    """Where alice's Lab has its key, on its node."""
    # A node that failed may keep the directory of an earlier one.
    found = "find /tmp /var/tmp -maxdepth 3 -name tls.key -user alice -printf '%T@ %h\\n'"
    (directory,) = run(job["node"], f"{found} | sort -n | tail -n 1 | cut -d' ' -f2").split()
    return directory


def test_a_labs_key_is_read_by_its_user_alone(job: dict[str, str], kept: str, run: Run) -> None:
    for path, mode in ((kept, "700"), (f"{kept}/tls.key", "600")):
        found, owner = run(job["node"], f"stat -c '%a %U' {path}").split()
        assert (found[-3:], owner) == (mode, "alice")  # Jupyter sets the sticky bit of the directory


def test_the_certificate_of_anybodys_lab_opens_no_lab(
    job: dict[str, str], port: str, kept: str, ask: Callable[..., str]
) -> None:
    files = (f"{kept}/hub-ca.pem", f"{kept}/tls.pem", f"{kept}/tls.key")
    assert not ask(job["node"], f"https://{job['node']}:{port}/user/alice/api", *files).isdigit()


def test_a_labs_certificate_opens_on_the_hubs_port_what_a_lab_needs_and_nothing_else(
    job: dict[str, str], kept: str, ask: Callable[..., str]
) -> None:
    files = (f"{kept}/hub-ca.pem", f"{kept}/tls.pem", f"{kept}/tls.key")
    for path, status in {"api": "200", "api/user": "403", "login": "403", "home": "403", "api/users": "403"}.items():
        assert ask(job["node"], f"https://login1:8081/hub/{path}", *files) == status, path


def test_a_labs_certificate_has_the_name_of_its_node_and_ends_with_its_job(
    job: dict[str, str], kept: str, run: Run
) -> None:
    shown = run(job["node"], f"openssl x509 -noout -ext subjectAltName -in {kept}/tls.pem")
    assert f"DNS:{job['node']}" in shown
    for days, good in ((7, "will not"), (8, "will")):
        line = f"openssl x509 -noout -checkend {days * 86400} -in {kept}/tls.pem || true"
        assert f"Certificate {good} expire" in run(job["node"], line)


def test_keys_are_roots_and_that_of_the_services_authority_goes_to_no_unit(run: Run) -> None:
    for name in ("hub", "proxy", "culler"):
        assert run("login1", f"openssl verify -CAfile {INSIDE}/services-ca.pem {INSIDE}/{name}.pem").endswith("OK")
    modes = run("login1", f"stat -c '%a %U' {INSIDE} {INSIDE}/*").splitlines()
    assert set(modes) == {"700 root", "600 root"}
    assert "services-ca.key" not in json.dumps(credentials(run))


def credentials(run: Run) -> dict[str, Any]:
    """What systemd hands to each unit."""
    units = ("hpchub", "hpchub-proxy", "hpchub-culler", "hpchub-jobs@1", "hpchub-login@1")
    return {unit: run("login1", f"systemctl show --property=LoadCredential --value {unit}").split() for unit in units}
