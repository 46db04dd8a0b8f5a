"""Events: a message is known by its name in a trace, so no two messages have the same."""

from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.events import first_word, message_id

WORDS = st.binary(max_size=90).map(lambda word: word.replace(b" ", b"_"))


@given(WORDS, WORDS, st.binary())
def test_messages_have_the_same_name_only_if_their_first_words_are_equal(one, other, rest):
    """However long, and whatever bytes; what comes after the first blank does not count."""
    assert (message_id(one) == message_id(other)) == (one == other)
    assert message_id(one + b" " + rest) == message_id(one)
    assert first_word(one + b" " + rest) == one


def test_a_name_that_can_be_read_is_the_first_word_itself():
    """Up to 64 bytes of UTF-8; the name of anything else is short, too."""
    assert message_id(b"invoice-2026-11-30-eu-0000001 tea") == "invoice-2026-11-30-eu-0000001"
    assert message_id("晚上好 bob".encode()) == "晚上好"
    assert len(message_id(b"\xff" * 1_000_000)) < 40
