"""Reference solutions of chapter 3's challenges."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.chapters.ch03_idempotency.challenges import LearnerStore
from mpim_lab.mq.idempotency.effects import Command

FINISH = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call(ARGV[2], KEYS[2], unpack(ARGV, 3))
redis.call('SET', KEYS[1], 'done', 'EX', 86400)
return 1
"""


class LeasedRecord:
    """The solution of `do_it_once`: a record that is claimed with a lease, then done."""

    def __init__(self, store: LearnerStore) -> None:
        self.store = store

    async def run(self, id: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Do the work once for each id; wait while another worker holds the lease."""
        key = self.store.key(id)
        lease = ("NX", "PX", self.store.lease_ms)
        while await self.store.call("SET", key, "claimed", *lease) is None:
            if await self.store.call("GET", key) == b"done":
                return
            await asyncio.sleep(0.01)
        await work()
        await self.store.call("SET", key, "done", "EX", 86_400)


class FencedRecord:
    """The solution of `survive_the_zombie`: a token in the record.

    One script checks it and runs the effects.
    """

    script = FINISH

    def __init__(self, store: LearnerStore) -> None:
        self.store = store

    async def run(self, id: str, work: Callable[[], Awaitable[list[Command]]]) -> None:
        """Acquire the lease under a token, then write effects and record in one atomic step."""
        key, token = self.store.key(id), uuid.uuid4().hex
        while await self.store.call("SET", key, token, "NX", "PX", self.store.lease_ms) is None:
            if await self.store.call("GET", key) == b"done":
                return
            await asyncio.sleep(0.01)
        await self.finish(key, token, await work())

    async def finish(self, key: bytes, token: str, commands: list[Command]) -> None:
        """Run the payment's command and the record's in one script, if the token still stands."""
        for name, target, *words in commands:
            await self.store.call("EVAL", self.script, 2, key, target, token, name, *words)


SOLUTIONS: dict[str, type[Any]] = {"do_it_once": LeasedRecord, "survive_the_zombie": FencedRecord}
