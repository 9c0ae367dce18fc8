"""Run as the hub's account on the login node: the login helper is asked the same thing by several at once.

Standard input: {"parallel": N, "rounds": [[{"user", "password"}, ...], ...]}: the requests of a round go out together,
each from `parallel` connections. Standard output: for each round the results of all its connections.
"""

import asyncio
import json
import sys

SOCKET = "/run/hpchub-login.sock"


async def ask(request: dict[str, str]) -> str:
    reader, writer = await asyncio.open_unix_connection(SOCKET)
    writer.write(json.dumps({**request, "rhost": "192.0.2.1"}).encode() + b"\n")
    answer = json.loads(await reader.readline())
    writer.close()
    return str(answer["result"])


async def main() -> None:
    order = json.load(sys.stdin)
    for together in order["rounds"]:
        print(json.dumps(await asyncio.gather(*(ask(one) for one in together for _ in range(order["parallel"])))))


asyncio.run(main())
