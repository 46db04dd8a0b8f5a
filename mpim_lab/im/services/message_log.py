"""MessageLog: the conversations on the server, the source of truth.

It has their logs, sequence numbers, members and read positions. All of it is written in atomic
steps (lua/append_and_push.lua, lua/acknowledge.lua); this is the thin layer that calls them.

PreparedAppend: the call of append_and_push.lua for one sender's messages in one conversation, as
far as it is constant.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from mpim_lab.errors import CorruptPayload, InvalidParameter
from mpim_lab.im.protocol.frames import decode_gateway, encode
from mpim_lab.im.protocol.requests import AckRequest, ChatMessage
from mpim_lab.keys import joinable, user_channel
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.connection.reconnecting import call_many
from mpim_lab.mq.connection.resp import ReplySink, RespConnection, encode_command
from mpim_lab.mq.ordering.sequenced_log import ttl_ms
from mpim_lab.mq.pubsub.queue import MessageQueue


class PreparedAppend:
    """The prepared script call of one sender in one direct conversation.

    A message costs its own words only.

    keys, words: those of one message; every other message has the same, but for three.
    """

    __slots__ = ("_frame_head_bytes", "_message_id_key_prefix", "_template")

    MESSAGE_ID_KEY, ID, AFTER = 1, 0, 4  # places among the keys; among the words

    def __init__(
        self,
        script: LuaScript,
        message: ChatMessage,
        keys: Sequence[bytes],
        words: Sequence[bytes | str],
    ) -> None:
        first = len(keys)
        self._template = script.template(
            keys, words, (self.MESSAGE_ID_KEY, first + self.ID, first + self.AFTER)
        )
        self._message_id_key_prefix = keys[self.MESSAGE_ID_KEY].removesuffix(joinable(message.id))
        self._frame_head_bytes = encode(message).index(b'"sequence":0') + len(b'"sequence":0')

    def pack(self, message: ChatMessage) -> bytes:
        """Return the encoded command for a message that has no number yet."""
        message_id, after = message.id.encode(), encode(message)[self._frame_head_bytes : -2]
        key = self._message_id_key_prefix + joinable(message.id)
        return self._template % (len(key), key, len(message_id), message_id, len(after), after)


LOG_NAME = "chat"  # the name of these conversations
# of the idempotency record of a message id: longer than any client retries
MESSAGE_ID_TTL_S = 3_600
TRIM_EVERY = 256  # messages
_MAX_PREPARED = 16_384  # senders in conversations, of some 800 bytes
APPEND_AND_PUSH = LuaScript("im/services/lua/append_and_push.lua")
ACKNOWLEDGE = LuaScript("im/services/lua/acknowledge.lua")


class AppendResult(NamedTuple):
    """The result of an append.

    The message with number and time, whether it is new, and its outbox entry if it has one.
    """

    message: ChatMessage
    is_new: bool
    subscriber_count: int
    outbox_entry: bytes

    @property
    def status(self) -> str:
        """The status of a direct message: "pushed", "stored" (nobody is subscribed) or "known"."""
        return "known" if not self.is_new else "pushed" if self.subscriber_count else "stored"


class OutboxEntry(NamedTuple):
    """One entry of the outbox: what is still to do for a message."""

    entry_id: bytes
    action: str  # "push" or "trim"
    conversation: str
    sequence: int


class MessageLog:
    """The log of all conversations on one server.

    Every method raises what the connection raises.

    Args:
        queue: Over which it talks to the server.
        trim_every: After so many messages a conversation's log is looked at for trimming.

    Raises:
        InvalidParameter: `trim_every` is below 1.
    """

    def __init__(self, queue: MessageQueue, *, trim_every: int = TRIM_EVERY) -> None:
        if trim_every < 1:
            raise InvalidParameter(f"trim_every={trim_every}: at least 1")
        self.queue, self._keys, self._trim_every = queue, queue.keys, str(trim_every)
        self.commands, self._link = queue.context(LOG_NAME).connection, queue.connection
        self.outbox = self._keys.outbox
        self._message_id_ttl_ms = ttl_ms(MESSAGE_ID_TTL_S)
        self._script_loaded_on: RespConnection | None = None  # whose server has append_and_push.lua
        self._prepared: dict[tuple[str, str], PreparedAppend] = {}  # by sender and conversation

    async def append(
        self, message: ChatMessage, receivers: Sequence[str], *, is_group: bool
    ) -> AppendResult:
        """Number, append and push a message, unless its id was sent before.

        Args:
            message: The message, which has no number yet.
            receivers: The users to push to; the first one decides the status.
            is_group: Whether it goes to the outbox, which pushes to the group's members.

        Returns:
            The message with its number and time, and whether it is new.
        """
        keys, words = self._append_arguments(message, receivers, is_group)
        connection = self.commands.connection
        appended = parse_append(message, await APPEND_AND_PUSH.run(self.commands, keys, *words))
        self._script_loaded_on = connection
        return appended

    def append_nowait(self, message: ChatMessage, to: str, sink: ReplySink) -> bool:
        """Append a direct message without waiting.

        On each new connection the first message goes by `append`, which checks the layout and loads
        the script.

        Args:
            message: The message, which has no number yet.
            to: Its receiver.
            sink: Gets the reply, which is for `parse_append`.

        Returns:
            False if that is not possible now: then use `append`.
        """
        connection = self._link.connection
        if connection.is_blocked or connection is not self._script_loaded_on:
            return False
        prepared = self._prepared.get((message.sender, message.conversation))
        if prepared is None:
            prepared = self._prepare(message, to)
        connection.send_to(sink, prepared.pack(message))
        return True

    def _prepare(self, message: ChatMessage, to: str) -> PreparedAppend:
        if len(self._prepared) >= _MAX_PREPARED:
            del self._prepared[next(iter(self._prepared))]
        keys, words = self._append_arguments(message, [to, message.sender], is_group=False)
        prepared = self._prepared[message.sender, message.conversation] = PreparedAppend(
            APPEND_AND_PUSH, message, keys, words
        )
        return prepared

    def _append_arguments(
        self, message: ChatMessage, receivers: Sequence[str], is_group: bool
    ) -> tuple[list[bytes], list[bytes | str]]:
        """Return the keys and arguments of append_and_push.lua."""
        conversation, sender = message.conversation, message.sender
        before, after = _split_frame(message)
        keys = [
            self._keys.sequence(LOG_NAME, conversation),
            self._keys.message_id(LOG_NAME, conversation, sender, message.id),
            self._log_key(conversation),
            self.outbox,
            *(
                []
                if is_group
                else [
                    self._keys.direct_conversations(uid)
                    for uid in dict.fromkeys((*receivers, sender))
                ]
            ),
        ]
        words: list[bytes | str] = [
            message.id,
            self._message_id_ttl_ms,
            conversation,
            before,
            after,
            "group" if is_group else "",
            self._trim_every,
        ]
        return keys, words + [
            self._keys.channel(user_channel(uid)) for uid in dict.fromkeys(receivers)
        ]

    async def read_range(
        self, conversation: str, first: int, last: int | None, count: int
    ) -> list[ChatMessage]:
        """Return what the log still has from one number to another.

        Args:
            conversation: Whose log.
            first: The first number.
            last: The last number; None: to the end.
            count: At most so many messages.

        Returns:
            The messages, in order.
        """
        end = "+" if last is None else f"{last}-0"
        raws = await self.commands.call(
            "XRANGE", self._log_key(conversation), f"{first}-0", end, "COUNT", str(count)
        )
        return [_parse_message(raw[1][3]) for raw in raws]

    async def last_sequence(self, conversation: str) -> int:
        """Return the number of a conversation's last message.

        Args:
            conversation: The conversation.

        Returns:
            The number; 0: there was no message.
        """
        return int(
            await self.commands.call("GET", self._keys.sequence(LOG_NAME, conversation)) or 0
        )

    async def last_sequences(self, conversations: Sequence[str]) -> dict[str, int]:
        """Return the last numbers of several conversations.

        Args:
            conversations: The conversations.

        Returns:
            The number of the last message by conversation; 0: there was none.
        """
        if not conversations:
            return {}
        keys = [self._keys.sequence(LOG_NAME, each) for each in conversations]
        numbers = await self.commands.call("MGET", *keys)
        return {each: int(number or 0) for each, number in zip(conversations, numbers, strict=True)}

    async def length(self, conversation: str) -> int:
        """Return how many messages the log of a conversation holds.

        Args:
            conversation: The conversation.

        Returns:
            How many messages.
        """
        return int(await self.commands.call("XLEN", self._log_key(conversation)))

    async def trim(self, conversation: str, before: int) -> int:
        """Delete the beginning of a log.

        Args:
            conversation: Whose log.
            before: The first number that stays.

        Returns:
            How many messages were deleted.
        """
        return int(
            await self.commands.call(
                "XTRIM", self._log_key(conversation), "MINID", "=", f"{before}-0"
            )
        )

    async def direct_conversations(self, uid: str) -> list[str]:
        """Return the direct conversations of a user.

        Args:
            uid: The user.

        Returns:
            Their names.
        """
        return [
            raw.decode()
            for raw in await self.commands.call("SMEMBERS", self._keys.direct_conversations(uid))
        ]

    async def read_positions(self, uid: str) -> dict[str, int]:
        """Return how far a user has acknowledged each conversation.

        Args:
            uid: The user.

        Returns:
            The number acknowledged last, by conversation.
        """
        pairs = await self.commands.call("HGETALL", self._keys.acked(uid))
        return {name.decode(): int(number) for name, number in dict(pairs).items()}

    async def positions_of(self, uids: Sequence[str], conversation: str) -> dict[str, int]:
        """Return how far each of several users has acknowledged one conversation.

        Args:
            uids: The users.
            conversation: The conversation.

        Returns:
            The number acknowledged last, by user; 0: none.
        """
        commands = [
            encode_command(b"HGET", self._keys.acked(uid), conversation.encode()) for uid in uids
        ]
        found = dict(
            zip(uids, await call_many(self.commands, commands) if commands else [], strict=True)
        )
        for number in found.values():
            if isinstance(number, BaseException):
                raise number
        return {uid: int(number or 0) for uid, number in found.items()}

    async def ack(self, requests: Sequence[AckRequest]) -> list[int]:
        """Advance read positions: forward only, never beyond the last message.

        Args:
            requests: Who has read which conversation up to where.

        Returns:
            The positions now, in the same order.
        """
        if not requests:
            return []
        keys = [
            key
            for each in requests
            for key in (
                self._keys.acked(each.uid),
                self._keys.sequence(LOG_NAME, each.conversation),
            )
        ]
        words = [word for each in requests for word in (each.conversation, str(each.sequence))]
        far = await ACKNOWLEDGE.run(self.commands, keys, *words)
        return [int(number) for number in far]

    # The outbox

    async def due_entries(
        self, min_age_ms: int, *, after: bytes = b"", count: int = 100
    ) -> list[OutboxEntry]:
        """Return the entries at least this old: the service that wrote them has died.

        Args:
            min_age_ms: Milliseconds, by the server's clock.
            after: The entry after which to begin; from the first one if none is given.
            count: At most so many entries.

        Returns:
            The entries, the oldest first.
        """
        seconds, micros = await self.commands.call("TIME")
        end = int(seconds) * 1_000 + int(micros) // 1_000 - min_age_ms
        begin = b"(" + after if after else b"-"
        raws = await self.commands.call("XRANGE", self.outbox, begin, str(end), "COUNT", str(count))
        return [_parse_entry(entry_id, fields) for entry_id, fields in raws]

    async def remove(self, entry_id: bytes) -> None:
        """Remove an entry from the outbox.

        Args:
            entry_id: The entry's id.
        """
        await self.commands.call("XDEL", self.outbox, entry_id)

    def _log_key(self, conversation: str) -> bytes:
        return self._keys.log(LOG_NAME, conversation)


def parse_append(message: ChatMessage, reply: Sequence[Any]) -> AppendResult:
    """Parse the reply of append_and_push.lua."""
    sequence, is_new, subscriber_count, outbox_entry, at_ms = reply
    return AppendResult(
        replace(message, sequence=sequence, at_ms=at_ms),
        bool(is_new),
        subscriber_count,
        outbox_entry,
    )


def _split_frame(message: ChatMessage) -> tuple[bytes, bytes]:
    """Return the frame up to its number, and from there to its time.

    Append_and_push.lua inserts both.
    """
    frame = encode(message)
    before, _, after = frame.partition(b'"sequence":0')
    return before + b'"sequence":', after.removesuffix(b"0}")


def _parse_message(frame: bytes) -> ChatMessage:
    message = decode_gateway(frame)
    if not isinstance(message, ChatMessage):  # append_and_push.lua writes nothing else
        raise CorruptPayload(f"not a message: {frame[:60]!r}")
    return message


def _parse_entry(entry_id: bytes, fields: Sequence[bytes]) -> OutboxEntry:
    """Parse an outbox entry.

    One that cannot be parsed has no action, and does not block those behind it.
    """
    try:
        _, action, _, conversation, _, sequence = fields
        return OutboxEntry(entry_id, action.decode(), conversation.decode(), int(sequence))
    except ValueError:
        return OutboxEntry(entry_id, "", repr(fields)[:200], 0)
