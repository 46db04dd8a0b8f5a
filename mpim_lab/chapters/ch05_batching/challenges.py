"""Chapter 5's challenges: close the batch in time, and lose nothing when a flush fails."""

import asyncio
import contextlib
import time
from typing import Any

from mpim_lab.chapters.ch05_batching.experiment import BurstExperiment
from mpim_lab.chapters.ch05_batching.learner_batcher import LearnerBatcherAdapter, adapt_learner
from mpim_lab.chapters.ch05_batching.scenario import (
    BATCH,
    LONG_WINDOW_MS,
    WINDOW_MS,
    BatchingDesign,
)
from mpim_lab.errors import InvalidMessage, MpimError
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.legacy_challenge import Challenge, Trial, TrialFailure, first_violation
from mpim_lab.mq.pubsub.queue import MessageQueue

NEVER_MS = 60_000.0  # a window that no trial lives to see
TRIAL_S = 1.0


def _burst_trial(fault: str, seed: int, messages: int = 14) -> Trial:
    async def judge(solution: type[Any]) -> TrialFailure | None:
        made: list[LearnerBatcherAdapter] = []

        def make(queue: MessageQueue, channel: str) -> LearnerBatcherAdapter:
            window_ms = WINDOW_MS if fault == "quiet" else LONG_WINDOW_MS
            made.append(LearnerBatcherAdapter(solution, queue, channel, window_ms=window_ms))
            return made[-1]

        result = await BurstExperiment(
            fault=fault, seed=seed, messages=messages, own=BatchingDesign(make)
        ).run()
        trial = f"fault {fault!r}, seed {seed}, batches of {BATCH}"
        if made[0].problem:
            return TrialFailure(made[0].problem, trial)
        if (failure := first_violation(result, trial)) is not None:
            return failure
        batches = made[0].batches
        if fault == "none" and batches != [BATCH] * (messages // BATCH):
            return TrialFailure(
                f"{messages // BATCH * BATCH} messages left in batches of {batches}", trial
            )
        return _check_acknowledgements(result.trace, made[0].unknown, trial)

    return judge


def _check_acknowledgements(trace: Any, unknown: set[str], trial: str) -> TrialFailure | None:
    """Check that after a lost answer no message of the batch is acknowledged as "accepted".

    Nobody knows.
    """
    for event in trace.by_kind(EventKind.OUTCOME):
        if event.message_id in unknown and event.outcome == "accepted":
            complaint = (
                f'{event.message_id} was acknowledged as "accepted", '
                "although nobody knows what became of its batch"
            )
            return TrialFailure(complaint, trial, event.message_id)
    return None


async def _slow_arrival_trial(solution: type[Any]) -> TrialFailure | None:
    """Messages keep coming, each within the window of the one before.

    The first one's window ends all the same.
    """
    trial = f"a message every {WINDOW_MS / 4:g} ms, window {WINDOW_MS:g} ms, batches of up to 100"
    async with adapt_learner(solution, max_messages=100) as (own, _):
        calls = []
        for number in range(30):
            calls.append(asyncio.create_task(own.publish(b"m%d" % number)))
            await asyncio.sleep(WINDOW_MS / 4e3)
        late = "30 messages came within 1.5 s and none had left: each new one began the window anew"
        failure = "" if own.batches else late
        await own.close()
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, MpimError):
                raise outcome
        return TrialFailure(failure, trial) if failure else None


async def _refused_trial(solution: type[Any]) -> TrialFailure | None:
    """Three batches are full before the second finds no room; the third must not overtake it."""
    trial = (
        "12 messages at once, batches of 4; the first attempt to send the second batch finds no "
        "room"
    )
    async with adapt_learner(solution, refuses=b"m6") as (own, what_bob_read):
        sent = [b"m%d" % number for number in range(1, 13)]
        calls = [asyncio.create_task(own.publish(payload)) for payload in sent]
        errors = [
            error
            for error in await asyncio.gather(*calls, return_exceptions=True)
            if error is not None
        ]
        got = await what_bob_read()
    if (failure := _check_received(got, sent, trial)) is not None:
        return failure
    unexpected = [error for error in errors if isinstance(error, Exception)]
    return (
        TrialFailure(f"add() raised {unexpected[0]!r}, although it was sent in the end", trial)
        if unexpected
        else None
    )


