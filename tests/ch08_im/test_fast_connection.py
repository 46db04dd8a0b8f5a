"""FastServerConnection.

Whatever arrives, cut wherever, is received once and in order, on the fast path or the library's.
"""

import asyncio
import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Frame, Opcode

from mpim_lab.im.gateway.fast_connection import BINARY, CLOSE, PONG, TEXT, FastServerConnection
from mpim_lab.im.protocol.frames import MAX_FRAME_BYTES
from mpim_lab.load.gateway.frames import FrameReader, Handshake, masked

QUICK = b"quick"  # what `on_frame` takes; everything else is for whoever reads


class Ear:
    """A server that writes down what it hears, and which way it came; and answers with that."""

    def __init__(self):
        self.heard, self.quickly = [], 0

    async def serve(self, ws):
        def on_frame(payload):
            if not payload.startswith(QUICK):
                return False
            self.heard.append(payload)
            self.quickly += 1
            ws.write([payload])
            return True

        ws.on_frame = on_frame
        with contextlib.suppress(ConnectionClosed):
            async for frame in ws:
                await asyncio.sleep(0)  # others could overtake it here
                raw = frame.encode() if isinstance(frame, str) else frame
                self.heard.append(raw)
                ws.write([raw]) if isinstance(frame, str) else ws.write([raw], BINARY)
                ws.unread_frames -= 1


@contextlib.asynccontextmanager
async def listening():
    """A server with one connection; gives what it hears, and a way to talk to it byte by byte."""
    ear = Ear()
    options = {
        "create_connection": FastServerConnection,
        "max_size": MAX_FRAME_BYTES,
        "compression": None,
    }
    async with serve(
        ear.serve, "127.0.0.1", 0, ping_interval=None, close_timeout=0.2, max_queue=8, **options
    ) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        yield ear, Mouth(reader, writer)
        writer.close()


class Mouth:
    """The client's end: says bytes, hears frames."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.handshake, self._frames = Handshake("127.0.0.1", "/ws"), FrameReader()
        self._is_open, self._heard = False, []

    async def say(self, *pieces):
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def open(self, cut_at=0, more=b""):
        """The handshake, to its end; its request in two pieces, and more behind it."""
        request = self.handshake.request
        if cut_at:
            await self.say(request[:cut_at])
            await asyncio.sleep(0.01)  # so that the server has it before the rest comes
        await self.say((request[cut_at:] if cut_at else request) + more)
        while not self._is_open:
            await self._read()

    async def hear(self, count):
        """The next frames, as (first byte, payload); fewer if the connection ends."""
        async with asyncio.timeout(10):
            while len(self._heard) < count and await self._read():
                pass
        some, self._heard = self._heard[:count], self._heard[count:]
        return some

    async def _read(self):
        data = await self.reader.read(65_536)
        rest = data if self._is_open else self.handshake.feed(data)
        if rest is not None:
            self._is_open = True
            self._heard += self._frames.feed(rest)
        return data


def frame(payload, opcode=Opcode.TEXT, *, fin=True):
    """A client's frame, with a key of its own."""
    return Frame(opcode, payload, fin).serialize(mask=True)


def fragments(payload):
    """One text in three frames, with a ping between them."""
    third = len(payload) // 3
    parts = payload[:third], payload[third : 2 * third], payload[2 * third :]
    return b"".join(
        [
            frame(parts[0], Opcode.TEXT, fin=False),
            frame(b"in between", Opcode.PING),
            frame(parts[1], Opcode.CONT, fin=False),
            frame(parts[2], Opcode.CONT),
        ]
    )


KINDS = {
    "quick": lambda text: (frame(QUICK + text), [(TEXT, QUICK + text)]),
    "slow": lambda text: (frame(b"slow" + text), [(TEXT, b"slow" + text)]),
    "ping": lambda text: (frame(text[:20], Opcode.PING), []),
    "pong": lambda text: (frame(text[:20], Opcode.PONG), []),
}
OTHER_KINDS = {
    "fragments": lambda text: (fragments(QUICK + text), [(TEXT, QUICK + text)]),
    "binary": lambda text: (frame(QUICK + text, Opcode.BINARY), [(BINARY, QUICK + text)]),
}
sizes = st.one_of(
    st.integers(0, 40),
    st.sampled_from([121 - 5, 122, 125, 126, 127, 128, 250, 4_000, MAX_FRAME_BYTES - 5]),
)
usual = st.tuples(st.sampled_from(sorted(KINDS)), sizes)
unusual = st.tuples(st.sampled_from(sorted(KINDS | OTHER_KINDS)), sizes)


def play(kinds, seed, is_glued=False):
    """Say these frames in pieces of any size.

    Gives the ear, what was heard back and what should have been.
    """
    rng, said, expected = random.Random(seed), b"", []
    for number, (kind, size) in enumerate(kinds):
        text = b"%d " % number
        frames, answers = (KINDS | OTHER_KINDS)[kind](text + b"x" * max(0, size - len(text)))
        said += frames
        expected += answers
    first = rng.randrange(min(len(said), 300)) if is_glued else 0
    pieces, at = [], first
    while at < len(said):
        size = rng.choice((1, 2, 3, 7, 50, 1_000, 40_000))
        pieces.append(said[at : at + size])
        at += size

    async def run():
        async with listening() as (ear, mouth):
            await mouth.open(more=said[:first])
            await mouth.say(*pieces)
            answers = []
            while len(answers) < len(expected):
                some = await mouth.hear(1)
                assert some, "the connection ended"
                answers += [each for each in some if each[0] != PONG]
            return ear, answers

    return *asyncio.run(run()), expected


