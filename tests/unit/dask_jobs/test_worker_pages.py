"""Which workers' own pages a scheduler links to: a real one, of whose two workers one says it is elsewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import asyncio, json, re, urllib.error, urllib.request
import hpchub.dask_jobs.patches.import_hook, dask.config
from distributed import Scheduler, Worker, worker
tell = worker.DEFAULT_STARTUP_INFORMATION["hpchub"]

def ask(address):
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            return answer.geturl(), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""

async def main():
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    async with Scheduler(port=0, **here) as scheduler, Worker(scheduler.address, dashboard=True, **here) as near:
        worker.DEFAULT_STARTUP_INFORMATION["hpchub"] = lambda one: {**tell(one), "node": "elsewhere"}
        async with Worker(scheduler.address, **here) as far:
            workers = scheduler.identity()["workers"]
            top = f"http://127.0.0.1:{scheduler.http_server.port}"
            page = (await asyncio.to_thread(ask, f"{top}/info/main/workers.html"))[1]
            links = re.findall(r'href="../../(proxy/.*?)"', page)
            print(json.dumps({
                "near": workers[near.address]["services"] == {"dashboard": near.http_server.port},
                "far": workers[far.address]["services"],
                "listed": [one.address in page for one in (near, far)],
                "links": len(links),
                "leads": [(await asyncio.to_thread(ask, f"{top}/{link}"))[0] for link in links],
                "to": f"http://127.0.0.1:{near.http_server.port}/status",
                "other": (await asyncio.to_thread(ask, f"{top}/proxy/{far.http_server.port}/127.0.0.1/status"))[0],
            }))

dask.config.set({
    "distributed.dashboard.link": "http://{host}:{port}/status",
    "distributed.scheduler.http.routes": ["distributed.http.scheduler.info"],  # as a site has it, without the proxy
})
asyncio.run(main())
"""


def test_a_workers_page_is_linked_on_the_schedulers_node_and_nothing_is_for_a_worker_of_another(tmp_path: Path) -> None:
    variables = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    program = [sys.executable, "-c", CODE]
    done = subprocess.run(
        program, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert (said["near"], said["far"], said["listed"]) == (True, {}, [True, True])
    assert (said["links"], said["leads"]) == (1, [said["to"]])
    assert said["other"] == 404


@pytest.mark.parametrize(
    ("prefix", "path"), [("/", "/proxy/1/h/status"), (None, "/proxy/1/h/status"), ("/a/b/", "/a/b/proxy/1/h/status")]
)
def test_a_page_is_below_the_prefix_of_the_schedulers_own(prefix: str | None, path: str) -> None:
    from hpchub.dask_jobs.patches import worker_pages

    ((pattern, _, _),) = worker_pages.routes(None, prefix)
    found = re.fullmatch(pattern, path)
    assert found is not None
    assert found[1] == "1"
