from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jupyterhub.auth import Authenticator
from traitlets.config import Config

from hpchub import cli
from hpchub.hub import configure
from hpchub.hub.app import JupyterHub
from hpchub.hub.credentials import secret
from hpchub.hub.refused import QuietRefusals, Refused
from hpchub.hub.spawner import HpcSpawner
from hpchub.settings import SettingsError, Site, load


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "proxy-token").write_text("p" * 64 + "\n")
    (directory / "culler-token").write_text("c" * 64)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    return directory


@pytest.fixture
def config(site: Site, site_file: Path, credentials: Path) -> Config:
    c = Config()
    configure.configure(c, site, str(site_file))
    return c


def test_the_hub_talks_to_a_proxy_that_is_not_its_own(config: Config) -> None:
    assert config.ConfigurableHTTPProxy.should_start is False
    assert config.ConfigurableHTTPProxy.api_url == "http+unix://%2Frun%2Fhpchub-proxy%2Fapi.sock"
    assert config.ConfigurableHTTPProxy.auth_token == "p" * 64
    assert config.JupyterHub.cleanup_servers is False


def test_a_proxy_that_was_restarted_has_its_routes_again_within_half_a_minute(config: Config) -> None:
    assert config.JupyterHub.last_activity_interval <= 30


def test_the_sites_values_arrive(config: Config, site_file: Path) -> None:
    assert config.JupyterHub.hub_connect_url == "https://login1:8081"
    assert config.JupyterHub.public_url == "https://hub.example.org/"
    assert config.JupyterHub.cookie_max_age_days == 0.5
    assert config.JupyterHub.token_expires_in_max_seconds == 12 * 3600
    assert config.JupyterHub.spawner_class is HpcSpawner
    assert config.HpcSpawner.site_file == str(site_file)
    assert config.HpcAuthenticator.socket == "/run/hpchub-login.sock"


def test_every_cookie_is_for_tls_alone_and_ends_with_the_session(config: Config) -> None:
    assert config.JupyterHub.tornado_settings["cookie_options"] == {
        "secure": True,
        "samesite": "Lax",
        "expires_days": 0.5,
    }


def test_each_user_has_a_host_name_only_if_the_site_says_so(site: Site, config: Config) -> None:
    assert "subdomain_host" not in config.JupyterHub
    assert "cookie_host_prefix_enabled" not in config.JupyterHub
    apart = {"subdomains": True, "public_url": "https://hub.example.org:8443/jupyter/"}
    configure.hub(config, site.model_copy(update={"hub": site.hub.model_copy(update=apart)}))
    assert config.JupyterHub.subdomain_host == "https://hub.example.org:8443"
    assert config.JupyterHub.base_url == "/jupyter/"
    assert config.JupyterHub.cookie_host_prefix_enabled is True


def test_the_culler_has_the_least_role_and_only_if_it_is_wanted(site: Site, config: Config, site_file: Path) -> None:
    (role,) = config.JupyterHub.load_roles
    assert role["scopes"] == ["list:users", "read:users:activity", "read:servers", "delete:servers"]
    site_file.write_text(site_file.read_text().replace("connect_host", "idle_stop_minutes: 0\n  connect_host"))
    never = Config()
    configure.configure(never, load(site_file), str(site_file))
    assert "services" not in never.JupyterHub


def test_at_a_directory_the_hub_has_the_lookup_password_as_a_credential_and_only_if_it_searches(
    site_file: Path, credentials: Path
) -> None:
    search = {"search_base": "dc=example,dc=org", "lookup_dn": "cn=lookup,dc=example,dc=org"}
    ldap = {"servers": ["ldaps://ldap1"], "ca_file": "/etc/ca.pem", **search}
    site_file.write_text(yaml.safe_dump(yaml.safe_load(site_file.read_text()) | {"login": {"ldap": ldap}}))
    with pytest.raises(SettingsError, match="ldap-password"):
        configure.sign_in(Config(), load(site_file))
    (credentials / "ldap-password").write_text("sesame\n")
    c = Config()
    configure.sign_in(c, load(site_file))
    assert c.JupyterHub.authenticator_class == "hpchub.login.ldap.LdapAuthenticator"
    assert (c.LdapAuthenticator.ldap.servers, c.LdapAuthenticator.lookup_password) == (("ldaps://ldap1",), "sesame")


@pytest.mark.parametrize("breakage", ["missing", "short", "no-directory"])
def test_the_hub_does_not_start_without_its_secrets(
    credentials: Path, monkeypatch: pytest.MonkeyPatch, breakage: str
) -> None:
    if breakage == "missing":
        (credentials / "proxy-token").unlink()
    elif breakage == "short":
        (credentials / "proxy-token").write_text("short")
    else:
        monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(SettingsError):
        secret("proxy-token")


def test_batchspawners_callback_is_gone_and_ours_is_there_once(config: Config, tmp_path: Path) -> None:
    from hpchub.hub.app import JupyterHub

    hub = JupyterHub(config=config, db_url=f"sqlite:///{tmp_path / 'hub.sqlite'}")
    hub.authenticator = Authenticator()
    for _ in range(2):  # whoever asks for them again gets the same ones
        hub.init_handlers()
        paths = [route[0] for route in hub.handlers]
        assert not [path for path in paths if "batchspawner" in path]
        assert paths.count("/hub/api/hpchub/port") == 1
        assert {"/hub/hpchub/cancel/([^/]+)/([^/]+)", "/hub/hpchub/static/(.*)", "/hub/api/users"} <= set(paths)
        assert paths.index("/hub/api/hpchub/port") < paths.index("/hub/api/(.*)")  # what answers 404 to all


@pytest.mark.parametrize("first", ["batchspawner.api", "hpchub.hub.spawner", "hpchub.hub.app"])
def test_batchspawners_callback_is_gone_in_a_fresh_process_whatever_is_imported_first(
    first: str, tmp_path: Path
) -> None:
    program = (
        f"import {first}, batchspawner, hpchub.hub.spawner, batchspawner.api;"
        "from jupyterhub.auth import Authenticator; from hpchub.hub.app import JupyterHub;"
        "hub = JupyterHub(db_url='sqlite://'); hub.authenticator = Authenticator(); hub.init_handlers();"
        "print([h[0] for h in hub.handlers if 'batchspawner' in h[0] or 'Batch' in h[1].__name__]);"
        "print(len(hub.handlers) > 50)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env={
            "PYTHONPATH": str(Path(configure.__file__).parents[2]), "PATH": "/usr/bin:/bin",
        },
    )  # fmt: skip
    assert done.stdout == "[]\nTrue\n"


def test_a_refused_wish_leaves_a_line_but_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("JupyterHub.test")
    log.addFilter(QuietRefusals())
    for error in (Refused("No 100% way.", "options"), ValueError("defect")):
        try:
            raise error
        except Exception:
            log.error("Failed", exc_info=True)
    refused, defect = caplog.records
    assert refused.getMessage() == "Failed: No 100% way."
    assert not refused.exc_info
    assert defect.exc_info


def test_hpchub_hub_starts_jupyterhub_with_our_configuration(site_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(JupyterHub, "launch_instance", started.append)
    monkeypatch.setenv("HPCHUB_SITE_FILE", "")  # put back afterwards
    assert cli.main(["hub", "--site", str(site_file)]) == 0
    ((option, file),) = started
    assert option == "--config"
    assert "configure(get_config()" in Path(file).read_text()
