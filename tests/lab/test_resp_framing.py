"""RESP frames: the same ones however the bytes arrive, and each reply at its command."""

import itertools

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import InvalidMessage
from mpim_lab.lab.faults.resp_framing import ReplyMatcher, RespFramer, words_of
from mpim_lab.mq.connection.resp import encode_command

WORDS = st.lists(st.binary(max_size=30), min_size=1, max_size=6)
LINE = st.text(st.characters(codec="ascii", exclude_characters="\r\n"), max_size=20).map(str.encode)
# Inside a blob anything may stand, also what looks like a frame
BLOB = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"\r\n", b"$3\r\nabc\r\n", b"*2\r\n", b">1\r\n", b"\r", b""]),
)


def blob(kind, body):
    return b"%b%d\r\n%b\r\n" % (kind, len(body), body)


def many(kind, parts):
    return b"%b%d\r\n%b" % (kind, len(parts), b"".join(parts))


def pairs(kind, entries):
    return b"%b%d\r\n%b" % (kind, len(entries), b"".join(key + value for key, value in entries))


SIMPLE = st.one_of(
    LINE.map(lambda text: b"+%b\r\n" % text),
    LINE.map(lambda text: b"-ERR %b\r\n" % text),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b":%d\r\n" % number),
    st.integers().map(lambda number: b"(%d\r\n" % number),
    st.sampled_from([b",1.5\r\n", b",inf\r\n", b",-inf\r\n", b",1e10\r\n", b"#t\r\n", b"#f\r\n"]),
    BLOB.map(lambda body: blob(b"$", body)),
    BLOB.map(lambda body: blob(b"=", b"txt:" + body)),
)
NULLS = st.sampled_from([b"_\r\n", b"$-1\r\n", b"*-1\r\n"])


def nested(inner):
    items = st.lists(inner, max_size=4)
    return st.one_of(
        items.map(lambda parts: many(b"*", parts)),
        items.map(lambda parts: many(b"~", parts)),
        st.lists(st.tuples(BLOB.map(lambda key: blob(b"$", key)), inner), max_size=3).map(
            lambda e: pairs(b"%", e)
        ),
    )


VALUES = st.recursive(SIMPLE | NULLS, nested, max_leaves=12)
PUSHES = st.lists(VALUES, min_size=1, max_size=3).map(
    lambda parts: many(b">", [blob(b"$", b"message"), *parts])
)
READ_BY_HIREDIS = VALUES | PUSHES
# hiredis knows no blob errors and takes an attribute for a value of its own
ERRORS = BLOB.map(lambda body: blob(b"!", body))
ATTRIBUTED = st.tuples(st.lists(st.tuples(SIMPLE, VALUES), max_size=2), VALUES).map(
    lambda both: pairs(b"|", both[0]) + both[1]
)
FRAMES = (
    READ_BY_HIREDIS
    | ERRORS
    | ATTRIBUTED
    | st.lists(ATTRIBUTED, max_size=2).map(lambda parts: many(b"*", parts))
)


def split(data, cuts):
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[first:last] for first, last in itertools.pairwise(places)]


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(0), max_size=12))
def test_any_split_of_any_frames_gives_the_same_frames(frames, cuts):
    """Also empty pieces, cuts between CR and LF, in a length, in a blob."""
    splitter = RespFramer()
    assert [
        frame for piece in split(b"".join(frames), cuts) for frame in splitter.feed(piece)
    ] == frames


@given(st.lists(FRAMES, max_size=4))
def test_a_frame_is_given_with_its_last_byte_and_not_before(frames):
    """Byte by byte: nothing waits for what comes after it."""
    splitter, given_at = RespFramer(), []
    for at, byte in enumerate(b"".join(frames), 1):
        given_at += [at] * len(splitter.feed(bytes([byte])))
    assert given_at == [sum(map(len, frames[: number + 1])) for number in range(len(frames))]


@given(st.lists(READ_BY_HIREDIS, max_size=6))
def test_hiredis_reads_one_value_from_each_frame(frames):
    """The values of the whole stream are those of the frames, one by one."""
    whole = hiredis.Reader(notEnoughData=StopIteration)
    whole.feed(b"".join(frames))
    one_by_one = []
    for frame in RespFramer().feed(b"".join(frames)):
        reader = hiredis.Reader(notEnoughData=StopIteration)
        reader.feed(frame)
        one_by_one.append(reader.gets())
        assert reader.gets() is StopIteration
    assert repr([whole.gets() for _ in one_by_one]) == repr(one_by_one)
    assert whole.gets() is StopIteration


@given(st.lists(WORDS, max_size=6), st.lists(st.integers(0), max_size=12))
def test_packed_commands_come_out_as_they_were_packed(commands, cuts):
    """By hiredis, whatever bytes are in their words; the words are those that were packed."""
    packed = [encode_command(*words) for words in commands]
    splitter = RespFramer()
    frames = [frame for piece in split(b"".join(packed), cuts) for frame in splitter.feed(piece)]
    assert frames == packed
    assert [words_of(frame) for frame in frames] == commands


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"PING\r\n",
            b"\r\n",
            b"HTTP/1.1 400\r\n",
            b"$?\r\n;1\r\na\r\n",
            b"*?\r\n",
            b"$-2\r\n",
            b"$+3\r\nabc\r\n",
        ),
        *(b"$ 3\r\n", b"$3\r\nabcd\r\n", b"*1\r\nx\r\n", b"$\r\n", b"%1_0\r\n"),
    ],
)
def test_what_is_no_resp_is_refused(data):
    """InvalidMessage: inline commands and streamed types, too; byte by byte as well as at once."""
    with pytest.raises(InvalidMessage, match="RESP"):
        RespFramer().feed(data)
    splitter = RespFramer()
    with pytest.raises(InvalidMessage, match="RESP"):
        for byte in data:
            splitter.feed(bytes([byte]))


