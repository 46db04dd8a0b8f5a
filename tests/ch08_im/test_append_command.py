"""A command is prepared for one sender and one conversation.

For every message it is the command packed from its parts.
"""

import string

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.im.protocol.frames import Send
from mpim_lab.im.protocol.requests import ChatMessage, direct_conversation
from mpim_lab.im.services.message_log import MessageLog, PreparedAppend
from mpim_lab.keys import Keys
from mpim_lab.mq.connection.lua_script import LuaScript, command_template
from mpim_lab.mq.connection.resp import encode_command

names = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=64)
ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
prefixes = st.sampled_from(["", "lab-7f3a:", "100%:", "%b", "é:"])


class Recorder(LuaScript):
    """A script of which only the digest is of interest."""

    def __init__(self):
        self._digest = "d" * 40


class Queue:
    """As much of a queue as a ledger looks at before it calls a server."""

    def __init__(self, prefix):
        self.keys = Keys(prefix)

    connection = None

    def context(self, name):
        return self


@given(prefixes, names, names, st.lists(st.tuples(ids, texts), min_size=1, max_size=5))
def test_a_prepared_command_is_the_one_that_is_packed_from_its_parts(prefix, sender, to, said):
    """Whatever the names, the texts and the prefix are."""
    ledger, script, prepared = MessageLog(Queue(prefix)), Recorder(), None
    for message_id, text in said:
        msgspec.convert(
            {"t": "send", "id": message_id, "text": text, "to": to}, Send
        )  # a gateway would take it
        message = ChatMessage(direct_conversation(sender, to), 0, message_id, sender, text)
        keys, words = ledger._append_arguments(message, [to, sender], is_group=False)
        prepared = prepared or PreparedAppend(script, message, keys, words)
        assert prepared.pack(message) == encode_command(
            "EVALSHA", "d" * 40, str(len(keys)), *keys, *words
        )


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=6), st.data())
def test_a_template_that_is_filled_in_is_the_command(words, data):
    """Any words, any places, percent signs among them."""
    places = sorted(data.draw(st.sets(st.integers(0, len(words) - 1))))
    filled = tuple(part for place in places for part in (len(words[place]), words[place]))
    assert command_template(words, places) % filled == encode_command(*words)
