"""Reference solutions of chapter 3's challenges."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.chapters.ch03_idempotency.challenges import Command, LearnerStore

FINISH = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for _, command in ipairs(cjson.decode(ARGV[2])) do redis.call(unpack(command)) end
redis.call('SET', KEYS[1], 'done', 'EX', 86400)
return 1
"""


class LeasedRecord:
    """The solution of `do_it_once`: an idempotency record that is claimed with a lease, then done."""

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
    """The solution of `survive_the_zombie`: a token in the record, and one script that checks it and runs the effects."""

    script = FINISH

    def __init__(self, store: LearnerStore) -> None:
        self.store = store

    async def run(self, id: str, work: Callable[[], Awaitable[list[Command]]]) -> None:
        """Acquire the lease under a token of one's own, then have effects and record written atomically."""
        key = self.store.key(id)
        while await self.store.call("GET", key) != b"done":
            token = uuid.uuid4().hex
            if await self.store.call("SET", key, token, "NX", "PX", self.store.lease_ms) is None:
                await asyncio.sleep(0.01)  # another worker's: it is asked again
            else:
                await self.finish(key, token, await work())  # 0: the lease ran out, so again

    async def finish(self, key: bytes, token: str, commands: list[Command]) -> None:
        """Run the payment's commands and the record's in one script, if the token still stands."""
        words = [[_text(word) for word in command] for command in commands]
        keys = [command[1] for command in words]
        await self.store.call(
            "EVAL", self.script, 1 + len(keys), key, *keys, token, json.dumps(words)
        )


def _text(word: Any) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


SOLUTIONS: dict[str, type[Any]] = {"do_it_once": LeasedRecord, "survive_the_zombie": FencedRecord}