SETTINGS = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@SETTINGS
@given(kinds=st.lists(usual, min_size=1, max_size=30), seed=st.integers(0, 1_000))
def test_usual_frames_are_heard_in_order_wherever_they_are_cut(kinds, seed):
    """One after another, whether answered at once or waited for; none is overtaken."""
    ear, answers, expected = play(kinds, seed)
    assert answers == expected
    assert ear.heard == [payload for _, payload in expected]


@SETTINGS
@given(
    kinds=st.lists(unusual, min_size=1, max_size=30),
    seed=st.integers(0, 1_000),
    is_glued=st.booleans(),
)
def test_so_are_all_frames_that_the_protocol_knows(kinds, seed, is_glued):
    """Fragments, binary frames, frames that came with the handshake.

    From there on the library reads.
    """
    ear, answers, expected = play(kinds, seed, is_glued)
    assert answers == expected
    assert ear.heard == [payload for _, payload in expected]


async def test_what_can_be_answered_at_once_is():
    """A hundred frames in one piece, and not one waits for the task that reads.

    Behind one that waits, all do.
    """
    async with listening() as (ear, mouth):
        await mouth.open()
        await mouth.say(frame(b"slow"))
        await mouth.hear(1)
        await mouth.say(b"".join(frame(b"quick %d" % number) for number in range(100)))
        assert len(await mouth.hear(100)) == ear.quickly == 100
        await mouth.say(frame(b"slow") + frame(b"quick"))
        await mouth.hear(2)
        assert ear.quickly == 100
        await mouth.say(frame(b"quick"))
        await mouth.hear(1)
        assert ear.quickly == 101


@pytest.mark.parametrize("cut_at", [-1, -2, -3, -4, 20, 0])
async def test_a_request_may_come_in_pieces(cut_at):
    """Wherever it is cut, its end is seen."""
    async with listening() as (ear, mouth):
        await mouth.open(cut_at)
        await mouth.say(frame(b"slow"))
        await mouth.hear(1)
        await mouth.say(frame(b"quick"))
        await mouth.hear(1)
        assert ear.quickly == 1


async def test_what_comes_with_the_handshake_is_not_taken_for_a_beginning():
    """A frame within a frame, cut so that the second piece looks like a frame of its own."""
    inner = masked(b"quick, and not mine")
    outer = masked(inner, BINARY)
    async with listening() as (ear, mouth):
        await mouth.open(0, outer[: -len(inner)])
        await mouth.say(inner)
        assert await mouth.hear(1) == [(BINARY, inner)]
        assert ear.heard == [inner]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (frame(b"x" * (MAX_FRAME_BYTES + 1)), CloseCode.MESSAGE_TOO_BIG),
        (frame(b"x" * 70_000), CloseCode.MESSAGE_TOO_BIG),
        (Frame(Opcode.TEXT, b"quick").serialize(mask=False), CloseCode.PROTOCOL_ERROR),
        (b"\xc1" + frame(b"quick")[1:], CloseCode.PROTOCOL_ERROR),
        (b"\x83" + frame(b"quick")[1:], CloseCode.PROTOCOL_ERROR),
        (frame(b"quick", Opcode.CONT), CloseCode.PROTOCOL_ERROR),
        (b"\x8a" + frame(b"x" * 126)[1:], CloseCode.PROTOCOL_ERROR),
        (frame(b"\xff\xfe"), CloseCode.INVALID_DATA),
        (frame(b"\x03\xe8", Opcode.CLOSE), CloseCode.NORMAL_CLOSURE),
    ],
    ids=[
        "too big",
        "much too big",
        "no mask",
        "reserved bit",
        "unknown kind",
        "no beginning",
        "long control",
        "no UTF-8",
        "close",
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection_with_its_code(raw, code):
    """As the library has it, also after frames that it never saw; nothing that follows is heard."""
    async with listening() as (ear, mouth):
        await mouth.open()
        await mouth.say(frame(b"quick 1") + raw + frame(b"quick 2"))
        first, last = await mouth.hear(2)
        assert first == (TEXT, b"quick 1") and last[0] == CLOSE
        assert int.from_bytes(last[1][:2], "big") == code
        assert ear.heard == [b"quick 1"]


async def test_nothing_is_written_to_a_connection_that_is_closing():
    """A push that comes too late is dropped without a word; the log has it."""
    sockets = []

    async def keep(ws):
        sockets.append(ws)
        await ws.wait_closed()

    async with serve(
        keep, "127.0.0.1", 0, create_connection=FastServerConnection, ping_interval=None
    ) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(Handshake("127.0.0.1", "/ws").request)
        await reader.readuntil(b"\r\n\r\n")
        (ws,) = sockets
        ws.transport.abort()
        ws.write([b"late"])
        ws.write([b"late"], BINARY)
        await ws.wait_closed()
        ws.write([b"later"])
        ws.write([b"later"], BINARY)
        assert await reader.read() == b""
        writer.close()
