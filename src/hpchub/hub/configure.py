"""Settings become traitlets: one function for each area, and each only sets."""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote, urlparse, urlunparse

from traitlets.config import Config

from hpchub.hub import credentials, database
from hpchub.hub.credentials import secret
from hpchub.hub.refused import QuietRefusals
from hpchub.hub.spawn_page.context import TEMPLATES
from hpchub.hub.spawner import HpcSpawner
from hpchub.settings import Cluster, Site

CULLER = "hpchub-culler"
NAMED_SERVERS = 4
NODE_POLL_SECONDS = 10
"""How often the hub looks at each server; that reads what the watcher knows and asks nobody."""
ROUTES_SECONDS = 30
"""How soon a proxy that was restarted has its routes again; JupyterHub's default is five minutes."""
ACTIVITY_SECONDS = 240
"""How much later a new sign of life has to be than the last to be written down. JupyterHub writes every 30 s for every
open Lab, and answers nobody meanwhile; Labs report every five minutes anyway."""

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # as JupyterHub's frame-ancestors 'none'
}


def configure(c: Config, site: Site, site_file: str) -> None:
    """All areas."""
    hub(c, site)
    proxy(c, site, secret("proxy-token"))
    sign_in(c, site)
    servers(c, site.cluster, site_file)
    pages(c, site.cluster, site.support_contact)
    if site.hub.idle_stop_minutes:
        culler(c, secret("culler-token"))
    logging.getLogger("JupyterHub").addFilter(QuietRefusals())


def hub(c: Config, site: Site) -> None:
    """The hub's own service: addresses, database, who may see what."""
    state = Path(site.hub.state_directory)
    c.JupyterHub.hub_bind_url = f"https://{site.hub.bind_address}:{site.hub.port}"
    c.JupyterHub.hub_connect_url = f"https://{site.hub.connect_host}:{site.hub.port}"
    c.JupyterHub.tls_directory = str(credentials.directory())
    c.JupyterHub.base_url = urlparse(site.hub.public_url).path
    c.JupyterHub.public_url = site.hub.public_url
    c.JupyterHub.db_url = f"sqlite:///{state / 'hub.sqlite'}"
    c.JupyterHub.db_kwargs = {"connect_args": database.CONNECT}
    c.JupyterHub.cookie_secret_file = str(state / "cookie_secret")
    c.JupyterHub.activity_resolution = ACTIVITY_SECONDS
    c.JupyterHub.admin_access = False
    c.JupyterHub.log_level = "INFO"
    c.JupyterHub.tornado_settings = {"headers": HEADERS, "cookie_options": cookie_options(site)}
    if site.hub.subdomains:
        c.JupyterHub.subdomain_host = urlunparse(urlparse(site.hub.public_url)._replace(path=""))
        # no other host can set such a cookie; it goes to every path of its own, so not where Labs are on the hub's host
        c.JupyterHub.cookie_host_prefix_enabled = True


def cookie_options(site: Site) -> dict[str, object]:
    """What all cookies of the hub and of the Labs have; JupyterHub hands it on to them."""
    # a link from elsewhere finds the user signed in, a form or a frame from elsewhere does not
    return {"secure": True, "samesite": "Lax", "expires_days": site.hub.session_hours / 24}


def proxy(c: Config, site: Site, token: str) -> None:
    """A proxy that is a service of its own: Labs survive a restart of the hub."""
    c.JupyterHub.cleanup_proxy = False
    c.JupyterHub.cleanup_servers = False
    c.ConfigurableHTTPProxy.should_start = False
    c.JupyterHub.last_activity_interval = ROUTES_SECONDS
    c.ConfigurableHTTPProxy.api_url = f"http+unix://{quote(site.proxy.api_socket, safe='')}"
    c.ConfigurableHTTPProxy.auth_token = token


def sign_in(c: Config, site: Site) -> None:
    """Who comes in, and for how long. The login helper enforces the group, hence allow_all."""
    way = "ldap.LdapAuthenticator" if site.login.ldap else "pam.PamAuthenticator"
    c.JupyterHub.authenticator_class = f"hpchub.login.{way}"
    c.JupyterHub.cookie_max_age_days = site.hub.session_hours / 24
    c.JupyterHub.token_expires_in_max_seconds = round(site.hub.token_hours * 3600)
    c.JupyterHub.shutdown_on_logout = False
    c.Authenticator.allow_all = True
    c.Authenticator.admin_users = set(site.hub.admins)
    c.HpcAuthenticator.socket = site.login.socket
    c.HpcAuthenticator.label = site.login.label
    c.HpcAuthenticator.banner = site.login.banner
    c.HpcAuthenticator.consent = site.login.consent
    c.HpcAuthenticator.support_contact = site.support_contact
    c.HpcAuthenticator.timeout_seconds = site.login.timeout_seconds
    if site.login.ldap:
        c.LdapAuthenticator.ldap = site.login.ldap
        c.LdapAuthenticator.lookup_password = secret("ldap-password", 1) if site.login.ldap.lookup_dn else ""


def servers(c: Config, cluster: Cluster, site_file: str) -> None:
    """Users' servers. No limit on starts that wait: time in the queue costs the hub nothing."""
    c.JupyterHub.spawner_class = HpcSpawner
    c.JupyterHub.allow_named_servers = True
    c.JupyterHub.named_server_limit_per_user = NAMED_SERVERS
    c.JupyterHub.concurrent_spawn_limit = 0
    c.JupyterHub.init_spawners_timeout = 5
    c.HpcSpawner.site_file = site_file
    c.HpcSpawner.http_timeout = cluster.jobs.start_timeout_seconds
    c.HpcSpawner.poll_interval = NODE_POLL_SECONDS
    c.HpcSpawner.env_keep = []
    # a Lab reports its activity and its port; with JupyterHub's default whoever found its token could open the Lab too
    c.HpcSpawner.server_token_scopes = ["users:activity!user"]


def pages(c: Config, cluster: Cluster, support_contact: str) -> None:
    """Templates of ours before JupyterHub's, and the words of the site."""
    c.JupyterHub.template_paths = [str(TEMPLATES), str(files("hpchub.login") / "templates")]
    c.JupyterHub.template_vars = {"cluster_name": cluster.name, "support_contact": support_contact}


def culler(c: Config, token: str) -> None:
    """The culler, a service of its own, with the least role that lets it see idle servers and stop them."""
    c.JupyterHub.services = [{"name": CULLER, "api_token": token}]
    c.JupyterHub.load_roles = [
        {
            "name": CULLER,
            "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
            "services": [CULLER],
        }
    ]