def _check_received(got: list[bytes], sent: list[bytes], trial: str) -> TrialFailure | None:
    for payload in sent:
        if (times := got.count(payload)) != 1:
            return TrialFailure(
                f"{payload.decode()} was {'duplicated' if times else 'lost'}",
                trial,
                payload.decode(),
            )
    return (
        TrialFailure(f"out of order: bob read {b' '.join(got).decode()}", trial)
        if got != sent
        else None
    )


async def _busy_trial(solution: type[Any]) -> TrialFailure | None:
    """Two messages come while a full batch is on its way."""
    trial = f"m5 and m6 come while the batch of m1 to m4 is being sent, window {WINDOW_MS:g} ms"
    async with adapt_learner(solution) as (own, what_bob_read):
        own.connection_is_free.clear()
        sent = [b"m%d" % number for number in range(1, 7)]
        calls = [asyncio.create_task(own.publish(payload)) for payload in sent]
        await asyncio.sleep(0.05)
        own.connection_is_free.set()
        await asyncio.gather(*calls)
        got = await what_bob_read()
    return TrialFailure(own.problem, trial) if own.problem else _check_received(got, sent, trial)


async def _early_trial(solution: type[Any]) -> TrialFailure | None:
    """Three messages, no fourth, and a window that is far from over: they wait until the close."""
    trial = (
        f"3 messages, batches of {BATCH}, window {NEVER_MS / 1e3:g} s, close after half a second"
    )
    async with adapt_learner(solution, window_ms=NEVER_MS) as (own, _):
        calls = [asyncio.create_task(own.publish(b"m%d" % number)) for number in range(1, 4)]
        await asyncio.sleep(0.5)
        early = sum(own.batches)
        await own.close()
        await asyncio.gather(*calls)
    return (
        TrialFailure(f"{early} of 3 messages had left before the close", trial) if early else None
    )


async def _window_trial(solution: type[Any]) -> TrialFailure | None:
    """A full batch leaves.

    Then one message comes: its window is its own, from its own beginning to its own end.
    """
    trial = f"4 messages at once, 0.4 windows later one more, window {TRIAL_S * 1e3:g} ms"
    async with adapt_learner(solution, window_ms=TRIAL_S * 1e3) as (own, what_bob_read):
        await asyncio.sleep(0.3 * TRIAL_S)
        sent = [b"m%d" % number for number in range(1, 6)]
        calls = [asyncio.create_task(own.publish(payload)) for payload in sent[:BATCH]]
        await asyncio.sleep(0.4 * TRIAL_S)
        calls.append(asyncio.create_task(own.publish(sent[-1])))
        came_at = time.monotonic()
        await asyncio.gather(*calls, return_exceptions=True)
        if own.problem:
            return TrialFailure(own.problem, trial)
        if (failure := _check_received(await what_bob_read(), sent, trial)) is not None:
            return failure
        # A machine that stands still makes it longer, nothing makes it shorter.
        waited_s = own.sent_at[-1] - came_at
    if waited_s < 0.97 * TRIAL_S:
        return TrialFailure("m5 left before its window was over", trial, "m5")
    return (
        TrialFailure("m5 left long after its window was over", trial, "m5")
        if waited_s > 1.9 * TRIAL_S
        else None
    )


async def _close_trial(solution: type[Any]) -> TrialFailure | None:
    """The process ends when `close` has returned; what is still on its way then is lost."""
    trial = "1 message, then close, and the connection is slow"
    async with adapt_learner(solution, window_ms=NEVER_MS) as (own, _):
        own.connection_is_free.clear()
        call = asyncio.create_task(own.publish(b"m1"))
        await asyncio.sleep(0.02)
        closing = asyncio.create_task(own.close())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while not own.sent_at:
                    await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        too_early = closing.done() and closing.exception() is None
        own.connection_is_free.set()
        await asyncio.gather(call, closing)
    complaint = "close() returned while m1 was on its way: a process that ends then loses it"
    return TrialFailure(complaint, trial, "m1") if too_early else None


