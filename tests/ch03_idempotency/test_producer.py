"""IdempotentProducer.

One id for all attempts, one message of a conversation at a time, and an honest last word.
"""

import asyncio

import pytest

from mpim_lab.errors import (
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    InvalidMessage,
    InvalidParameter,
    LeaseLost,
    LoginRejected,
    NoSuchGroup,
    NotConnected,
    QueueClosed,
    QueueFull,
    Unconfirmed,
    WrongLoop,
)
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.idempotency.producer import IdempotentProducer
from tests.support import wait_until

QUICK = Backoff(initial_s=0.001, max_s=0.002)


class Server:
    """Answers each attempt with the next of `says`.

    An error is raised, anything else is the answer; then "taken".
    """

    def __init__(self, *says):
        self.says, self.calls = list(says), []

    async def append(self, conversation, payload, id):
        self.calls.append((conversation, payload, id))
        await asyncio.sleep(0)
        said = self.says.pop(0) if self.says else "taken"
        if isinstance(said, Exception):
            raise said
        return said


class Doors:
    """Each attempt waits until it is let through; who is inside is known."""

    def __init__(self):
        self.inside, self.order, self.open = [], [], asyncio.Event()

    async def append(self, conversation, payload, id):
        self.inside.append(conversation)
        self.order.append(payload)
        try:
            await self.open.wait()
        finally:
            self.inside.remove(conversation)


async def test_the_first_answer_is_the_callers():
    """One attempt, with an id of the producer's own."""
    server = Server(7)
    assert await IdempotentProducer(server.append).send("bob", b"hi") == 7
    ((conversation, payload, used),) = server.calls
    assert (conversation, payload, len(used)) == ("bob", b"hi", 32)


@pytest.mark.parametrize("id", [None, "m17"])
async def test_every_attempt_has_the_same_id_and_every_message_its_own(id):
    """The caller's, if there is one."""
    server = Server(CommandTimeout(), ConnectionLost(), NotConnected())
    producer = IdempotentProducer(server.append, backoff=QUICK)
    assert await producer.send("bob", b"hi", id=id) == "taken"
    await producer.send("bob", b"hi")
    *first, second = [call[2] for call in server.calls]
    assert (len(first), len({*first})) == (4, 1)
    assert id in (None, first[0]) and second != first[0]


@pytest.mark.parametrize(
    "error",
    [
        CommandTimeout(),
        ConnectionLost(),
        NotConnected(),
        QueueFull(),
        *map(
            CommandRejected,
            ("LOADING the data set", "BUSY with a script", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN"),
        ),
    ],
    ids=repr,
)
async def test_what_may_pass_is_tried_again(error):
    """A line that is down, a server that is busy with itself."""
    server = Server(error, error)
    assert await IdempotentProducer(server.append, backoff=QUICK).send("bob", b"hi") == "taken"
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    "error",
    [
        InvalidMessage("m"),
        InvalidParameter("p"),
        CommandRejected("WRONGTYPE"),
        QueueClosed("q"),
        OSError("o"),
    ],
    ids=repr,
)
async def test_what_cannot_pass_is_raised_at_once(error):
    """The same error, after one attempt."""
    server = Server(error)
    with pytest.raises(type(error)) as raised:
        await IdempotentProducer(server.append, backoff=QUICK).send("bob", b"hi")
    assert raised.value is error
    assert len(server.calls) == 1


async def test_if_no_attempt_can_have_been_run_the_last_error_says_so():
    """Definite: the caller may send it as another message."""
    server = Server(QueueFull(), NotConnected("first"), NotConnected("last"), "too late")
    with pytest.raises(NotConnected, match="last") as raised:
        await IdempotentProducer(server.append, max_attempts=3, backoff=QUICK).send("bob", b"hi")
    assert raised.value.definite and len(server.calls) == 3


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_if_one_attempt_may_have_been_run_the_end_is_unconfirmed(at):
    """Whichever it was, and however definite the last error is; the cause is the last error."""
    errors = [NotConnected("a"), NotConnected("b"), NotConnected("c")]
    errors[at] = CommandTimeout("perhaps")
    server = Server(*errors)
    with pytest.raises(Unconfirmed, match="'m17' was sent 3 times") as raised:
        await IdempotentProducer(server.append, max_attempts=3, backoff=QUICK).send(
            "bob", b"hi", id="m17"
        )
    assert not raised.value.definite and raised.value.__cause__ is errors[-1]


@pytest.mark.parametrize("error", [CommandRejected("WRONGTYPE"), QueueClosed()], ids=repr)
async def test_a_refusal_does_not_unsay_an_attempt_that_may_have_been_run(error):
    """The second attempt certainly failed.

    The first may have been taken, and that is what the caller must know.
    """
    server = Server(ConnectionLost(), error)
    with pytest.raises(Unconfirmed) as raised:
        await IdempotentProducer(server.append, backoff=QUICK).send("bob", b"hi")
    assert raised.value.__cause__ is error
    assert len(server.calls) == 2


async def test_of_one_conversation_one_message_is_on_its_way_of_several_several():
    """In the order in which they were sent, also while the first is repeated."""
    doors = Doors()
    producer = IdempotentProducer(doors.append)
    sends = [
        asyncio.create_task(producer.send(c, b"%s%d" % (c.encode(), n)))
        for n in range(3)
        for c in ("a", "b")
    ]
    await wait_until(lambda: len(doors.inside) == 2)
    assert sorted(doors.inside) == ["a", "b"]
    doors.open.set()
    await asyncio.gather(*sends)
    for name in (b"a", b"b"):
        assert [payload for payload in doors.order if payload[:1] == name] == [
            name + b"%d" % n for n in range(3)
        ]


