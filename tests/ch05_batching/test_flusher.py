"""A batcher over a scripted way out.

Whatever fails, each message has one outcome, and what went out kept its order.
"""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpim_lab.errors import (
    CommandRejected,
    ConnectionLost,
    InvalidMessage,
    InvalidParameter,
    MpimError,
    NotConnected,
    PartlyAdded,
    QueueClosed,
    QueueFull,
    Unconfirmed,
)
from mpim_lab.events import Reporter
from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.batching.policies import Adaptive, FixedWindow, SizeOnly
from mpim_lab.mq.connection.retry import Backoff

AT_ONCE = Backoff(initial_s=1e-6, max_s=1e-6)


@dataclass
class ScriptedTransport:
    """Does what its script says, step by step, and then lets everything pass."""

    script: list[object] = field(default_factory=list)
    out: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    name: str = "scripted"
    reporter: Reporter = field(default_factory=lambda: Reporter("test", None))
    max_message_bytes: int = 1_000
    gate: asyncio.Event | None = None

    async def open(self):
        pass

    async def close(self):
        pass

    async def send(self, payloads):
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        step = self.script.pop(0) if self.script else "all"
        if isinstance(step, Exception):
            raise step
        count = len(payloads) if step == "all" else min(len(payloads), step)
        self.out += payloads[:count]
        self.sizes.append(count)
        return [payload.decode() for payload in payloads[:count]]


STEPS = st.one_of(
    st.just("all"),
    st.integers(1, 3),
    st.builds(NotConnected, st.just("down")),
    st.builds(QueueFull, st.just("full")),
    st.builds(ConnectionLost, st.just("lost")),
    st.builds(CommandRejected, st.just("no")),
    st.builds(ValueError, st.just("a bug")),
)
RULES = st.sampled_from(
    [Adaptive(), Adaptive(max_messages=2), FixedWindow(3, 50, 0.1), SizeOnly(max_messages=3)]
)
# What the callers do, one after the other, and after how many turns of the loop.
CALLS = st.lists(
    st.tuples(st.sampled_from(["publish", "many", "add", "flush", "cancelled"]), st.integers(0, 3)),
    max_size=25,
)


async def play(transport, batcher, calls, numbers):
    """Carry the calls out; gives the outcomes by message, of those that nobody cancelled."""
    tasks: list[tuple[list[str], asyncio.Future]] = []
    async with batcher:
        for call, turns in calls:
            names = [
                f"m{next(numbers)}"
                for _ in range(3 if call == "many" else 0 if call == "flush" else 1)
            ]
            if call == "many":
                tasks.append((names, asyncio.ensure_future(batcher.publish_many(names))))
            elif call == "add":
                tasks.append((names, batcher.add(names[0])))
            elif names:
                tasks.append((names, asyncio.ensure_future(batcher.publish(names[0]))))
            else:
                tasks.append(([], asyncio.ensure_future(batcher.flush())))
            for _ in range(1 + turns):  # a call begins in the next turn of the loop
                await asyncio.sleep(0)
            if call == "cancelled":
                tasks[-1][1].cancel()
    return {
        name: outcome
        for names, task in tasks
        for name, outcome in zip(names, outcomes_of(task, names), strict=True)
    }


def outcomes_of(task, names):
    assert task.done(), f"{names} have no outcome"
    if task.cancelled():
        return ["cancelled"] * len(names)
    error = task.exception()
    if isinstance(error, PartlyAdded):
        return [
            outcome if outcome is not None else problem
            for outcome, problem in zip(error.ids, error.errors, strict=True)
        ]
    if error is not None:
        return [error] * len(names)
    result = task.result()
    return result if isinstance(result, list) else [result] * len(names)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=12), CALLS, RULES)
def test_nothing_is_lost_or_reordered_whatever_fails(script, calls, policy):
    """Every message has one outcome: its own, or an error that says whether it may have been sent.

    Those that went out did so once, in the order of the calls; what was acknowledged was sent.
    """
    transport, numbers = ScriptedTransport(list(script)), iter(range(1_000))
    batcher = Batcher(transport, policy=policy, backoff=AT_ONCE)
    outcomes = asyncio.run(play(transport, batcher, calls, numbers))
    out = [payload.decode() for payload in transport.out]
    assert out == sorted(set(out), key=lambda name: int(name[1:]))
    for name, outcome in outcomes.items():
        if outcome == "cancelled":
            continue  # it may have been taken or not; nobody asks
        if name in out:
            assert outcome == name
        else:  # QueueClosed: the caller came when it was closed already
            assert isinstance(outcome, ConnectionLost | CommandRejected | Unconfirmed | QueueClosed)


