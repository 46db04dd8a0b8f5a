"""Membership: one life of one consumer's name.

The name belongs to the latest life, and the one before is told so.

| the life ...                   | then its lease ...         | and its name in the group ...  |
|--------------------------------|----------------------------|--------------------------------|
| leaves in good order, nothing  | is deleted                 | is removed                     |
| pending                        |                            |                                |
| leaves in good order,          | is deleted                 | stays, until whoever claims it |
| something pending              |                            | all                            |
| is followed by one of the same | is that one's; its next    | is that one's                  |
| name                           | heartbeat says so          |                                |
| dies, or cannot reach the      | ends after `LEASE_MS`      | stays, until whoever claims it |
| server                         |                            | all                            |
| finds that the server has lost | is taken again by the next | comes back with its next read  |
| it                             | heartbeat                  |                                |
"""

from collections.abc import Sequence

from mpim_lab.errors import CommandRejected
from mpim_lab.keys import Name, name_bytes
from mpim_lab.mq.connection.encoding import new_message_id
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.streams.entries import Delivery, raw_ids
from mpim_lab.mq.streams.group import MAX_IDS, ConsumerGroup, with_delivery_counts

LEASE_MS = 10_000
HEARTBEAT = LuaScript("mq/streams/lua/own_entries.lua", "mq/streams/lua/heartbeat.lua")
LEAVE = LuaScript("mq/streams/lua/leave.lua")


class Membership:
    """The lease on a consumer's name, renewed by `beat`.

    Raises what `ReconnectingConnection` raises.
    """

    def __init__(self, group: ConsumerGroup, consumer: Name) -> None:
        self._group = group
        self._name = name_bytes(consumer, "consumer")
        self._commands = group.context.connection
        self._key, self._incarnation = self._lease_key(consumer), new_message_id()
        self.owns_name = True
        self.has_joined = False  # the server has answered `begin`

    def _lease_key(self, consumer: Name) -> bytes:
        access = self._group.context
        return access.keys.consumer_lease(access.key, self._group.raw_name, consumer)

    async def join(self, client_id: int) -> bool:
        """Take the name.

        Gives False if an earlier life may still be at work, whose entries are not ours to take yet.

        After an error it may be tried again; if it had got through, who had the name before is not
        known any more.
        """
        words = ("SET", self._key, f"{client_id} {self._incarnation}", "PX", str(LEASE_MS), "GET")
        before = await self._commands.call(*words)
        earlier, _, life = (before or b"").partition(b" ")
        is_alone = not before or (
            life != self._incarnation.encode() and not await self._is_connected(earlier)
        )
        self.has_joined = True
        return is_alone

    async def _is_connected(self, client_id: bytes) -> bool:
        try:
            return bool((await self._commands.call("CLIENT", "LIST", "ID", client_id)).strip())
        except CommandRejected:  # who is connected we may not ask
            return True

    async def heartbeat(self, client_id: int, in_flight: Sequence[Delivery]) -> list[Delivery]:
        """Give a sign of life.

        Gives what is not ours any more: acknowledged, trimmed, or claimed by somebody else.

        After it `has_name` says whether no later life has taken the name; what is in flight is kept
        all the same.
        """
        gone: list[Delivery] = []
        for first in range(0, max(1, len(in_flight)), MAX_IDS):
            some = in_flight[first : first + MAX_IDS]
            words = (
                self._incarnation,
                str(client_id),
                str(LEASE_MS),
                self._group.raw_name,
                self._name,
                *with_delivery_counts(some),
            )
            self.owns_name, *known = await HEARTBEAT.run(
                self._commands, [self._key, self._group.context.key], *words
            )
            if known:
                self._group.record_delivered(known[0])
                kept = set(known[1])
                gone += [
                    held
                    for raw_id, held in zip(raw_ids(some), some, strict=True)
                    if raw_id not in kept
                ]
        return gone

    async def leave(self) -> None:
        """Give the name up.

        It is removed from the group if it has nothing pending, and no later life.
        """
        await self._run_leave(self._key, self._name, self._incarnation)

    async def remove(self, consumer: Name) -> None:
        """Remove the name of another consumer without a lease, if nothing of it is left."""
        await self._run_leave(self._lease_key(consumer), name_bytes(consumer), "")

    async def _run_leave(self, key: bytes, consumer: bytes, life: str) -> None:
        await LEAVE.run(
            self._commands, [key, self._group.context.key], self._group.raw_name, consumer, life
        )
