"""Ten thousand tasks over sixteen connections to three servers that are killed and paused."""

import asyncio
import contextlib
import random
import shutil
from collections import Counter

import pytest
import uvloop

from mpim_lab.errors import CommandTimeout, ConnectionLost, NotConnected
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pool.pool import Pool
from tests.conftest import SERVERS, missing
from tests.pools import connections, kept
from tests.support import wait_until

TASKS, CONNECTIONS, FAULTS = 10_000, 16, 12


async def ask(connection, kind, token):
    """One piece of work, whose answer nobody else may get; gives what must be `token`."""
    if kind == "echo":
        return await connection.call("ECHO", token)
    if kind == "keep":
        await connection.call("SET", f"k{token}", token)
        return await connection.call("GET", f"k{token}")
    if kind == "transaction":
        *_, kept_value = await connection.transaction(
            [("SET", f"t{token}", token), ("GET", f"t{token}")]
        )
        return kept_value
    if kind == "gives up":
        async with asyncio.timeout(0.002):
            await connection.call("BLPOP", f"never{token}", 5)
    await connection.call("RPUSH", f"l{token}", token)
    _, popped = await connection.call("BLPOP", f"l{token}", 1)
    return popped


class Crowd:
    """The tasks, and what became of each.

    Its answer was right, or a named error, or it was cancelled on purpose.
    """

    def __init__(self, pool, seed):
        self.pool, self.chance = pool, random.Random(seed)
        self.outcomes, self.wrong, self.places = Counter(), [], []

    async def one(self, number, kind, patience_s):
        token = f"{number:05}"
        try:
            async with asyncio.timeout(patience_s), self.pool.connection() as connection:
                ticket = connection.ticket
                self.places.append((ticket.acquired_at, ticket.requested_at, number))
                answer = await ask(connection, kind, token)
                if answer != token.encode():
                    self.wrong.append((token, answer))
                self.outcomes["right"] += 1
        except TimeoutError:
            self.outcomes["cancelled"] += 1
        except (NotConnected, ConnectionLost, CommandTimeout) as error:
            self.outcomes[type(error).__name__] += 1

    async def all(self):
        kinds = self.chance.choices(
            ["echo", "keep", "transaction", "list", "gives up"], [10, 10, 10, 10, 1], k=TASKS
        )
        # Every tenth loses patience, at any moment: while it waits, connects or is in the middle of
        # a reply
        patience = [
            self.chance.uniform(0.0, 2.0) if self.chance.random() < 0.1 else None
            for _ in range(TASKS)
        ]
        await asyncio.gather(
            *(self.one(number, kinds[number], patience[number]) for number in range(TASKS))
        )


async def break_things(servers, crowd):
    """Kill and start, or pause and resume, one server after the other.

    Each when so many tasks are done.
    """
    for fault in range(FAULTS):
        due = (fault + 1) * TASKS // (FAULTS + 2)
        await wait_until(lambda due=due: crowd.outcomes.total() >= due, within_s=30)
        server = servers[fault % len(servers)]
        if fault % 4 == 3:
            server.pause()
            await asyncio.sleep(0.5)
            server.resume()
        else:
            server.kill()
            await server.start()


async def look_at_all(pool):
    """Borrow each idle connection once.

    What a late fault has ended is found, as it would be at its next use.
    """
    for url in pool.stats().servers:
        await wait_until(lambda url=url: not pool.stats().servers[url].is_circuit_open)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(pool.stats().servers[url].idle):
                await stack.enter_async_context(pool.connection(server=url))


async def run(binary, seed):
    servers = [EmbeddedServer(binary) for _ in range(3)]
    try:
        for server in servers:
            await server.start()
        options = {
            "max_connections": CONNECTIONS,
            "max_waiting": TASKS,
            "acquire_timeout_s": 30.0,
            "call_timeout_s": 0.3,
        }
        options |= {
            "connect_timeout_s": 2.0,
            "check_idle_after_s": 0.02,
            "backoff": Backoff(initial_s=0.005, max_s=0.05),
        }
        async with Pool([server.url for server in servers], **options) as pool:
            crowd = Crowd(pool, seed)
            await asyncio.gather(crowd.all(), break_things(servers, crowd))
            await look_at_all(pool)
            figures = pool.stats()
            await asyncio.sleep(0.05)  # what was closed last is closed on the server, too
            open_there = [await connections(server.url) for server in servers]
            return crowd, figures, open_there
    finally:
        for server in servers:
            await server.stop()


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", list(SERVERS))
def test_nothing_leaks_nobody_hangs_and_nobody_gets_anothers_answer(kind, loop):
    """Each task ends, with its own answer or a named error.

    Places go first come, first served; the counts agree.
    """
    binary = SERVERS[kind]
    if binary is not None and shutil.which(binary) is None:
        missing(f"{binary} is not installed: the same test ran on the embedded Valkey")
    crowd, figures, open_there = loop(asyncio.wait_for(run(binary, seed=7), 100))
    print(dict(crowd.outcomes), figures)
    assert crowd.wrong == []
    assert crowd.outcomes.total() == TASKS
    assert crowd.outcomes["right"] > TASKS * 0.7 and crowd.outcomes["cancelled"] > 0
    assert kept(figures) and (
        figures.waiting,
        figures.timed_out,
        figures.refused,
        figures.overdue,
    ) == (0, 0, 0, ())
    assert figures.idle <= CONNECTIONS
    assert figures.opened > CONNECTIONS  # servers did die, and connections were replaced
    assert sorted(server.idle for server in figures.servers.values()) == sorted(open_there)
    assert [number for *_, number in sorted(crowd.places)] == sorted(
        number for *_, number in crowd.places
    )