async def test_a_batch_that_cannot_be_written_is_tried_again_until_it_is_given_up():
    """Then its messages have the error, and so has what waits behind it.

    The next ones go through.
    """
    transport = ScriptedTransport([NotConnected("down")] * 1_000_000)
    batcher = Batcher(
        transport, policy=Adaptive(max_messages=1), backoff=AT_ONCE, delivery_timeout_s=0.05
    )
    async with batcher:
        outcomes = await asyncio.gather(
            *(batcher.publish(name) for name in "abc"), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [NotConnected] * 3
        assert len(transport.script) < 999_999
        transport.script.clear()
        assert await batcher.publish("d") == "d"


async def test_the_window_closes_without_another_message():
    """The batch has a timer of its own.

    The last messages of a burst leave when their time is over.
    """
    async with Batcher(ScriptedTransport(), policy=FixedWindow(window_ms=20)) as batcher:
        assert await asyncio.gather(batcher.publish("a"), batcher.publish("b")) == ["a", "b"]
        assert batcher.batches == 1


async def test_a_batch_is_closed_by_count_and_by_bytes_before_its_window_ends():
    """Whichever limit is reached first; the window would be a minute."""
    transport = ScriptedTransport()
    async with Batcher(
        transport, policy=FixedWindow(max_messages=4, max_bytes=10, window_ms=60_000)
    ) as batcher:
        await batcher.publish_many(["a"] * 4)
        await batcher.publish_many(["12345", "12345"])
    assert transport.sizes == [4, 2]


async def test_flush_and_close_do_not_wait_for_the_window():
    """Everything taken in before has its outcome when they return."""
    transport = ScriptedTransport()
    batcher = Batcher(transport, policy=SizeOnly())
    async with batcher:
        first = batcher.add("a")
        await batcher.flush()
        assert first.result() == ["a"]
        last = batcher.add("b")
    assert last.result() == ["b"]
    await batcher.close()
    with pytest.raises(QueueClosed):
        await batcher.publish("c")
    with pytest.raises(QueueClosed):
        batcher.add("c")


async def test_on_an_idle_line_nothing_waits_and_on_a_busy_one_batches_grow():
    """What comes while a batch is on its way makes the next one."""
    transport = ScriptedTransport(gate=asyncio.Event())
    async with Batcher(transport, policy=Adaptive()) as batcher:
        receipts = [batcher.add("first")]
        await asyncio.sleep(0.01)
        receipts += [batcher.add(f"{number}") for number in range(50)]
        transport.gate.set()
        await asyncio.wait(receipts)
    assert transport.sizes == [1, 50]


async def test_callers_wait_for_room_first_come_first_served():
    """Nobody slips in before those who wait.

    Whoever waits too long is told, and nothing of his was taken.
    """
    transport = ScriptedTransport(gate=asyncio.Event())
    async with Batcher(
        transport, policy=Adaptive(max_messages=1), max_pending_bytes=2, enqueue_timeout_s=0.2
    ) as batcher:
        first = batcher.add("a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        filling = [batcher.add("b"), batcher.add("c")]
        with pytest.raises(QueueFull):
            batcher.add("refused")
        late = asyncio.ensure_future(batcher.publish("late"))
        with pytest.raises(QueueFull, match="2 messages"):
            await late
        waiting = [asyncio.ensure_future(batcher.publish(name)) for name in "def"]
        await asyncio.sleep(0)
        waiting[1].cancel()
        transport.gate.set()
        await asyncio.gather(first, *filling, waiting[0], waiting[2])
    assert b"".join(transport.out) == b"abcdf"


async def test_closing_sends_away_those_who_wait_for_room_and_keeps_what_was_taken():
    """The first get QueueClosed, a definite error, at once; the others their outcomes."""
    transport = ScriptedTransport(gate=asyncio.Event())
    batcher = Batcher(transport, policy=Adaptive(max_messages=1), max_pending_bytes=1)
    await batcher.open()
    taken = [batcher.add("a")]
    await asyncio.sleep(0.01)
    taken.append(batcher.add("b"))
    waiting = asyncio.ensure_future(batcher.publish("c"))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(batcher.close())
    with pytest.raises(QueueClosed):
        await waiting
    transport.gate.set()
    await closing
    assert [receipt.result() for receipt in taken] == [["a"], ["b"]]


async def test_a_cancelled_close_does_not_stop_the_sending():
    """A second one finds everything sent."""
    transport = ScriptedTransport(gate=asyncio.Event())
    batcher = Batcher(transport)
    await batcher.open()
    receipt = batcher.add("a")
    closing = asyncio.ensure_future(batcher.close())
    await asyncio.sleep(0.01)
    closing.cancel()
    transport.gate.set()
    await batcher.close()
    assert receipt.result() == ["a"]


async def test_one_bad_message_fails_alone():
    """It is refused when it is handed over; its neighbours go out."""
    transport = ScriptedTransport()
    async with Batcher(transport, policy=FixedWindow(window_ms=5)) as batcher:
        good, *bad, other = await asyncio.gather(
            *(batcher.publish(payload) for payload in ("a", "x" * 1_001, 17, "\ud800", "b")),
            return_exceptions=True,
        )
        with pytest.raises(InvalidMessage):
            await batcher.publish_many(["c", None])
    assert (good, other) == ("a", "b")
    assert [type(each) for each in bad] == [InvalidMessage] * 3
    assert transport.out == [b"a", b"b"]


async def test_if_the_loop_ends_everybody_is_told():
    """What was on its way may have arrived; what was not certainly did not."""
    transport = ScriptedTransport(gate=asyncio.Event())
    batcher = Batcher(transport, policy=Adaptive(max_messages=1))
    await batcher.open()
    receipts = [batcher.add("a"), batcher.add("b")]
    await asyncio.sleep(0.01)
    batcher._task.cancel()
    await asyncio.wait(receipts)
    errors = [receipt.result()[0] for receipt in receipts]
    assert [(type(error), error.definite) for error in errors] == [
        (Unconfirmed, False),
        (QueueClosed, True),
    ]
    assert not batcher.is_open


async def test_before_it_is_opened_it_takes_nothing():
    """And says what to write."""
    batcher = Batcher(ScriptedTransport())
    with pytest.raises(NotConnected, match="async with"):
        await batcher.publish("a")
    with pytest.raises(InvalidParameter):
        Batcher(ScriptedTransport(), enqueue_timeout_s=0)


def test_errors_of_a_batch_are_errors_of_ours():
    """Callers need to catch one class only."""
    assert issubclass(PartlyAdded, MpimError)
