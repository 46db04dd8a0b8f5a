"""Ledger: what the server knows of conversations: the log, the numbers, who takes part, how far everybody is.

All of it is written in atomic steps (lua/send.lua, lua/ack.lua); this is the thin layer that calls them.

AppendCommand: the call of send.lua for one sender's messages in one conversation, as far as it is always the same.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from mpim_lab.errors import CorruptPayload, InvalidParameter
from mpim_lab.im.protocol.frames import encode, from_gateway
from mpim_lab.im.protocol.requests import AckReq, ChatMessage
from mpim_lab.keys import joinable, user_channel
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.connection.reconnecting import call_many
from mpim_lab.mq.connection.resp import ReplySink, RespConnection, encode_command
from mpim_lab.mq.ordering.sequenced_log import lifetime_ms
from mpim_lab.mq.pubsub.queue import MessageQueue


class AppendCommand:
    """Made once for a sender and a conversation of two; a message then costs its own words, and not the packing of all.

    keys, words: those of one message of his there; every other has the same, but for three.
    """

    __slots__ = ("_frame_head_bytes", "_mark_head", "_template")

    MARK, ID, AFTER = 1, 0, 4  # places among the keys; among the words

    def __init__(
        self, script: LuaScript, message: ChatMessage, keys: Sequence[bytes], words: Sequence[bytes | str]
    ) -> None:
        first = len(keys)
        self._template = script.template(keys, words, (self.MARK, first + self.ID, first + self.AFTER))
        self._mark_head = keys[self.MARK].removesuffix(joinable(message.id))
        self._frame_head_bytes = encode(message).index(b'"sequence":0') + len(b'"sequence":0')

    def pack(self, message: ChatMessage) -> bytes:
        """The command for a message that has no number yet."""
        message_id, after = message.id.encode(), encode(message)[self._frame_head_bytes : -2]
        mark = self._mark_head + joinable(message.id)
        return self._template % (len(mark), mark, len(message_id), message_id, len(after), after)


NAME = "chat"  # the name of these conversations
MARK_S = 3_600  # how long a message id is remembered: longer than any client repeats
TRIM_EVERY = 256  # messages
_MOST_KNOWN = 16_384  # senders in conversations, of some 800 bytes
_SEND, _ACK = LuaScript("im/services/lua/send.lua"), LuaScript("im/services/lua/ack.lua")


class Kept(NamedTuple):
    """What became of a message: with number and time, whether it is new, who listened, and what the outbox has to do."""

    message: ChatMessage
    is_new: bool
    listened: int
    todo: bytes

    @property
    def told(self) -> str:
        """What the sender of a message between two is told."""
        return told_to_sender(self.is_new, self.listened)


class ToDo(NamedTuple):
    """One entry of the outbox: what is still to be done for a message."""

    entry_id: bytes
    do: str  # "push" or "trim"
    conversation: str
    sequence: int


class Ledger:
    """Conversations on one server. Raises what `ReconnectingConnection` raises.

    trim_every: after so many messages a conversation's log is looked at for trimming.
    """

    def __init__(self, queue: MessageQueue, *, trim_every: int = TRIM_EVERY) -> None:
        if trim_every < 1:
            raise InvalidParameter(f"trim_every={trim_every}: at least 1")
        self.queue, self._keys, self._trim_every = queue, queue.keys, str(trim_every)
        self.commands = queue.context(NAME).connection
        self.outbox = self._keys.outbox
        self._mark_ms = lifetime_ms(MARK_S)
        self._taught: RespConnection | None = None  # whose server knows send.lua
        self._known: dict[tuple[str, str], AppendCommand] = {}  # by sender and conversation

    async def append(self, message: ChatMessage, receivers: Sequence[str], *, is_group: bool) -> Kept:
        """Number, keep and push a message, unless its id was sent before. `receivers`: whose channels, the first counts."""
        keys, words = self._append_words(message, receivers, is_group)
        connection = self.commands.connection
        kept = kept_of(message, await _SEND.run(self.commands, keys, *words))
        self._taught = connection
        return kept

    def begin_append(self, message: ChatMessage, receivers: Sequence[str], answer: ReplySink) -> bool:
        """The same without waiting, of a message between two; False: not at this moment. The answer is for `kept_of`.

        The server must know the script: on each new connection the first message goes by `append`.
        """
        connection = self.commands.connection
        if connection.is_blocked or connection is not self._taught:
            return False
        known = self._known.get((message.sender, message.conversation)) or self._new_known(message, receivers)
        connection.send_to(answer, known.pack(message))
        return True

    def _new_known(self, message: ChatMessage, receivers: Sequence[str]) -> AppendCommand:
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        keys, words = self._append_words(message, receivers, is_group=False)
        known = self._known[message.sender, message.conversation] = AppendCommand(_SEND, message, keys, words)
        return known

    def _append_words(
        self, message: ChatMessage, receivers: Sequence[str], is_group: bool
    ) -> tuple[list[bytes], list[bytes | str]]:
        """The keys and arguments of send.lua."""
        conversation, sender = message.conversation, message.sender
        before, after = _halves(message)
        keys = [
            self._keys.sequence(NAME, conversation),
            self._keys.sent(NAME, conversation, sender, message.id),
            self._log(conversation),
            self.outbox,
            *([] if is_group else [self._keys.talks(uid) for uid in dict.fromkeys((*receivers, sender))]),
        ]
        words: list[bytes | str] = [
            message.id,
            self._mark_ms,
            conversation,
            before,
            after,
            "group" if is_group else "",
            self._trim_every,
        ]
        return keys, words + [self._keys.channel(user_channel(uid)) for uid in dict.fromkeys(receivers)]

    async def between(self, conversation: str, first: int, last: int | None, count: int) -> list[ChatMessage]:
        """What the log still has from number `first` to `last` (None: to its end), at most `count`."""
        end = "+" if last is None else f"{last}-0"
        raws = await self.commands.call("XRANGE", self._log(conversation), f"{first}-0", end, "COUNT", str(count))
        return [_message(raw[1][3]) for raw in raws]

    async def last(self, conversation: str) -> int:
        """The number of a conversation's last message."""
        return int(await self.commands.call("GET", self._keys.sequence(NAME, conversation)) or 0)

    async def lasts(self, conversations: Sequence[str]) -> dict[str, int]:
        """The numbers of the last messages of several."""
        if not conversations:
            return {}
        keys = [self._keys.sequence(NAME, each) for each in conversations]
        numbers = await self.commands.call("MGET", *keys)
        return {each: int(number or 0) for each, number in zip(conversations, numbers, strict=True)}

    async def length(self, conversation: str) -> int:
        """How many messages the log of a conversation holds."""
        return int(await self.commands.call("XLEN", self._log(conversation)))

    async def trim(self, conversation: str, before: int) -> int:
        """Forget what comes before number `before`; gives how many that were."""
        return int(await self.commands.call("XTRIM", self._log(conversation), "MINID", "=", f"{before}-0"))

    async def talks(self, uid: str) -> list[str]:
        """The conversations of two in which a user takes part."""
        return [raw.decode() for raw in await self.commands.call("SMEMBERS", self._keys.talks(uid))]

    async def acked(self, uid: str) -> dict[str, int]:
        """How far a user has acknowledged each conversation."""
        pairs = await self.commands.call("HGETALL", self._keys.acked(uid))
        return {name.decode(): int(number) for name, number in dict(pairs).items()}

    async def acked_by(self, uids: Sequence[str], conversation: str) -> dict[str, int]:
        """How far each of several users has acknowledged one conversation."""
        commands = [encode_command(b"HGET", self._keys.acked(uid), conversation.encode()) for uid in uids]
        found = dict(zip(uids, await call_many(self.commands, commands) if commands else [], strict=True))
        for number in found.values():
            if isinstance(number, BaseException):
                raise number
        return {uid: int(number or 0) for uid, number in found.items()}

    async def ack(self, requests: Sequence[AckReq]) -> list[int]:
        """Note how far users are: forward only, never beyond the last message; gives how far they are now."""
        if not requests:
            return []
        keys = [
            key
            for each in requests
            for key in (self._keys.acked(each.uid), self._keys.sequence(NAME, each.conversation))
        ]
        words = [word for each in requests for word in (each.conversation, str(each.sequence))]
        far = await _ACK.run(self.commands, keys, *words)
        return [int(number) for number in far]

    # The outbox

    async def to_do(self, older_than_ms: int, *, after: bytes = b"", count: int = 100) -> list[ToDo]:
        """What has waited in the outbox for so long, by the server's clock: whoever was at it has died.

        after: the entry after which to begin; from the first one if none is given.
        """
        seconds, micros = await self.commands.call("TIME")
        end = int(seconds) * 1_000 + int(micros) // 1_000 - older_than_ms
        begin = b"(" + after if after else b"-"
        raws = await self.commands.call("XRANGE", self.outbox, begin, str(end), "COUNT", str(count))
        return [_todo(entry_id, fields) for entry_id, fields in raws]

    async def done(self, entry_id: bytes) -> None:
        """Strike an entry from the outbox."""
        await self.commands.call("XDEL", self.outbox, entry_id)

    def _log(self, conversation: str) -> bytes:
        return self._keys.log(NAME, conversation)


