"""AtomicEffects: what may be added; how it is encoded.

Coalescer: many questions, one command, each its own answer.
"""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import InvalidMessage, InvalidParameter, Unconfirmed, WrongLoop
from mpim_lab.mq.connection.coalescer import Coalescer
from mpim_lab.mq.idempotency.effects import MAX_WORDS, AtomicEffects, encode_effects


def test_a_command_is_kept_with_its_key_and_words_as_bytes():
    """The queue's prefix goes before the key.

    Numbers and text are written as the server reads them.
    """
    effects = AtomicEffects("lab:")
    effects.add("INCRBY", "account:bob", 450)
    effects.add("RPUSH", "账本", "晚", b"\x00\xff", -1)
    effects.add("INCR", "n")
    effects.add("APPEND", "n", bytearray(b"\xff"))
    effects.add("APPEND", "n", memoryview(b"mv"))
    assert effects.commands == [
        (b"INCRBY", b"lab:account:bob", b"450"),
        (b"RPUSH", "lab:账本".encode(), "晚".encode(), b"\x00\xff", b"-1"),
        (b"INCR", b"lab:n"),
        (b"APPEND", b"lab:n", b"\xff"),
        (b"APPEND", b"lab:n", b"mv"),
    ]


@pytest.mark.parametrize(
    ("command", "words"),
    [("", ()), ("SET x", ()), ("SET\r\n", ()), ("SET", ["w"] * (MAX_WORDS + 1))],
)
def test_what_is_no_command_on_one_key_is_refused(command, words):
    """At once, where it is said, and nothing is kept of it."""
    effects = AtomicEffects()
    with pytest.raises(InvalidParameter, match="is no effect"):
        effects.add(command, "k", *words)
    assert effects.commands == []


@pytest.mark.parametrize("word", [None, ["a"], {"a": 1}])
def test_a_word_that_is_neither_bytes_nor_text_nor_a_number_is_refused(word):
    """It would be written as Python shows it."""
    with pytest.raises(InvalidParameter, match="is no word of a command"):
        AtomicEffects().add("SET", "k", word)


@pytest.mark.parametrize("key", ["", "\udcff"])
def test_a_key_that_cannot_be_written_is_refused(key):
    """As a channel's name is."""
    with pytest.raises(InvalidMessage):
        AtomicEffects().add("INCR", key)


def unpacked(keys, words):
    """As lua/effects.lua reads them."""
    words, keys = list(words), list(keys)
    for _ in range(int(words.pop(0))):
        count = int(words.pop(0))
        name, *rest = [words.pop(0) for _ in range(count)]
        yield (name, keys.pop(0), *rest)
    assert not words and not keys


@given(
    st.lists(
        st.tuples(st.binary(min_size=1), st.binary(), st.lists(st.binary(), max_size=4)), max_size=5
    )
)
def test_what_is_packed_can_be_read_again(cases):
    """Whatever bytes, whatever counts."""
    commands, keys, words = [(name, key, *rest) for name, key, rest in cases], [], []
    encode_effects(commands, keys, words)
    assert list(unpacked(keys, words)) == commands


class Sent:
    """Keeps what was sent together; the answer to an item is the item times ten."""

    def __init__(self):
        self.turns, self.go = [], asyncio.Event()
        self.go.set()

    async def __call__(self, items):
        self.turns.append(list(items))
        await self.go.wait()
        return [ValueError(item) if item < 0 else item * 10 for item in items]


