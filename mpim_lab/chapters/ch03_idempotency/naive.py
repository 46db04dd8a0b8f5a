"""The naive versions of chapter 3: recognise repeats, almost.

Senders have the interface of `mpim_lab.mq.idempotency.producer.IdempotentProducer`, receivers that
of `mpim_lab.mq.idempotency.store.IdempotencyStore`.

Flaws kept on purpose, one a class:

- `FreshIdSender` makes a new id for each attempt: a repeat after a time-out is another message, and
  nobody can tell;
- `LibrarySender` trusts its library's retries: redis-py sends an XADD that timed out again, and one
  call appends two entries;
- `CheckThenSet` asks whether an id is done, works, and marks it: two workers may both ask before
  either marks;
- `MarkFirst` marks the id and then works: a crash between the two loses the message, for every
  repeat is "done";
- `NoCheck` does whatever comes, as often as it comes.
"""

import contextlib
import inspect
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.exceptions import RedisError

from mpim_lab.errors import CommandTimeout, MpimError
from mpim_lab.events import EventKind
from mpim_lab.mq.connection.encoding import new_message_id
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.idempotency.store import Work
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.stream import Stream

ATTEMPTS = 3


class FreshIdSender:
    """Try again after an error, each time with an id of its own."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send(self, conversation: str, payload: bytes, *, id: str | None = None) -> str:
        """Send; the caller's `id` is not looked at."""
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(MpimError):
                return await self._stream.add({"data": payload, "id": new_message_id()})
        return await self._stream.add({"data": payload, "id": new_message_id()})


class LibrarySender:
    """One call to redis-py, which tries again by itself. The entry carries no id: why should it."""

    def __init__(self, url: str, queue: MessageQueue, name: str, *, timeout_s: float) -> None:
        # Redis(…) tries again by itself, 10 times by default; Redis.from_url(…) of the same
        # redis-py 8.1 does not.
        address: dict[str, Any] = parse_url(url)  # type: ignore[assignment]
        self._client = Redis(**address, protocol=3, socket_timeout=timeout_s)
        self._access = queue.context(name)

    async def send(self, conversation: str, payload: bytes, *, id: str | None = None) -> str:
        """Send once, as far as one can see from here."""
        reporter = self._access.reporter
        reporter.message(EventKind.ACCEPTED, payload, self._access.name)
        try:
            added: Any = await self._client.xadd(self._access.key, {"data": payload})
        except RedisError as error:
            reporter.message(EventKind.FAILED, payload, self._access.name, error=error)
            raise CommandTimeout(str(error)) from error
        reporter.message(EventKind.ADDED, payload, self._access.name)
        return str(added, "ascii")

    async def close(self) -> None:
        """Close redis-py's connections."""
        await self._client.aclose()


class _NaiveDeduplicator:
    """What the naive versions share.

    The effects are commands of their own, run as soon as the work has returned.
    """

    def __init__(self, queue: MessageQueue, scope: str) -> None:
        self._queue, self._link = queue, queue.context(scope).connection
        self._scope = scope

    async def _work(self, work: Work) -> bytes:
        effects = AtomicEffects(self._queue.prefix)
        result: Any = work(effects)
        if inspect.isawaitable(result):
            result = await result
        for command in effects.commands:
            await self._link.call(*command)
        return result or b""

    def _key(self, id: str) -> bytes:
        return self._queue.keys.idempotency_record(f"naive of {self._scope}", id)


class NoCheck(_NaiveDeduplicator):
    """Do the work."""

    async def run(self, id: str, work: Work) -> bytes:
        """Do it, whatever the id."""
        return await self._work(work)


class CheckThenSet(_NaiveDeduplicator):
    """Is it done? No: do it, then say that it is done."""

    async def run(self, id: str, work: Work) -> bytes:
        """Check, work, mark: three steps."""
        if await self._link.call("EXISTS", self._key(id)):
            return b""
        result = await self._work(work)
        await self._link.call("SET", self._key(id), "1", "EX", "86400")
        return result


class MarkFirst(_NaiveDeduplicator):
    """Whoever marks it first does it (SET NX): no two workers, and no second chance."""

    async def run(self, id: str, work: Work) -> bytes:
        """Mark, then work."""
        if await self._link.call("SET", self._key(id), "1", "NX", "EX", "86400") is None:
            return b""
        return await self._work(work)
