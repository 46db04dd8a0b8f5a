"""What clients of `bench gateway` say and hear, and how it is counted."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from mpim_lab.bench.report.table import report_text
from mpim_lab.bench.rows import rows_of
from mpim_lab.errors import CorruptPayload
from mpim_lab.im.gateway.fast_connection import BINARY, PING, TEXT
from mpim_lab.im.protocol import frames as wire
from mpim_lab.im.protocol.requests import ChatMessage
from mpim_lab.im.services.tokens import TokenService, new_secret
from mpim_lab.load.gateway.client_protocol import FrameKind, ReceivedEvent
from mpim_lab.load.gateway.frames import FrameReader, Handshake, masked
from mpim_lab.load.gateway.mpim_protocol import MpimProtocol
from mpim_lab.load.gateway.plan import SwarmPlan
from mpim_lab.load.gateway.socketio_protocol import SocketIoProtocol
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import encode_batch

OPCODES = {TEXT: Opcode.TEXT, BINARY: Opcode.BINARY, PING: Opcode.PING}


# Frames


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(OPCODES)),
            st.binary(max_size=125) | st.binary(min_size=126, max_size=70_000),
        )
    ),
    st.data(),
)
def test_frames_are_read_however_they_are_cut(frames, data):
    """A server's frames come out whole and in order, wherever the network cuts them."""
    frames = [(first, payload[:125] if first == PING else payload) for first, payload in frames]
    stream = b"".join(
        Frame(OPCODES[first], payload).serialize(mask=False) for first, payload in frames
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, read = FrameReader(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        read += reader.feed(stream[begin:end])
    assert read == frames


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_server_understands_what_a_client_writes(size):
    """websockets' own server reads the handshake and a frame of every form of length."""
    server, handshake = ServerProtocol(), Handshake("127.0.0.1:80", "/ws")
    server.receive_data(handshake.request)
    (request,) = server.events_received()
    assert isinstance(request, Request) and request.path == "/ws"
    server.send_response(server.accept(request))
    answer = b"".join(server.data_to_send())
    assert handshake.feed(answer[:20]) is None
    assert handshake.feed(answer[20:] + b"\x81\x00") == b"\x81\x00"
    server.receive_data(masked(b"x" * size))
    (frame,) = server.events_received()
    assert (frame.opcode, frame.data) == (Opcode.TEXT, b"x" * size)


@pytest.mark.parametrize("stream", [b"\x01\x02hi\x80", b"\x81\x82\x00\x00", b"\x81\xff" + bytes(2)])
def test_what_a_gateway_does_not_send_is_refused(stream):
    """A fragment, a masked frame."""
    reader = FrameReader()
    with pytest.raises(CorruptPayload):
        for byte in stream:
            reader.feed(bytes([byte]))


def test_a_refused_handshake_says_with_which_status():
    """A full gateway answers with a status, not with a WebSocket."""
    handshake = Handshake("127.0.0.1:80", "/ws")
    with pytest.raises(CorruptPayload, match="503"):
        handshake.feed(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")


# MPIM


@pytest.fixture
def bob():
    return MpimProtocol("bob", TokenService(new_secret()), Codec())


def push(number, sender="alice"):
    return wire.encode(ChatMessage("alice:bob", number, f"m{number}", sender, f"text {number}"))


def test_what_a_client_says_is_what_a_gateway_reads(bob):
    """Every frame is one of the frames of `protocol/frames.py`."""
    hello = wire.decode_client(bob.hello())
    assert isinstance(hello, wire.Hello) and hello.packed
    assert wire.decode_client(bob.send("m1", "alice", "hi")) == wire.Send("m1", "hi", to="alice")
    assert wire.decode_client(bob.send_group("m2", "tea", "hi")) == wire.Send(
        "m2", "hi", group="tea"
    )
    frame, count = bob.create_group("tea", [f"u{number}" for number in range(1_000)])
    assert count == len(wire.decode_client(frame).members) == wire.MAX_WATCHED
    assert wire.decode_client(bob.join_group("tea")) == wire.Group("tea", "join")
    assert wire.decode_client(bob.keepalive()) == wire.Ping()


def test_messages_are_handed_on_once_in_order_and_acknowledged(bob):
    """A second copy is nothing new; what is acknowledged is said once, for the last number."""
    heard = [each for frame in (push(1), push(2), push(1)) for each in bob.receive(frame)]
    assert [each.text for each in heard if each.kind is FrameKind.PUSHED] == ["text 1", "text 2"]
    assert [wire.decode_client(frame) for frame in bob.flush()] == [wire.Ack("alice:bob", 2)]
    assert bob.flush() == []


def test_a_gap_is_asked_about_once_and_filled_by_the_page(bob):
    """The early ones come again with the page."""
    heard = [each for frame in (push(1), push(3), push(4)) for each in bob.receive(frame)]
    (reply,) = [each.reply for each in heard if each.reply]
    assert wire.decode_client(reply) == wire.Sync("alice:bob", 1)
    messages = tuple(
        ChatMessage("alice:bob", number, f"m{number}", "alice", "x") for number in (2, 3, 4)
    )
    page = bob.receive(wire.encode(wire.Page("alice:bob", messages, last=5)))
    assert [each.kind for each in page[:3]] == [FrameKind.PUSHED] * 3
    assert wire.decode_client(page[3].reply) == wire.Sync("alice:bob", 4)  # there is one more


def test_what_a_client_sent_itself_is_no_message(bob):
    """It comes back for the user's other devices, and has a number as all have."""
    (echo,), (message,) = bob.receive(push(1, sender="bob")), bob.receive(push(2))
    assert (echo.kind, message.kind) == (FrameKind.NOTHING, FrameKind.PUSHED)


def test_being_behind_is_asked_about_unless_it_is_the_acknowledgement_that_lacks(bob):
    """The gateway reminds a client of what it has not acknowledged."""
    bob.receive(push(1))
    bob.flush()
    assert bob.receive(wire.encode(wire.SyncHint({"alice:bob": 1}))) == (
        ReceivedEvent(FrameKind.NOTHING),
    )
    assert [wire.decode_client(frame) for frame in bob.flush()] == [wire.Ack("alice:bob", 1)]
    (behind,) = bob.receive(wire.encode(wire.SyncHint({"alice:bob": 2})))
    assert wire.decode_client(behind.reply) == wire.Sync("alice:bob", 1)


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (wire.Welcome("bob", "gw-1", {}), FrameKind.READY),
        (wire.Sent("m1", "alice:bob", 1, "pushed"), FrameKind.ANSWERED),
        (wire.Broadcast("n1", "lunch"), FrameKind.NOTICE),
        (wire.ErrorFrame("TooFast", "wait", "m1"), FrameKind.FAILED),
        (wire.Close("the gateway closes"), FrameKind.FAILED),
        (wire.Pong(), FrameKind.NOTHING),
    ],
)
def test_each_of_a_gateways_frames_is_understood(bob, frame, what):
    """As what it is to a client."""
    assert [each.kind for each in bob.receive(wire.encode(frame))] == [what]


def test_a_batch_is_unpacked(bob):
    """Compressed or not."""
    frames = [push(1), push(2)]
    for batch in (encode_batch(frames), Codec().compress(encode_batch(frames * 20))):
        assert list(bob.unpack(batch))[:2] == frames


# Socket.IO


def test_a_client_of_socket_io_is_let_in():
    """The server opens, the client names itself, the server agrees."""
    alice = SocketIoProtocol("alice")
    (opened,) = alice.receive(b'0{"sid":"x","pingInterval":25000}')
    assert (alice.hello(), opened.reply) == (b"", b'40{"uid":"alice"}')
    assert alice.receive(b'40{"sid":"y"}') == (ReceivedEvent(FrameKind.READY),)
    assert alice.receive(b"2") == (ReceivedEvent(FrameKind.NOTHING, reply=b"3"),)


def test_packets_of_socket_io_are_events_and_their_answers():
    """An event that wants an answer carries a number of its own."""
    alice = SocketIoProtocol("alice")
    first, second = alice.send("m1", "bob", "hi"), alice.join_group("tea")
    assert (first[:3], second[:3]) == (b"421", b"422")
    assert json.loads(first[3:]) == ["send", {"id": "m1", "to": "bob", "text": "hi"}]
    assert alice.receive(b'431[{"id":"m1"}]') == (ReceivedEvent(FrameKind.ANSWERED),)
    assert alice.receive(b'42["push",{"id":"m2","text":"ho"}]') == (
        ReceivedEvent(FrameKind.PUSHED, "ho"),
    )
    assert alice.receive(b'42["notice",{"text":"lunch"}]') == (
        ReceivedEvent(FrameKind.NOTICE, "lunch"),
    )
    assert alice.receive(b"41")[0].kind is FrameKind.FAILED


@pytest.mark.parametrize(
    "frame", [b"42", b"42{}", b'42["push"]', b'42["push",{}]', b'42["push",7]', b"42\xff"]
)
def test_an_event_that_cannot_be_read_is_refused(frame):
    """With an error of ours."""
    with pytest.raises(CorruptPayload):
        SocketIoProtocol("alice").receive(frame)


# Plan and rows


@given(st.integers(2, 500), st.integers(1, 4))
def test_everybody_writes_to_somebody_else_and_nobody_is_left_out(clients, parts):
    """Each client belongs to one process, and is written to by one other."""
    plans = [SwarmPlan("mpim", 1, clients, part=part, parts=parts) for part in range(parts)]
    assert [number for plan in plans for number in plan.mine] == list(range(clients))
    partners = [plans[0].partner(number) for number in range(clients)]
    assert sorted(partners) == list(range(clients))
    assert clients == 2 or all(partner != number for number, partner in enumerate(partners))


def test_rows_have_medians_sums_and_ratios_of_the_same_round():
    """A loss is not hidden by the median, a reason not by the other rounds."""
    rounds = [
        {
            "who": who,
            "round": round_,
            "case": "closed",
            "note": "n",
            "messages_per_s": rate,
            "lost": lost,
            "kept_up": True,
        }
        for who, round_, rate, lost in (
            ("mpim_lab", 1, 10.0, 0),
            ("mpim_lab", 2, 40.0, 3),
            ("peer", 1, 20.0, 0),
        )
    ]
    rounds.append({"who": "peer", "case": "closed", "round": 2, "note": "n", "reason": "it ended"})
    ours, peer = rows_of("gateway", rounds, against="mpim_lab")
    assert (ours["messages_per_s"], ours["spread"], ours["lost"], ours["vs_mpim_lab"]) == (
        25.0,
        [10.0, 40.0],
        3,
        1.0,
    )
    assert (peer["vs_mpim_lab"], peer["reason"], peer["failed_rounds"], peer["rounds"]) == (
        2.0,
        "it ended",
        1,
        1,
    )
    assert msgspec.json.encode([ours, peer])


def test_the_table_shows_who_could_not_be_measured():
    """Each reason once, and what each one promises."""
    machine = {"cpu": "Z80", "cores": 1, "python": "3.11", "server": "Valkey 9"}
    rows = [
        {
            "bench": "gateway",
            "who": "peer",
            "case": case,
            "note": "at most once",
            "reason": "no npm",
        }
        for case in "ab"
    ]
    table = report_text({"machine": machine, "rows": rows})
    assert table.count("peer: no npm") == table.count("peer: at most once") == 1
