"""jupyterhub_config of stock JupyterHub with batchspawner's SlurmSpawner as it is shipped.

Set is only what every site has to: addresses, queue, and where the programs are. stock.json beside this file says the
latter; its scheduler commands are those that count how often they are called.
"""

import json
from pathlib import Path

here = Path(__file__).parent
given = json.loads((here / "stock.json").read_text())
c = get_config()  # type: ignore[name-defined]  # noqa: F821 - JupyterHub gives it
c.JupyterHub.bind_url = "http://0.0.0.0:18000"
c.JupyterHub.hub_bind_url = "http://0.0.0.0:18081"
c.JupyterHub.hub_connect_url = "http://login1:18081"
c.JupyterHub.db_url = f"sqlite:///{here / 'stock.sqlite'}"
c.JupyterHub.cookie_secret_file = str(here / "stock.cookie")
c.ConfigurableHTTPProxy.pid_file = str(here / "stock.proxy")
c.ConfigurableHTTPProxy.command = given["proxy"]
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:18001"
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.spawner_class = "batchspawner.SlurmSpawner"
c.JupyterHub.allow_named_servers = True
c.SlurmSpawner.cmd = given["lab"]
c.SlurmSpawner.batchspawner_singleuser_cmd = given["singleuser"]
c.SlurmSpawner.req_partition = "interactive"
c.SlurmSpawner.req_runtime = "00:30:00"
c.SlurmSpawner.req_memory = "1G"
for name in ("submit", "query", "cancel"):
    default = getattr(__import__("batchspawner").SlurmSpawner, f"batch_{name}_cmd").default_value
    setattr(c.SlurmSpawner, f"batch_{name}_cmd", f"{given['commands']}/{default}")
