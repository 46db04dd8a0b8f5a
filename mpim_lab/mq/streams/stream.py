"""Stream: a log that keeps what it was given, until it is trimmed.

Producers append, consumers read from an id.

What a group of consumers does with it, acknowledgements and all, is in `groups.py`.

Source: https://valkey.io/topics/streams-intro/ (entries, ids, trimming)
"""

from collections.abc import Iterable, Mapping, Sequence

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
    """One stream of a queue: `mq.stream("orders")`. Its methods raise what the connection raises.

    Args:
        access: What the parts of this stream share.
        max_payload_bytes: A larger field is refused with InvalidMessage.
        max_entries: Trim to about so many while adding: whole blocks of the server's, so a few
            hundred more may stay. None: keep all.
    """

    def __init__(
        self,
        access: StreamContext,
        *,
        max_payload_bytes: int = 1024 * 1024,
        max_entries: int | None = None,
    ) -> None:
        if max_entries is not None:
            check_whole(max_entries=max_entries)
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
        """Append an entry.

        Args:
            payload: Bytes or text, which goes into the field "data"; or a mapping, which gives the
                fields.
            id: Chosen by the caller instead of the server. It must be above the last one, so that
                adding the same id again after a time-out is refused and not appended twice.

        Returns:
            The entry's id.

        Raises:
            InvalidMessage: A field is of another type, or too large; nothing was sent.
            CommandRejected: The server refused it; look at the error's `definite` for the others.
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
        """Append many, in order: one write and one round trip, as far as the limits allow.

        All are checked before anything is sent. They are so many commands, not one: other
        producers' entries may come between them.

        Args:
            payloads: Each as `add` takes it.

        Returns:
            The ids, in the same order.

        Raises:
            InvalidMessage: One of them cannot be sent; nothing was.
            PartlyAdded: Some failed while others did not; it says which.
            MpimError: What `ReconnectingConnection` raises, if nothing was written at all.
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
        return PartlyAdded.unless_all(
            [out if isinstance(out, MpimError) else out.decode() for out in outcomes]
        )

    async def add_available(self, payloads: Sequence[bytes]) -> list[str | MpimError]:
        """Append the first of many, as many as one write has room for.

        Nothing is checked and nothing reported: that is done by whoever gathered them.

        Args:
            payloads: What goes into the field "data" of each entry.

        Returns:
            An id or an error for each of those that were written.

        Raises:
            MpimError: What `ReconnectingConnection.acquire_slot` raises; nothing was written.
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
        """Read the entries after an id.

        Args:
            after: An id; "0" begins with the first entry.
            count: At most so many.

        Returns:
            The entries, oldest first.
        """
        check_whole(count=count)
        reply = await self._commands.call("XREAD", "COUNT", str(count), "STREAMS", self.key, after)
        return parse_entries(reply)

    async def wait(
        self, after: str = "$", *, count: int = 100, timeout_ms: int = 1_000
    ) -> list[Entry]:
        """Read as `read` does, but wait for the first entry, over a connection of its own.

        Args:
            after: An id; "$" is the last one that there is now.
            count: At most so many.
            timeout_ms: How long to wait.

        Returns:
            The entries; none if none came in time.
        """
        check_whole(count=count)
        # a queue that is closed, or was never opened, says so here
        await self._commands.acquire_slot()
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
        """Read the entries between two ids, oldest first.

        Args:
            first: The first id, included; "(id": not included.
            last: The last id, likewise.
            count: At most so many; None: all.

        Returns:
            The entries.
        """
        check_whole(count=1 if count is None else count)
        limit = () if count is None else ("COUNT", str(count))
        return [
            parse_entry(raw)
            for raw in await self._commands.call("XRANGE", self.key, first, last, *limit)
        ]

    async def length(self) -> int:
        """Count the entries.

        Returns:
            How many entries the stream holds.
        """
        return int(await self._commands.call("XLEN", self.key))

    # Forgetting

    async def trim(
        self, *, max_entries: int | None = None, max_age_ms: int | None = None, exact: bool = False
    ) -> int:
        """Forget the oldest: all but `max_entries`, or those older than `max_age_ms`.

        Entries that a group has not acknowledged are forgotten, too.

        Args:
            max_entries: How many stay.
            max_age_ms: How old they may be, by the server's clock.
            exact: Without it the server forgets whole blocks only, which is far cheaper and may
                keep a few hundred more.

        Returns:
            How many were forgotten.

        Raises:
            InvalidParameter: Not exactly one of the two limits is given.
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
        """Delete single entries.

        Args:
            *ids: Their ids.

        Returns:
            How many of them there were.
        """
        return int(await self._commands.call("XDEL", self.key, *ids)) if ids else 0

    # Groups

    async def group(self, name: Name, *, start: str = "0") -> ConsumerGroup:
        """Join the consumer group `name`, made now if it does not exist; the stream, too.

        A group that the server loses later is made again where it was, not at `start`.

        Args:
            name: The group's name.
            start: "0" from the first entry, "$" only what comes from now on, or an id. It counts
                only when the group is made.

        Returns:
            The group.
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
