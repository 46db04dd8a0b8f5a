"""Backlog: what a group has not finished, of a stream or of its partitions."""

from typing import Any

from mpim_lab.chapters.shared.designs import GROUP, STREAM, partitioned
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.group import ConsumerGroup


class Backlog:
    """Counted on the server, over the lab's own connection."""

    def __init__(self, queue: MessageQueue, is_partitioned: bool) -> None:
        self._queue, self._link = queue, queue.access(STREAM).commands
        self._partitions = partitioned(queue) if is_partitioned else None
        self._group = ConsumerGroup(queue.access(STREAM), GROUP)

    async def create(self) -> None:
        """Make the group, where there is one."""
        if self._partitions is None:
            await self._group.create()

    async def count(self) -> int:
        """How many entries are unfinished: nobody was given them, or they are pending."""
        return len(await self._unfinished())

    async def payloads(self) -> list[bytes]:
        """Their payloads."""
        return [parts[parts.index(b"data") + 1] for _, parts in await self._unfinished()]

    async def _unfinished(self) -> list[Any]:
        if self._partitions is None:
            return await self._of_the_group()
        found = []
        for key, seat in zip(self._partitions.keys, self._partitions.seat_keys(GROUP)[1:], strict=True):
            offset = await self._link.call("HGET", seat, "offset") or b"0"
            found += await self._link.call("XRANGE", key, b"(" + offset, "+")
        return found

    async def _of_the_group(self) -> list[Any]:
        """New ones are asked for first: what is handed out meanwhile is seen twice rather than not at all."""
        key = self._group.access.key
        (group,) = await self._link.call("XINFO", "GROUPS", key)
        pending = {line.id.encode() for line in await self._group.pending(count=10_000)}
        found = dict(await self._link.call("XRANGE", key, b"(" + group[b"last-delivered-id"], "+"))
        if pending:
            oldest = min(pending, key=lambda name: tuple(map(int, name.split(b"-"))))
            found |= {raw: parts for raw, parts in await self._link.call("XRANGE", key, oldest, "+") if raw in pending}
        return list(found.items())
