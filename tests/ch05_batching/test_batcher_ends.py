"""Whatever carriers, codecs, rules and callers of a batcher do.

Every wait ends, by name, and the next one is served.
"""

import asyncio

import pytest

from mpim_lab.errors import (
    CommandRejected,
    InvalidParameter,
    MpimError,
    NotConnected,
    QueueClosed,
    Unconfirmed,
    WrongLoop,
)
from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.batching.flow_control import CreditWindow
from mpim_lab.mq.batching.policies import Adaptive, SizeOnly
from mpim_lab.mq.connection.retry import Backoff
from tests.ch05_batching.test_flusher import AT_ONCE, ScriptedTransport

IN_TIME_S = 10
OOM = CommandRejected("OOM command not allowed")


class Stubborn(ScriptedTransport):
    """Hangs, and takes no notice of being cancelled, until it is let go."""

    def __init__(self):
        super().__init__(gate=asyncio.Event())

    async def send(self, payloads):
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                continue
        return await super().send(payloads)

    async def close(self):
        await self.send([b"the end"])


class Partial(ScriptedTransport):
    """Gives the outcomes that its script says, a list for each write."""

    async def send(self, payloads):
        outcomes = self.script.pop(0) if self.script else ["ok"] * len(payloads)
        self.out += [p for p, outcome in zip(payloads, outcomes, strict=False) if outcome == "ok"]
        await asyncio.sleep(0)
        return outcomes


async def test_close_ends_in_its_time_whatever_the_transport_does():
    """What is on its way may have been sent, what was not begun certainly was not.

    Each has its error by then.
    """
    transport = Stubborn()
    batcher = Batcher(transport, policy=Adaptive(max_messages=1), close_timeout_s=0.1)
    await batcher.open()
    receipts = [batcher.add("a"), batcher.add("b")]
    await asyncio.sleep(0.01)
    async with asyncio.timeout(IN_TIME_S):
        await batcher.close()
        await batcher.close()
    errors = [receipt.result()[0] for receipt in receipts]
    assert [(type(error), error.definite) for error in errors] == [
        (Unconfirmed, False),
        (QueueClosed, True),
    ]
    transport.gate.set()
    await asyncio.sleep(0.01)
    assert sorted(transport.out) == [b"a", b"the end", b"the end"]


async def test_what_waits_to_be_tried_again_when_the_time_is_over_was_certainly_not_sent():
    """Its error is why it could not be written."""
    transport = ScriptedTransport([NotConnected("down")] * 1_000)
    batcher = Batcher(transport, close_timeout_s=0.1, backoff=Backoff(initial_s=60, max_s=60))
    await batcher.open()
    receipt = batcher.add("a")
    async with asyncio.timeout(IN_TIME_S):
        await batcher.close()
    assert isinstance(receipt.result()[0], NotConnected)


async def test_flush_and_publish_end_although_the_transport_hangs():
    """The attempt is given up by name; the next message goes through."""
    transport = ScriptedTransport(gate=asyncio.Event())
    async with (
        asyncio.timeout(IN_TIME_S),
        Batcher(transport, delivery_timeout_s=0.1, attempt_timeout_s=0.1) as batcher,
    ):
        with pytest.raises(Unconfirmed):
            await batcher.publish("a")
        receipt = batcher.add("b")
        await batcher.flush()
        assert isinstance(receipt.result()[0], Unconfirmed)
        transport.gate.set()
        assert await batcher.publish("c") == "c"


async def test_flush_says_so_when_its_own_time_is_over():
    """Unconfirmed: it is still being sent, and comes through."""
    transport = Stubborn()
    async with (
        asyncio.timeout(IN_TIME_S),
        Batcher(transport, delivery_timeout_s=0.1, attempt_timeout_s=0.1) as batcher,
    ):
        receipt = batcher.add("a")
        with pytest.raises(Unconfirmed, match="1 messages"):
            await batcher.flush()
        transport.gate.set()
        await asyncio.wait([receipt])


async def test_flush_waits_for_all_although_the_last_caller_was_cancelled():
    """What was taken before that one is not forgotten."""
    transport = ScriptedTransport()
    async with asyncio.timeout(IN_TIME_S), Batcher(transport, policy=SizeOnly()) as batcher:
        first, last = batcher.add("a"), batcher.add("b")
        last.cancel()
        await batcher.flush()
        assert first.result() == ["a"] and transport.out == [b"a", b"b"]


@pytest.mark.parametrize("broken", ["is_full", "flush_deadline", "max_messages"])
async def test_a_rule_that_raises_fails_its_messages_by_name_and_no_others(broken):
    """They were certainly not sent; once the rule is well again, messages go through."""

    class Rule:
        max_bytes, is_well = 1_000, False

        def _break(self, name):
            if name == broken and not self.is_well:
                raise KeyError("a bug")

        @property
        def max_messages(self):
            self._break("max_messages")
            return 10

        def is_full(self, messages, size):
            self._break("is_full")
            return False

        def flush_deadline(self, oldest_at):
            self._break("flush_deadline")
            return oldest_at + (60 if broken == "is_full" else 0)

    policy = Rule()
    async with asyncio.timeout(IN_TIME_S), Batcher(ScriptedTransport(), policy=policy) as batcher:
        with pytest.raises(InvalidParameter, match="KeyError") as error:
            await batcher.publish("a")
        assert error.value.definite and isinstance(error.value.__cause__, KeyError)
        policy.is_well = True
        receipt = batcher.add("b")
        await batcher.flush()
        assert receipt.result() == ["b"]