def test_a_frame_beyond_the_bound_is_refused():
    """Whether it is long by what it announced or a line without an end."""
    with pytest.raises(InvalidMessage, match="1,000 bytes"):
        RespFramer(max_bytes=1_000).feed(b"$100000\r\n" + b"x" * 1_000)
    with pytest.raises(InvalidMessage):
        RespFramer().feed(b"+" + b"x" * 1024 * 1025)
    assert (
        len(RespFramer(max_bytes=1_000).feed(b"$500\r\n" + b"x" * 500 + b"\r\n" + b"+OK\r\n" * 500))
        == 501
    )


@pytest.mark.parametrize(
    "frame", [b"+PING\r\n", b"$4\r\nPING\r\n", b"*1\r\n:1\r\n", b"*1\r\n*1\r\n$1\r\na\r\n"]
)
def test_a_frame_that_is_no_command_has_no_words(frame):
    """A command is an array of bulk strings."""
    with pytest.raises(InvalidMessage, match="packed command"):
        words_of(frame)


# PipelineFuture and commands


@given(
    st.lists(
        st.tuples(WORDS.map(lambda words: [b"GET", *words]), VALUES, st.booleans()), max_size=8
    )
)
def test_the_nth_reply_belongs_to_the_nth_command_whatever_is_pushed_between(exchanges):
    """PipelineFuture of any shape; a push before a reply belongs to nobody."""
    matcher = ReplyMatcher()
    asked = [matcher.command(encode_command(*words)) for words, _, _ in exchanges]
    for command, (_, reply, is_pushed) in zip(asked, exchanges, strict=True):
        if is_pushed:
            assert matcher.reply(b">2\r\n$7\r\nmessage\r\n$1\r\na\r\n") is None
        assert matcher.reply(reply) is command
    assert not matcher.waiting


def told(mark, *words):
    return many(mark, [blob(b"$", word) for word in words])


@pytest.mark.parametrize("mark", [b">", b"*"])
def test_a_subscription_is_answered_once_for_each_channel(mark):
    """By a push in RESP3, by an array in RESP2.

    Messages between belong to nobody, and the next command gets its own.
    """
    matcher = ReplyMatcher()
    subscribe, ping = (
        matcher.command(encode_command("subscribe", "a", "b")),
        matcher.command(encode_command("PING")),
    )
    assert matcher.reply(told(mark, b"subscribe", b"a", b"1")) is subscribe
    assert matcher.reply(told(mark, b"message", b"a", b"hello")) is None
    assert matcher.reply(told(mark, b"subscribe", b"b", b"2")) is subscribe
    assert matcher.reply(told(b"*", b"pong", b"")) is ping
    assert matcher.reply(told(mark, b"message", b"b", b"hello")) is None


def test_a_refused_subscription_is_answered_by_one_error():
    """However many channels it named."""
    matcher = ReplyMatcher()
    subscribe, ping = (
        matcher.command(encode_command("SUBSCRIBE", "a", "b")),
        matcher.command(encode_command("PING")),
    )
    assert matcher.reply(b"-NOPERM no\r\n") is subscribe
    assert matcher.reply(b"+PONG\r\n") is ping


def test_a_list_that_looks_like_a_message_is_a_reply():
    """Where nobody has subscribed, and in RESP3, where messages are pushes."""
    matcher = ReplyMatcher()
    matcher.command(encode_command("SUBSCRIBE", "a"))
    matcher.reply(told(b">", b"subscribe", b"a", b"1"))
    listing = matcher.command(encode_command("LRANGE", "k", "0", "-1"))
    assert matcher.reply(told(b"*", b"message", b"a", b"b")) is listing


def test_unsubscribing_from_everything_takes_one_answer():
    """How many there will be is not known; further ones are pushes like any other."""
    matcher = ReplyMatcher()
    everything, ping = (
        matcher.command(encode_command("UNSUBSCRIBE")),
        matcher.command(encode_command("PING")),
    )
    assert matcher.reply(told(b">", b"unsubscribe", b"a", b"1")) is everything
    assert matcher.reply(told(b">", b"unsubscribe", b"b", b"0")) is None
    assert matcher.reply(b"+PONG\r\n") is ping


def test_an_empty_array_waits_for_no_answer():
    """The server gives none; and a farewell that nobody asked for belongs to nobody."""
    matcher = ReplyMatcher()
    assert matcher.command(b"*0\r\n").name == matcher.command(b"*-1\r\n").name == ""
    assert matcher.reply(b"-ERR max number of clients reached\r\n") is None


@pytest.mark.parametrize(
    "command", [("MONITOR",), ("psync", "?", "-1"), ("CLIENT", "reply", "OFF")]
)
def test_commands_whose_replies_cannot_be_counted_are_refused(command):
    """InvalidMessage, with the command's name."""
    with pytest.raises(InvalidMessage, match=command[0].upper()):
        ReplyMatcher().command(encode_command(*command))