async def test_a_message_that_is_repeated_holds_up_those_behind_it():
    """Otherwise the second would overtake the first."""
    server = Server(CommandTimeout(), CommandTimeout())
    producer = IdempotentProducer(server.append, backoff=QUICK)
    await asyncio.gather(*(producer.send("bob", payload) for payload in (b"1", b"2", b"3")))
    assert [call[1] for call in server.calls] == [b"1", b"1", b"1", b"2", b"3"]


async def test_a_message_that_fails_lets_the_next_one_go():
    """Nobody waits for ever for somebody who gave up."""
    server = Server(InvalidMessage("1"))
    producer = IdempotentProducer(server.append)
    first, second = await asyncio.gather(
        producer.send("bob", b"1"), producer.send("bob", b"2"), return_exceptions=True
    )
    assert isinstance(first, InvalidMessage) and second == "taken"


async def test_nothing_is_left_of_a_conversation_when_nobody_sends():
    """However its sends ended: a producer may see a million conversations."""
    producer = IdempotentProducer(Server(InvalidMessage(), *[None] * 98, OSError()).append)
    sends = (producer.send(f"c{number % 30}", b"hi") for number in range(100))
    assert len(await asyncio.gather(*sends, return_exceptions=True)) == 100
    assert (producer._locks, producer._senders) == ({}, {})


async def test_a_send_that_is_cancelled_lets_the_next_one_go():
    """Whether it was on its way, waited for its turn, or for its next attempt.

    Nothing is left of it.
    """
    doors = Doors()
    producer = IdempotentProducer(doors.append)
    sends = [asyncio.create_task(producer.send("bob", b"%d" % number)) for number in range(4)]
    await wait_until(lambda: doors.inside)
    for number in (1, 0):
        sends[number].cancel()
    await asyncio.wait(sends[:2])
    await wait_until(lambda: doors.order == [b"0", b"2"])
    doors.open.set()
    await asyncio.gather(*sends[2:])
    assert all(send.cancelled() for send in sends[:2])
    assert doors.order == [b"0", b"2", b"3"]

    waits = IdempotentProducer(
        Server(CommandTimeout()).append, backoff=Backoff(initial_s=60.0, max_s=60.0)
    )
    waiting = asyncio.create_task(waits.send("bob", b"1"))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await waits.send("bob", b"2") == "taken"
    assert not (producer._locks or producer._senders or waits._locks or waits._senders)


async def test_at_least_one_attempt():
    """None would be no send."""
    with pytest.raises(InvalidParameter, match="max_attempts=0"):
        IdempotentProducer(Server().append, max_attempts=0)


@pytest.mark.parametrize(
    "code", ["READONLY", "NOREPLICAS", "OOM", "LOADING", "MISCONF", "MASTERDOWN"]
)
async def test_what_the_server_refuses_for_now_is_sent_again(code):
    """A failover, a full server: the same list for every part that repeats."""
    server = Server(
        CommandRejected(f"{code} not now"), CommandRejected("ERR of a script's", code=code)
    )
    assert await IdempotentProducer(server.append, backoff=QUICK).send("bob", b"hi") == "taken"
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    "error", [LoginRejected("no"), WrongLoop("elsewhere"), LeaseLost("gone"), NoSuchGroup("none")]
)
async def test_what_no_repeat_can_change_is_raised_at_once(error):
    """Of every kind."""
    server = Server(error)
    with pytest.raises(type(error)):
        await IdempotentProducer(server.append, backoff=QUICK).send("bob", b"hi")
    assert len(server.calls) == 1


async def test_a_cancellation_of_somebody_elses_is_named_and_the_next_one_is_sent():
    """Unconfirmed: it may have been taken. The caller was not cancelled."""
    elsewhere = asyncio.get_running_loop().create_future()
    elsewhere.cancel()

    async def append(conversation, payload, id):
        if payload == b"first":
            await elsewhere
        return "taken"

    producer = IdempotentProducer(append)
    with pytest.raises(Unconfirmed):
        await producer.send("bob", b"first")
    assert await producer.send("bob", b"second") == "taken"


@pytest.mark.parametrize("turn", range(7))
async def test_a_sender_that_is_cancelled_at_any_moment_leaves_the_conversation_to_the_next(turn):
    """Waiting for its turn, sending, pausing: nothing is kept of it."""
    producer = IdempotentProducer(
        Server(NotConnected("down"), NotConnected("down")).append, backoff=QUICK
    )
    senders = [asyncio.create_task(producer.send("bob", payload)) for payload in (b"a", b"b", b"c")]
    for victim in senders[:2]:
        for _ in range(turn):
            await asyncio.sleep(0)
        victim.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait(senders)
    assert senders[2].result() == "taken"
    assert not producer._locks and not producer._senders


def test_another_event_loop_is_refused_at_once():
    """Its locks belong to the first one."""
    producer = IdempotentProducer(Server().append)
    assert asyncio.run(producer.send("bob", b"a")) == "taken"
    with pytest.raises(WrongLoop):
        asyncio.run(producer.send("bob", b"b"))


async def test_a_send_from_inside_its_own_turn_is_refused():
    """It would wait for itself; to another conversation it may send."""

    async def append(conversation, payload, id):
        return await producer.send("log", payload)

    producer = IdempotentProducer(append, backoff=QUICK)
    async with asyncio.timeout(5):
        with pytest.raises(InvalidParameter, match="its own turn"):
            await producer.send("chat", b"x")
    assert not producer._locks
