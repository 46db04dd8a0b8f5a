"""Chapter 3's cost: messages handled a second, by how their repeats are recognised."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from mpim_lab.chapters.ch03_idempotency.naive import CheckThenSet, NoCheck
from mpim_lab.events import now
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.mq.connection.bounds import check_bounds
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from mpim_lab.mq.idempotency.sql_inbox import SqlInbox
from mpim_lab.mq.idempotency.store import IdempotencyStore
from mpim_lab.mq.pubsub.queue import MessageQueue

Run = Callable[[str], Awaitable[object]]
# A transaction costs so much more that a twentieth of the messages says it all.
SQL_SHARE = 20
WAYS = {"no check": NoCheck, "check then set": CheckThenSet, "claim, then finish": IdempotencyStore}


async def throughput_by_tasks(tasks: Sequence[int], *, messages: int = 4_000) -> pd.DataFrame:
    """Measure each way with so many messages in flight: one row each, yours, now."""
    check_bounds(1, 10_000, tasks=tasks)
    check_bounds(SQL_SHARE, 10_000_000, messages=messages)
    rows = []
    async with open_server() as server, MessageQueue(server.url, prefix=server.prefix) as mq:
        for count in tasks:
            for way, kind in WAYS.items():
                once: Any = kind(mq, f"{way} {count}")
                rate = await _measure(partial(once.run, work=_book), count, messages)
                rows.append((count, way, rate))
            async with SqlDatabase("sqlite+aiosqlite://") as database:
                run = partial(SqlInbox(database, "cost").run, work=_book_in_sql)
                rate = await _measure(run, count, messages // SQL_SHARE)
                rows.append((count, "SQL inbox, in memory", rate))
    return pd.DataFrame(rows, columns=["in flight", "way", "handled per second"])


def _book(effects: AtomicEffects) -> None:
    effects.add("INCR", "booked")


async def _book_in_sql(connection: object) -> bytes:
    return b""


async def _measure(run: Run, tasks: int, messages: int) -> float:
    ids = iter(range(messages))

    async def one() -> None:
        for number in ids:
            await run(f"m{number}")

    begun = now()
    await asyncio.gather(*(one() for _ in range(tasks)))
    return messages / (now() - begun)