def told_to_sender(is_new: object, listened: int) -> str:
    """What the sender of a message between two is told: "pushed", "stored" (nobody listened), or "known".

    >>> told_to_sender(True, 1), told_to_sender(True, 0), told_to_sender(False, 0)
    ('pushed', 'stored', 'known')
    """
    return "known" if not is_new else "pushed" if listened else "stored"


def kept_of(message: ChatMessage, answer: Sequence[Any]) -> Kept:
    """What send.lua said."""
    sequence, is_new, listened, todo, at_ms = answer
    return Kept(replace(message, sequence=sequence, at_ms=at_ms), bool(is_new), listened, todo)


def _halves(message: ChatMessage) -> tuple[bytes, bytes]:
    """The message's frame up to its number, and from there to its time: send.lua puts in both."""
    frame = encode(message)
    before, _, after = frame.partition(b'"sequence":0')
    return before + b'"sequence":', after.removesuffix(b"0}")


def _message(frame: bytes) -> ChatMessage:
    message = from_gateway(frame)
    if not isinstance(message, ChatMessage):  # send.lua writes nothing else
        raise CorruptPayload(f"not a message: {frame[:60]!r}")
    return message


def _todo(entry_id: bytes, fields: Sequence[bytes]) -> ToDo:
    """An entry that nobody can read is one that cannot be done: those behind it can."""
    try:
        _, do, _, conversation, _, sequence = fields
        return ToDo(entry_id, do.decode(), conversation.decode(), int(sequence))
    except ValueError:
        return ToDo(entry_id, "", repr(fields)[:200], 0)
