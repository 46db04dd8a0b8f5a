"""AppendCommand: the call of send.lua for one sender's messages in one conversation, as far as it is always the same."""

from collections.abc import Sequence

from mpim_lab.im.protocol.frames import encode
from mpim_lab.im.protocol.requests import ChatMessage
from mpim_lab.keys import joinable
from mpim_lab.mq.connection.lua_script import Script


class AppendCommand:
    """Made once for a sender and a conversation of two; a message then costs its own words, and not the packing of all.

    keys, words: those of one message of his there; every other has the same, but for three.
    """

    __slots__ = ("_frame_head_bytes", "_mark_head", "_template")

    MARK, ID, AFTER = 1, 0, 4  # places among the keys; among the words

    def __init__(
        self, script: Script, message: ChatMessage, keys: Sequence[bytes], words: Sequence[bytes | str]
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
