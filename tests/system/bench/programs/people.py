"""People at a hub, as their browsers: they sign in, start a server, follow its progress and open the Lab.

`people.py VERB` reads a JSON object of the verb's arguments from standard input and prints a JSON object.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import floor
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, CookieJar, TCPConnector
from yarl import URL

PATIENCE = ClientTimeout(total=600)
BROWSER = {"User-Agent": "Mozilla/5.0", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin"}
SCRIPT = {**BROWSER, "Sec-Fetch-Mode": "cors"}
OPEN_AT_ONCE, AT_ONCE = 6, 40
"""So many people are busy at once before anything is measured."""


@dataclass
class Person:
    """One person with a browser of their own.

    `pages` holds how long each page of the hub took, in seconds, and `forms` the same of forms that start a server:
    JupyterHub keeps their answer back for up to a second, to see whether the start is refused.
    """

    session: ClientSession
    url: str
    name: str
    pages: list[float] = field(default_factory=list)
    forms: list[float] = field(default_factory=list)

    @property
    def xsrf(self) -> str:
        """What the hub's forms carry."""
        cookies = self.session.cookie_jar.filter_cookies(URL(f"{self.url}/hub/"))
        return cookies["_xsrf"].value if "_xsrf" in cookies else ""

    async def page(self, path: str, form: Mapping[str, str] | None = None) -> tuple[str, str]:
        """Ask for a page, or send its form; gives where it leads to, or its text. Raises RuntimeError if it fails."""
        began = time.monotonic()
        method = "GET" if form is None else "POST"
        data = None if form is None else {"_xsrf": self.xsrf, **form}
        address = URL(self.url + path, encoded=True)
        async with self.session.request(method, address, data=data, headers=BROWSER, allow_redirects=False) as answer:
            text = await answer.text()
        if path.startswith("/hub/"):
            kind = self.forms if form is not None and path == "/hub/spawn" else self.pages
            kind.append(time.monotonic() - began)
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[-2000:]}")
        where = answer.headers.get("Location", "")
        return URL(where, encoded=True).raw_path_qs if where else "", text

    async def api(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Ask the REST API as the pages' scripts do."""
        headers = {**SCRIPT, "X-XSRFToken": self.xsrf}
        async with self.session.request(method, f"{self.url}/hub/api{path}", json=body, headers=headers) as answer:
            text = await answer.text()
        return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    async def sign_in(self, password: str) -> None:
        """By the login page."""
        await self.page("/hub/login")
        await self.page("/hub/login", {"username": self.name, "password": password})
        await self.page("/hub/home")  # brings the cookie for forms of somebody who is signed in

    async def start(self, options: Mapping[str, str], server: str = "") -> None:
        """By the REST API, without waiting for it."""
        where = f"/users/{self.name}/servers/{server}" if server else f"/users/{self.name}/server"
        status, answer = await self.api("POST", where, {"user_options": options})
        if status not in (201, 202):
            raise RuntimeError(f"{self.name} gets no server: {status} {answer}")

    async def start_by_form(self, wish: Mapping[str, str]) -> None:
        """As people do."""
        await self.page("/hub/spawn")
        where, text = await self.page("/hub/spawn", wish)
        if not where:
            raise RuntimeError(f"{self.name}: the form came back: {re.sub('<[^>]*>', ' ', text)[-2000:]}")
        await self.page(f"/hub/spawn-pending/{self.name}")

    async def ready(self, seconds: float = 300) -> None:
        """Follow the progress, as the pending page does, until the server is there. Raises RuntimeError if it fails."""
        async with asyncio.timeout(seconds):
            async with self.session.get(
                f"{self.url}/hub/api/users/{self.name}/server/progress?_xsrf={self.xsrf}", headers=SCRIPT
            ) as answer:
                await self._until_ready(answer)

    async def _until_ready(self, answer: ClientResponse) -> None:
        async for line in answer.content:
            if line.startswith(b"data:"):
                event = json.loads(line[5:])
                if event.get("ready"):
                    return
                if event.get("failed"):
                    raise RuntimeError(f"{self.name}: {event['message']}")
        raise RuntimeError(f"{self.name}: {answer.status}, and no word of the server")

    async def open_lab(self) -> None:
        """Its page, by way of the hub, which tells the Lab who comes."""
        path = f"/user/{self.name}/lab"
        for _ in range(8):
            where, text = await self.page(path)
            if not where:
                assert "jupyter-config-data" in text, text[:500]
                return
            path = where
        raise RuntimeError(f"{self.name} is sent round in circles: {path}")

    async def stop(self) -> None:
        """Stop the server and wait until it is gone."""
        await self.api("DELETE", f"/users/{self.name}/server")
        while (await self.api("GET", f"/users/{self.name}"))[1]["servers"]:
            await asyncio.sleep(1)


@asynccontextmanager
async def person(url: str, name: str) -> AsyncIterator[Person]:
    """Somebody who opens a browser. The hub's certificate is not looked at."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connector = TCPConnector(ssl=context)
    async with ClientSession(connector=connector, cookie_jar=CookieJar(unsafe=True), timeout=PATIENCE) as session:
        yield Person(session, url, name)


async def clicks(
    hubs: dict[str, dict[str, Any]], floor_user: str, rounds: int, idle_seconds: float
) -> dict[str, list[float]]:
    """Seconds from Start to the Lab's page at each hub, and the floor, in turn, after a round that does not count."""
    found: dict[str, list[float]] = {"floor": [], "dispatch": []}
    async with AsyncExitStack() as stack:
        browsers = {}
        for name, hub in hubs.items():
            browsers[name] = await stack.enter_async_context(person(hub["url"], hub["user"]))
            await browsers[name].sign_in(hub["password"])
            stack.push_async_callback(browsers[name].stop)
            await browsers[name].stop()
        for _ in range(rounds + 1):
            dispatch, lab = await floor.measure(floor_user)
            found["dispatch"].append(dispatch)
            found["floor"].append(dispatch + lab)
            for name, somebody in browsers.items():
                await asyncio.sleep(idle_seconds)  # an idle cluster, and a hub that has just done nothing
                began = time.monotonic()
                await somebody.start(hubs[name]["options"])
                await somebody.ready()
                found.setdefault(f"{name} ready", []).append(time.monotonic() - began)
                await somebody.open_lab()
                found.setdefault(name, []).append(time.monotonic() - began)
                await somebody.stop()
    return {name: seconds[1:] for name, seconds in found.items()}


async def crowd(url: str, names: list[str], options: dict[str, str], wait: bool) -> dict[str, int]:
    """All of `names` start a server, a few at a time; with `wait` each stays until it is there."""
    turns = asyncio.Semaphore(OPEN_AT_ONCE)

    async def begin(name: str) -> None:
        async with turns, person(url, name) as somebody:
            await somebody.sign_in("-")
            starting = asyncio.ensure_future(somebody.start(options))
            await asyncio.wait([starting], timeout=None if wait else 2)  # JupyterHub answers after ten seconds
            if wait:
                await starting
                await somebody.ready()

    await asyncio.gather(*map(begin, names))
    return {"started": len(names)}


async def rush(
    url: str, early: list[str], late: list[str], wish: dict[str, str], seconds: float, visits_per_second: float
) -> dict[str, Any]:
    """`early` have servers; then `late` sign in and start theirs within so many seconds, while others look around."""
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        turns = asyncio.Semaphore(AT_ONCE)

        async def come(name: str) -> Person:
            async with turns:
                somebody = await stack.enter_async_context(person(url, name))
                await session(somebody, wish)
            return somebody

        there = await asyncio.gather(*(come(name) for name in early))
        warmed = time.monotonic() - began
        await asyncio.sleep(10)

        pages: list[float] = []
        forms: list[float] = []
        starts: list[float] = []
        failed: list[str] = []

        async def arrive(number: int, name: str) -> None:
            await asyncio.sleep(number * seconds / len(late))
            somebody = await stack.enter_async_context(person(url, name))
            somebody.pages, somebody.forms = pages, forms
            begin = time.monotonic()
            try:
                await session(somebody, wish)
                starts.append(time.monotonic() - begin)
            except (RuntimeError, AssertionError, TimeoutError, ClientError) as error:
                failed.append(f"{type(error).__name__} {error}")

        async def look_around() -> None:
            for number in range(int(seconds * visits_per_second)):
                somebody = there[number * 7 % len(there)]
                somebody.pages = pages
                visits.append(asyncio.ensure_future(somebody.page("/hub/home")))
                await asyncio.sleep(1 / visits_per_second)

        visits: list[asyncio.Future[Any]] = []
        await asyncio.gather(look_around(), *(arrive(*one) for one in enumerate(late)))
        failed += [
            str(done) for done in await asyncio.gather(*visits, return_exceptions=True) if not isinstance(done, tuple)
        ]
    return {"warm": warmed, "pages": pages, "forms": forms, "starts": starts, "failed": failed}


async def session(somebody: Person, wish: dict[str, str]) -> None:
    """From the login page to the Lab."""
    await somebody.sign_in("-")
    await somebody.start_by_form(wish)
    await somebody.ready()
    await somebody.open_lab()


VERBS = {"clicks": clicks, "crowd": crowd, "rush": rush}

if __name__ == "__main__":
    print(json.dumps(asyncio.run(VERBS[sys.argv[1]](**json.load(sys.stdin)))))