async def _final_trial(solution: type[Any]) -> TrialFailure | None:
    """One batch is refused for good: its senders get the error, once, and the next ones go on."""
    trial = (
        "8 messages at once, batches of 4; `send` raises InvalidMessage for the first batch, "
        "whenever it is tried"
    )
    async with adapt_learner(solution, never=b"m2") as (own, what_bob_read):
        sent = [b"m%d" % number for number in range(1, 9)]
        outcomes = await asyncio.gather(
            *(own.publish(payload) for payload in sent), return_exceptions=True
        )
        if own.problem:
            return TrialFailure(f"{own.problem}: no repeat helps a message that is refused", trial)
        failed = [
            payload.decode()
            for payload, each in zip(sent, outcomes, strict=True)
            if isinstance(each, InvalidMessage)
        ]
        if failed != ["m1", "m2", "m3", "m4"]:
            return TrialFailure(
                f"add() raised InvalidMessage for {', '.join(failed) or 'nobody'} "
                "instead of m1 to m4",
                trial,
            )
        return _check_received(await what_bob_read(), sent[BATCH:], trial)


def close_the_batch() -> Challenge:
    """A batch that is closed by count, by its own timer, and at the end."""
    return Challenge(
        "Close the batch",
        "Write a class with `__init__(self, send, max_messages, window_s)`,\n"
        "`async add(self, payload)` and `async close(self)`. `await send(batch)` sends a list\n"
        "of 1 to max_messages payloads. A batch leaves when it is full, when its first message\n"
        "has waited for window_s, or on close, whichever is first; nobody may have to write\n"
        "another message for it. Messages arrive once, in order; `close` returns when all have\n"
        "been sent.",
        [
            _burst_trial("none", 1, messages=12),
            _burst_trial("quiet", 1),
            _burst_trial("quiet", 7, messages=9),
            _burst_trial("closed", 1),
            _slow_arrival_trial,
            _busy_trial,
            _early_trial,
            _window_trial,
            _close_trial,
        ],
        [
            (
                "Who wakes up when nobody writes? Only a task or a timer of the batch's own "
                "(asyncio.create_task, call_later)."
            ),
            (
                "Start the timer with the first message of each batch, not with every message; "
                "stop it when the batch is full."
            ),
            (
                "Take the list out and put a new one in its place before you await `send`: "
                "others may add meanwhile."
            ),
        ],
    )


def lose_nothing() -> Challenge:
    """A flush that fails keeps its batch, in order, and tells the truth."""
    return Challenge(
        "Lose nothing when a flush fails",
        "The same class, and now `send` may raise. NotConnected and QueueFull (of\n"
        "mpim_lab.errors) say that nothing was sent and that it may go in a moment: try the\n"
        "same batch again, before anything that came later. Any other MpimError is final, and\n"
        "if its `definite` is False the batch may have been sent: do not repeat it; raise the\n"
        "error from the `add` of each of its messages. So `add` returns, or raises, only once\n"
        "its own message's batch has been sent, or was not.",
        [
            _burst_trial("none", 1, messages=12),
            _burst_trial("quiet", 1),
            _refused_trial,
            _burst_trial("flush fails", 1, messages=24),
            _burst_trial("flush fails", 7, messages=24),
            _burst_trial("answer lost", 1),
            _burst_trial("closed", 7),
            _final_trial,
        ],
        [
            (
                "Give each message a future: `add` awaits it, and whoever sends the batch sets "
                "its result or its exception."
            ),
            (
                "One task sends, one batch at a time, in a loop: "
                "`while True: try: await send(batch) … break`."
            ),
            "except (NotConnected, QueueFull): sleep a little and try again; except MpimError\n"
            "as error: set_exception on each future of the batch.",
        ],
    )
