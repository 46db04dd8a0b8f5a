"""Stream: a log that keeps what it was given, until it is trimmed.

Producers append, consumers read from an id.

What a group of consumers does with it, acknowledgements and all, is in `groups.py`.

Source: https://valkey.io/topics/streams-intro/ (entries, ids, trimming)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpim_lab.errors import (
    ConnectionLost,
    InvalidMessage,
    InvalidParameter,
    MpimError,
    NotConnected,
    PartlyAdded,
    QueueClosed,
)
from mpim_lab.events import EventKind, shown_name
from mpim_lab.keys import Name, name_bytes
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.context import StreamContext
from mpim_lab.mq.connection.encoding import encode_payload, reject_single_payload
from mpim_lab.mq.connection.reconnecting import call_many
from mpim_lab.mq.streams.entries import DATA, Entry, parse_entries, parse_entry
from mpim_lab.mq.streams.group import ConsumerGroup

Payload = bytes | str | Mapping[str, bytes | str]


class Stream:
    """One stream of a queue: `mq.stream("orders")`.

    `max_entries`: trim to about so many while adding (whole blocks of the server's, so a few
    hundred more may stay). Raises what `ReconnectingConnection` raises; look at the error's
    `definite`.
    """

    def __init__(
        self,
        access: StreamContext,
        *,
        max_payload_bytes: int = 1024 * 1024,
        max_entries: int | None = None,
    ) -> None:
        check_whole(max_entries=1 if max_entries is None else max_entries)
        self.name, self.key = shown_name(access.name), access.key
        self._context, self._commands = access, access.connection
        self.reporter = self._reporter = access.reporter
        self._is_reporting = access.reporter.is_on
        self.max_payload_bytes = self._max_bytes = max_payload_bytes
        self._prefix = count, head = _xadd_prefix(self.key, max_entries)
        # What every XADD of a payload begins with, made once
        self._data_prefix = b"*%d\r\n%b$1\r\n*\r\n$4\r\ndata\r\n$" % (count + 3, head)

    # Producing

    async def add(self, payload: Payload, *, id: str | None = None) -> str:
        """Append an entry and give its id.

        A payload goes into the field "data"; a mapping gives the fields.

        id: chosen by the caller instead of the server; it must be above the last one, so that
        adding the same id again after a time-out is refused and not appended twice. Raises
        InvalidMessage, CommandRejected.
        """
        if type(payload) is bytes and id is None and len(payload) <= self._max_bytes:
            told, command = payload, b"%b%d\r\n%b\r\n" % (self._data_prefix, len(payload), payload)
        else:
            told, command = self._encode(payload, id)
        if self._is_reporting:
            return await self._add_reporting(told, command)
        connection = self._commands.connection
        if connection.is_blocked:
            connection = await self._commands.acquire_slot()
        added: bytes = await connection.send(command)
        return added.decode()

    async def _add_reporting(self, first_value: bytes, command: bytes) -> str:
        self._reporter.message(EventKind.ACCEPTED, first_value, self.name)
        try:
            connection = self._commands.connection
            if connection.is_blocked:
                connection = await self._commands.acquire_slot()
            added: bytes = await connection.send(command)
        except Exception as error:
            self._report_outcome(first_value, error)
            raise
        self._report_outcome(first_value, added)
        return added.decode()

    async def add_many(self, payloads: Iterable[Payload]) -> list[str]:
        """Append many and give their ids, in order.

        One write and one round trip, as far as the limits allow.

        All are checked before anything is sent. They are so many commands, not one: other
        producers' entries may come between them, and some may fail while others do not. Then it
        raises PartlyAdded, which says which; if nothing was written at all, what
        `ReconnectingConnection` raises. Raises InvalidMessage.
        """
        reject_single_payload(payloads)
        packed = [self._encode(payload, None) for payload in payloads]
        if self._is_reporting:
            for told, _ in packed:
                self._reporter.message(EventKind.ACCEPTED, told, self.name)
        try:
            outcomes = await call_many(self._commands, [command for _, command in packed])
        except Exception as error:
            for told, _ in packed:
                self._report_outcome(told, error)
            raise
        if self._is_reporting:
            for (told, _), outcome in zip(packed, outcomes, strict=True):
                self._report_outcome(told, outcome)
        return _ids_or_raise(outcomes)

    async def add_available(self, payloads: Sequence[bytes]) -> list[str | MpimError]:
        """Append the first of many, as many as one write has room for.

        Gives an id or an error for each of those.

        Nothing is checked and nothing reported: that is done by whoever gathered them. Raises what
        `ReconnectingConnection.acquire_slot` raises.
        """
        head, connection = self._data_prefix, self._commands.connection
        commands = [b"%b%d\r\n%b\r\n" % (head, len(payload), payload) for payload in payloads]
        if connection.is_blocked:
            connection = await self._commands.acquire_slot()
        outcomes = connection.send_many(commands)
        connection.flush()
        return [
            outcome if isinstance(outcome, MpimError) else outcome.decode()
            for outcome in await outcomes
        ]

    def _report_outcome(self, first_value: bytes, outcome: bytes | Exception) -> None:
        if isinstance(outcome, bytes):
            self._reporter.message(EventKind.ADDED, first_value, self.name, detail=outcome.decode())
        else:
            self._reporter.message(EventKind.FAILED, first_value, self.name, error=outcome)

    def _encode(self, payload: Payload, id: str | None) -> tuple[bytes, bytes]:
        """The first field's value, by which a trace knows the entry, and the command."""
        if isinstance(payload, Mapping) or id is not None:
            return self._encode_fields(
                payload if isinstance(payload, Mapping) else {DATA: payload}, id
            )
        told = encode_payload(payload, self._max_bytes)
        return told, b"%b%d\r\n%b\r\n" % (self._data_prefix, len(told), told)

    def _encode_fields(
        self, fields: Mapping[str, bytes | str], id: str | None
    ) -> tuple[bytes, bytes]:
        packed = [encode_payload(part, self._max_bytes) for pair in fields.items() for part in pair]
        if not packed:
            raise InvalidMessage("an entry has at least one field")
        count, head = self._prefix
        name = b"*" if id is None else name_bytes(id, "entry id")
        parts = b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in packed])
        command = b"*%d\r\n%b$%d\r\n%b\r\n%b" % (
            count + 1 + len(packed),
            head,
            len(name),
            name,
            parts,
        )
        return packed[1], command

    # Reading without a group

    async def read(self, after: str = "0", *, count: int = 100) -> list[Entry]:
        """Entries above the id `after`, oldest first; at most `count`.

        An empty list: there are none yet.
        """
        check_whole(count=count)
        reply = await self._commands.call("XREAD", "COUNT", str(count), "STREAMS", self.key, after)
        return parse_entries(reply)

    async def wait(
        self, after: str = "$", *, count: int = 100, timeout_ms: int = 1_000
    ) -> list[Entry]:
        """As `read`, but waits for the first one, over a connection of its own.

        An empty list: none came in time.
        """
        check_whole(count=count)
        await (
            self._commands.acquire_slot()
        )  # a queue that is closed, or was never opened, says so here
        link = self._context.new_connection(f"{self.name} reader")

        def give_up() -> None:
            link.connection.abort(QueueClosed("the queue was closed"))

        self._commands.on_close.add(give_up)
        try:
            await link.open()
            wait_ms = max(1, int(timeout_ms))
            command = (
                "XREAD",
                "COUNT",
                str(count),
                "BLOCK",
                str(wait_ms),
                "STREAMS",
                self.key,
                after,
            )
            return parse_entries(await link.call(*command, blocks_s=wait_ms / 1e3))
        except (ConnectionLost, NotConnected):
            if isinstance(link.connection.reason, QueueClosed):
                raise link.connection.reason from None
            raise
        finally:
            self._commands.on_close.discard(give_up)
            link.connection.abort(
                QueueClosed("nobody waits for entries any more")
            )  # a read that still waits ends here
            await link.close()

    async def range(
        self, first: str = "-", last: str = "+", *, count: int | None = None
    ) -> list[Entry]:
        """Entries with ids from `first` to `last`, both included ("(id": not included)."""
        check_whole(count=1 if count is None else count)
        limit = () if count is None else ("COUNT", str(count))
        return [
            parse_entry(raw)
            for raw in await self._commands.call("XRANGE", self.key, first, last, *limit)
        ]

    async def length(self) -> int:
        """How many entries it holds."""
        return int(await self._commands.call("XLEN", self.key))

    # Forgetting

    async def trim(
        self, *, max_entries: int | None = None, max_age_ms: int | None = None, exact: bool = False
    ) -> int:
        """Forget the oldest.

        All but `max_entries`, or those older than `max_age_ms` by the server's clock.

        Without `exact` the server forgets whole blocks only, which is far cheaper and may keep a
        few hundred more. Entries that a group has not acknowledged are forgotten, too. Gives how
        many were.
        """
        if (max_entries is None) == (max_age_ms is None):
            raise InvalidParameter("trim by max_entries or by max_age_ms: one of them")
        how = "=" if exact else "~"
        check_whole(0, max_entries=max_entries or 0, max_age_ms=max_age_ms or 0)
        if max_entries is not None:
            return int(
                await self._commands.call("XTRIM", self.key, "MAXLEN", how, str(max_entries))
            )
        seconds, microseconds = await self._commands.call("TIME")
        oldest = int(seconds) * 1_000 + int(microseconds) // 1_000 - int(max_age_ms or 0)
        return int(await self._commands.call("XTRIM", self.key, "MINID", how, str(max(0, oldest))))

    async def delete(self, *ids: str) -> int:
        """Delete single entries; gives how many there were."""
        return int(await self._commands.call("XDEL", self.key, *ids)) if ids else 0

    # Groups

    async def group(self, name: Name, *, start: str = "0") -> ConsumerGroup:
        """Join the consumer group `name`, made now if it does not exist; the stream, too.

        start: "0" from the first entry, "$" only what comes from now on, or an id; it counts only
        when it is made. A group that the server loses later is made again where it was, not at
        `start`.
        """
        group = ConsumerGroup(self._context, name)
        await group.create(start)
        return group


def _xadd_prefix(key: bytes, max_entries: int | None) -> tuple[int, bytes]:
    """What every XADD to this stream begins with, and of how many words."""
    words = [b"XADD", key]
    if max_entries is not None:
        words += [b"MAXLEN", b"~", b"%d" % max_entries]
    return len(words), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def _ids_or_raise(outcomes: list[Any]) -> list[str]:
    """The ids, if all of them were added. Raises PartlyAdded."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, MpimError)]
    if not failures:
        return [outcome.decode() for outcome in outcomes]
    ids = [None if isinstance(outcome, MpimError) else outcome.decode() for outcome in outcomes]
    errors = [outcome if isinstance(outcome, MpimError) else None for outcome in outcomes]
    raise PartlyAdded(ids, errors) from failures[0]
