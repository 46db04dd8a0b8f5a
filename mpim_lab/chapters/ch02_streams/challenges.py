"""Chapter 2's challenges: lose nothing, then survive the poison."""

from dataclasses import replace
from typing import Any

from mpim_lab.chapters.ch02_streams.experiment import StreamDelivery
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Result
from mpim_lab.lab.exercise.legacy_challenge import Challenge, Trial, TrialFailure, first_violation

_INTERFACE = (
    "Write a class with `__init__(self, group, name, handler)`, `async run(self)` and\n"
    "`async stop(self)`: `run` takes what the group delivers and awaits `handler(entry)` for\n"
    "each; it returns after `stop`. Several may live one after another.\n"
)


def _trial(fault: str, seed: int, allowed: tuple[str, ...] = ()) -> Trial:
    """Everything is done, save for what is `allowed` ("duplicated", "dead_lettered")."""

    async def judge(solution: type[Any]) -> TrialFailure | None:
        result = await StreamDelivery(fault=fault, seed=seed, messages=12, own=solution).run()
        trial = f"fault {fault!r}, seed {seed}"
        failure = first_violation(result, trial, allowed=(*allowed, "reordered"))
        if failure is not None:
            return replace(failure, history=(*failure.history, *_deaths(result)[:1]))
        if fault == "poison" and not result.verdict.dead_lettered:
            return TrialFailure("the poison is not among the dead letters", trial)
        return None

    return judge


def _deaths(result: Result) -> list[str]:
    """Which workers' `run` raised something, a bug of the learner's perhaps."""
    failed = (event for event in result.trace.by_kind(EventKind.FAILED) if not event.message_id)
    return [f"{event.actor}: its run() raised {event.detail}" for event in failed]


def lose_nothing() -> Challenge:
    """A worker loop that survives its own death; doing an order twice is allowed."""
    faults = [
        ("none", 1),
        ("crash before work", 1),
        ("crash before work", 7),
        ("crash after work", 7),
        ("zombie", 3),
    ]
    return Challenge(
        "Lose nothing",
        _INTERFACE
        + (
            "If a worker dies while it processes an order, that order must still be done. Twice "
            "is fine, never is not."
        ),
        [_trial(fault, seed, ("duplicated",) if fault != "none" else ()) for fault, seed in faults],
        [
            "When is an order yours to forget: before its work, or after it?",
            (
                "What a dead worker was processing is in the pending list; nobody will bring it "
                "to you."
            ),
            (
                "`await group.claim(name, idle_ms=60)` returns deliveries that were idle for so "
                "long. Ask now and then."
            ),
        ],
    )


def survive_the_poison() -> Challenge:
    """A worker loop that a message nobody can handle does not stop, and that does not hide it."""
    faults = [("none", 1), ("poison", 1), ("poison", 7), ("crash before work", 7)]
    return Challenge(
        "Survive the poison",
        _INTERFACE
        + (
            "One order makes every handler raise. All others must be done, and that one be "
            "among the dead letters."
        ),
        [
            _trial(
                fault, seed, {"poison": ("dead_lettered",), "none": ()}.get(fault, ("duplicated",))
            )
            for fault, seed in faults
        ],
        [
            (
                "A handler that raises must not end your loop, nor may its order be "
                "acknowledged as if it were done."
            ),
            "Count: after how many failures of one order have you seen enough?",
            (
                '`await group.dead_letter(delivery, reason="…")` dead-letters an order and '
                "acknowledges it, in one atomic step."
            ),
        ],
    )
