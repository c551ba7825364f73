"""Run Autobahn cases by kosoku, in a process of its own: kosoku's shims for Python 2 change the process.

``run_cases.py server URL AT-ONCE SECTION…``
    Connects to the echo server at URL, once a case, with ``case=ID`` as the query.
``run_cases.py client SECTION…``
    Is the server that an echo client connects to, once a case, until a line comes on stdin.

Writes two JSON documents, each a line: what will be run, and then the results.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from kosoku import FailureError, run_fuzzingclient, run_fuzzingserver
from kosoku.cases import CASES

if TYPE_CHECKING:
    from collections.abc import Awaitable

LAST_REQUEST = (
    b"GET /updateReports HTTP/1.1\r\nHost: kosoku\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
"""Tells kosoku's server that no more cases come."""


def say(document: object) -> None:
    print(json.dumps(document), flush=True)


def cases_of(sections: list[str]) -> list[str]:
    """Their ids, in the order in which kosoku numbers what it is given."""
    return [case_id for case_id in CASES if case_id.split(".")[0] in sections]


async def results_of(run: Awaitable[list[Any]]) -> list[dict[str, object]]:
    try:
        results = await run
    except FailureError as failure:
        results = failure.results  # all of them
    return [
        {
            "case_id": each.case_id,
            "behavior": each.behavior.value,
            "behavior_close": each.behavior_close.value,
            "why": f"{each.result} {each.result_close}",
            "close_code": each.remote_close_code,
        }
        for each in results
    ]


async def against_server(url: str, at_once: int, sections: list[str]) -> None:
    ids = cases_of(sections)
    say({"cases": ids})
    limiter = asyncio.Semaphore(at_once)

    async def run(case_id: str) -> list[dict[str, object]]:
        async with limiter:
            return await results_of(run_fuzzingclient(f"{url}/?case={case_id}", [case_id]))

    say([result for results in await asyncio.gather(*map(run, ids)) for result in results])


async def against_client(sections: list[str]) -> None:
    ids = cases_of(sections)
    async with run_fuzzingserver(ids, port=0) as server:
        say({"cases": ids, "port": server.port})
        await asyncio.to_thread(sys.stdin.readline)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(LAST_REQUEST)
        await reader.read()
        writer.close()
        say(await results_of(server.get_result()))


def main(role: str, *arguments: str) -> None:
    if role == "server":
        url, at_once, *sections = arguments
        asyncio.run(against_server(url, int(at_once), sections))
    else:
        asyncio.run(against_client(list(arguments)))
    # Not by the front door: kosoku's threads may want Python while it shuts down, and abort the process.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