async def test_a_rule_that_makes_no_batch_at_all_sends_one_message_at_a_time():
    """Nobody waits for ever, and the loop does not turn in vain."""

    class Rule(Adaptive):
        max_messages = 0

        def __post_init__(self):
            pass

    async with asyncio.timeout(IN_TIME_S), Batcher(ScriptedTransport(), policy=Rule()) as batcher:
        assert await batcher.publish_many(["a", "b"]) == ["a", "b"]


async def test_a_cancellation_of_somebody_elses_is_a_failure_of_its_batch_only():
    """A transport or codec awaited what others cancelled.

    Its messages are told, the sender lives.
    """

    class Meets(ScriptedTransport):
        async def send(self, payloads):
            if not self.script:
                return await super().send(payloads)
            self.script.pop()
            elsewhere = asyncio.get_running_loop().create_future()
            elsewhere.cancel()
            await elsewhere

    async with asyncio.timeout(IN_TIME_S), Batcher(Meets([1])) as batcher:
        with pytest.raises(Unconfirmed) as error:
            await batcher.publish("a")
        assert isinstance(error.value.__cause__, asyncio.CancelledError)
        assert await batcher.publish("b") == "b"


async def test_what_the_server_refuses_for_now_is_sent_again_in_its_place():
    """A full server, a failover: neither lost nor out of order."""
    transport = ScriptedTransport([OOM, CommandRejected("READONLY You can't write"), 1, OOM])
    async with asyncio.timeout(IN_TIME_S), Batcher(transport, backoff=AT_ONCE) as batcher:
        assert await batcher.publish_many(list("abc")) == ["a", "b", "c"]
    assert transport.out == [b"a", b"b", b"c"]


async def test_what_was_refused_before_one_that_was_done_is_not_sent_after_it():
    """It has its error; those at the end are sent again."""
    transport = Partial([["ok", OOM, "ok", OOM, OOM]])
    async with asyncio.timeout(IN_TIME_S), Batcher(transport, backoff=AT_ONCE) as batcher:
        receipts = [batcher.add(name) for name in "abcde"]
        await batcher.flush()
    assert [receipt.result()[0] for receipt in receipts] == ["ok", OOM, "ok", "ok", "ok"]
    assert transport.out == [b"a", b"c", b"d", b"e"]


async def test_who_waits_for_room_when_the_sender_ends_is_sent_away():
    """Not taken in where nobody sends any more."""
    transport = ScriptedTransport(gate=asyncio.Event())
    batcher = Batcher(
        transport, policy=Adaptive(max_messages=1), max_pending_bytes=1, close_timeout_s=0.1
    )
    await batcher.open()
    batcher.add("a")
    await asyncio.sleep(0.01)
    batcher.add("b")
    waiting = [asyncio.ensure_future(batcher.publish(name)) for name in "cd"]
    await asyncio.sleep(0.01)
    batcher._task.cancel()
    async with asyncio.timeout(IN_TIME_S):
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        await batcher.close()
    assert [type(error) for error in errors] == [QueueClosed] * 2


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("call", ["publish", "publish_many", "flush", "close"])
async def test_a_caller_that_is_cancelled_at_any_moment_leaves_the_batcher_as_it_was(call, turn):
    """The next one is served; a place in line is not lost."""
    transport = ScriptedTransport()
    batcher = Batcher(transport, policy=Adaptive(max_messages=1), max_pending_bytes=1)
    async with asyncio.timeout(IN_TIME_S), batcher:
        others = [asyncio.ensure_future(batcher.publish(name)) for name in "abc"]
        arguments = {"publish": ["x"], "publish_many": [["y", "z"]]}.get(call, [])
        victim = asyncio.ensure_future(getattr(batcher, call)(*arguments))
        for _ in range(turn):
            await asyncio.sleep(0)
        victim.cancel()
        await asyncio.wait([victim, *others])
        if call != "close":
            assert [other.result() for other in others] == ["a", "b", "c"]
            assert await batcher.publish("d") == "d"
    assert not batcher.pending


async def test_a_batcher_that_is_closed_while_it_is_opened_does_not_begin():
    """Nothing stays open behind it."""
    ends = []

    class Slow(ScriptedTransport):
        async def open(self):
            await asyncio.sleep(0.01)

        async def close(self):
            ends.append(1)

    batcher = Batcher(Slow())
    opening = asyncio.ensure_future(batcher.open())
    await asyncio.sleep(0)
    with pytest.raises(InvalidParameter):
        await batcher.open()
    await batcher.close()
    with pytest.raises(QueueClosed):
        await opening
    assert ends == [1] and not batcher.is_open


def test_another_event_loop_is_refused_at_once():
    """Each call, by name; what was taken in the first one has its outcome."""
    transport = ScriptedTransport()
    batcher = Batcher(transport)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(batcher.open())

        async def add():
            batcher.add("x")

        for call in (
            lambda: batcher.publish("x"),
            lambda: batcher.publish_many(["x"]),
            batcher.flush,
            batcher.close,
            add,
        ):
            with pytest.raises(WrongLoop) as error:
                second.run(call())
            assert error.value.definite
        with pytest.raises(WrongLoop):
            batcher.add("x")
        first.run(batcher.close())
    assert transport.out == []


@pytest.mark.parametrize("bad", [0, float("inf"), float("nan")])
def test_a_time_without_an_end_is_refused(bad):
    """Whatever waits must end."""
    for name in ("enqueue_timeout_s", "delivery_timeout_s", "attempt_timeout_s", "close_timeout_s"):
        with pytest.raises(InvalidParameter):
            Batcher(ScriptedTransport(), **{name: bad})
    with pytest.raises(InvalidParameter):
        CreditWindow(stall_timeout_s=bad)


def test_errors_of_a_batcher_are_errors_of_ours():
    """Callers need to catch one class only."""
    assert issubclass(WrongLoop, MpimError)