async def test_what_is_asked_in_one_loop_turn_leaves_together():
    """What is asked later leaves later, without waiting for the answers of those before."""
    sent = Sent()
    sent.go.clear()
    coalescer = Coalescer(sent, max_items=100)
    answers = [coalescer.submit(number) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    answers.append(coalescer.submit(4))
    await asyncio.sleep(0.001)
    assert sent.turns == [[1, 2, 3], [4]]
    sent.go.set()
    assert await asyncio.gather(*answers) == [10, 20, 30, 40]
    assert not coalescer._sending and not coalescer._items


@given(st.integers(1, 5), st.integers(0, 12))
def test_no_more_than_the_most_leave_together_and_everyone_gets_its_own_answer(most, count):
    """In order; the rest in further commands."""

    async def ask():
        sent = Sent()
        coalescer = Coalescer(sent, max_items=most)
        assert await asyncio.gather(*map(coalescer.submit, range(count))) == [
            10 * number for number in range(count)
        ]
        assert all(len(items) <= most for items in sent.turns)
        assert [item for items in sent.turns for item in items] == list(range(count))
        assert len(sent.turns) == -(-count // most)

    asyncio.run(ask())


async def test_an_answer_that_is_an_error_is_raised_for_its_own_item():
    """The others get theirs."""
    coalescer = Coalescer(Sent(), max_items=100)
    first, wrong, last = await asyncio.gather(
        coalescer.submit(1), coalescer.submit(-2), coalescer.submit(3), return_exceptions=True
    )
    assert (first, str(wrong), last) == (10, "-2", 30) and isinstance(wrong, ValueError)


@pytest.mark.parametrize("answers", [OSError("down"), [1]], ids=["raises", "too few answers"])
async def test_what_goes_wrong_with_all_is_raised_for_all(answers):
    """Nobody waits for ever."""

    async def send(items):
        if isinstance(answers, Exception):
            raise answers
        return answers

    coalescer = Coalescer(send, max_items=100)
    async with asyncio.timeout(1):
        got = await asyncio.gather(coalescer.submit(1), coalescer.submit(2), return_exceptions=True)
    assert isinstance(got[1], OSError | ValueError)
    assert not coalescer._sending


async def test_who_does_not_wait_any_more_disturbs_nobody():
    """A cancelled caller's answer is thrown away.

    An error that nobody awaits is not reported as forgotten.
    """
    sent, forgotten = Sent(), []
    sent.go.clear()
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: forgotten.append(context)
    )
    coalescer = Coalescer(sent, max_items=100)
    gone, nobody, waits = coalescer.submit(1), coalescer.submit(-1), coalescer.submit(3)
    await asyncio.sleep(0)
    gone.cancel()
    sent.go.set()
    assert await waits == 30
    assert nobody.done()
    del gone, nobody
    await asyncio.sleep(0)
    assert forgotten == []


async def test_an_answer_that_nobody_waits_for_any_more_can_be_given_back():
    """What it grants would be lost; cancelled before or after the send ended."""
    for turns in range(3):
        sent, back = Sent(), []
        sent.go.clear()
        coalescer = Coalescer(sent, max_items=100, on_abandoned=back.append)
        gone, stays = coalescer.submit(1), coalescer.submit(2)
        for _ in range(turns):
            await asyncio.sleep(0)
        gone.cancel()
        sent.go.set()
        assert await stays == 20 and back == [10]


async def test_a_turn_that_somebody_else_cancels_is_named_to_all():
    """They were not cancelled, and it may have been run: Unconfirmed; the next send goes on."""
    elsewhere = asyncio.get_running_loop().create_future()
    elsewhere.cancel()

    async def send(items):
        if items == [1, 2]:
            await elsewhere
        return items

    coalescer = Coalescer(send, max_items=100)
    got = await asyncio.gather(coalescer.submit(1), coalescer.submit(2), return_exceptions=True)
    assert [type(each) for each in got] == [Unconfirmed] * 2
    assert await coalescer.submit(3) == 3


def test_another_event_loop_is_refused_at_once():
    """Also when the first one ended with something left in the turn: nobody would ever send it."""
    coalescer = Coalescer(Sent(), max_items=100)

    async def ask():
        return coalescer.submit(1)

    asyncio.run(ask())
    for _ in range(2):
        with pytest.raises(WrongLoop):
            asyncio.run(ask())
