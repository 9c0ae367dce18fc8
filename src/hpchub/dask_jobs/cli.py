"""`hpchub dask` in a terminal: what Dask is set to and by whom; why workers do not come; more workers or fewer."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import dask
import dask.config
import yaml
from distributed.core import rpc
from distributed.security import Security

from hpchub.dask_jobs import session

SHOWN_CHARS = 60
ANSWER_SECONDS = 20.0


class Nothing(Exception):
    """What was asked for cannot be done; the text says what to do."""


def main(choice: argparse.Namespace) -> int:
    """The exit status."""
    try:
        if choice.action == "scale":
            print(scale(choice.workers, choice.cluster))
        elif choice.action == "why":
            for address in addresses():
                print(f"{address}: {ask(address, 'hpchub_why')}")
        else:
            for line in config(choice.key):
                print(line)
    except Nothing as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


# -- running clusters


def addresses() -> list[str]:
    """The schedulers of all clusters in this session, or by ssh on this node. Raises Nothing if there is none."""
    found = [address for one in session.running() for address in one.addresses]
    if not found:
        raise Nothing("No cluster of Dask jobs of yours runs here. Make one in a notebook, or in the Lab's Dask panel.")
    return found


def scale(workers: list[int], cluster: str) -> str:
    """Scale a cluster, the only one if it is not named. Gives its answer; raises Nothing."""
    if len(workers) > 2 or min(workers) < 0 or workers != sorted(workers):
        raise Nothing("Give one number of workers, or the least and the most.")
    known = addresses()
    if cluster and cluster not in known:
        raise Nothing(f"No cluster at {cluster}. There are: {', '.join(known)}.")
    if not cluster and len(known) > 1:
        raise Nothing(f"Which cluster? Add --cluster and one of: {', '.join(known)}.")
    limits = dict(zip(("minimum", "maximum"), workers, strict=False))
    return ask(cluster or known[0], "hpchub_scale", **limits)


def ask(address: str, what: str, **values: int) -> str:
    """What the cluster of a scheduler answers, over TLS with the user's own key. Raises Nothing."""

    async def answer() -> str:
        connect: Any = rpc
        async with connect(address, connection_args=_client_arguments()) as scheduler:
            return str(await getattr(scheduler, what)(**values))

    try:
        return asyncio.run(asyncio.wait_for(answer(), ANSWER_SECONDS))
    except (OSError, TimeoutError) as error:
        raise Nothing(f"The scheduler at {address} does not answer: {error or 'time is over'}.") from None


def _client_arguments() -> object:
    security: Any = Security
    return security().get_connection_args("client")


# -- configuration


def config(prefix: str) -> Iterator[str]:
    """Lines of each effective value and where it came from; without a prefix cut short, and without Dask's defaults."""
    import_module("dask_jobqueue")  # brings its defaults

    origins: dict[str, str] = {}
    for name, content in sources():
        origins |= dict.fromkeys(leaves(content), name)
    keys = sorted(origins.keys() | (set(leaves(dask.config.config)) if prefix else set()))
    for key in keys:
        if key.startswith(prefix.replace("_", "-")):
            text = shown(dask.config.get(key, None), None if prefix else SHOWN_CHARS)
            yield f"{key} = {text}    {origins.get(key, 'default of Dask')}"


def sources() -> Iterator[tuple[str, Mapping[str, object]]]:
    """What Dask reads, the strongest last: its name and content."""
    root, private = os.environ.get("DASK_ROOT_CONFIG", "/etc/dask"), Path.home().resolve()
    for directory in map(Path, dask.config.paths):
        for file in sorted(directory.glob("*")) if directory.is_dir() else [directory]:
            if file.suffix.lower() not in (".json", ".yaml", ".yml") or not file.is_file():
                continue
            if str(directory) == root:
                kind = "session" if file.name == "zz-session.yaml" else "site"
            else:
                kind = "environment" if str(directory).startswith(sys.prefix) else "site"
                kind = "user" if file.resolve().is_relative_to(private) else kind
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            if isinstance(content, Mapping):
                yield f"{kind}: {file}", content
    for name in sorted(os.environ):
        if name.startswith("DASK_"):
            yield f"variable: {name}", dask.config.collect_env({name: os.environ[name]})


def leaves(tree: Mapping[str, object], above: str = "") -> Iterator[str]:
    """The full keys of all values, with hyphens, as Dask takes both."""
    for key, value in tree.items():
        name = f"{above}{str(key).replace('_', '-')}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{name}.")
        else:
            yield name


def shown(value: object, most: int | None) -> str:
    """A value on one line, of at most so many characters; None is no limit."""
    text = " ".join(str(value).split())
    return text if most is None or len(text) <= most else f"{text[: most - 3]}..."
