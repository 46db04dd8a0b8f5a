"""Chapter 1's challenges: tell the truth, then deliver everything."""

from typing import Any

from mpim_lab.chapters.ch01_pubsub.experiment import PubSubDelivery
from mpim_lab.lab.exercise.experiment import Result
from mpim_lab.lab.exercise.legacy_challenge import Challenge, Trial, TrialFailure, message_history


def _trial(fault: str, seed: int, check: Any) -> Trial:
    async def trial(solution: type[Any]) -> TrialFailure | None:
        experiment = PubSubDelivery(fault=fault, seed=seed, duration=3, messages=16, own=solution)
        result = await experiment.run()
        complaint, message_id = check(result)
        name = f"fault {fault!r}, seed {seed}"
        return (
            TrialFailure(complaint, name, message_id, message_history(result, message_id))
            if complaint
            else None
        )

    return trial


def _check_honesty(result: Result) -> tuple[str, str]:
    """The outcome is "delivered" was reported if and only if bob handled it.

    A sender that raises gives none.
    """
    verdict, outcomes = result.verdict, result.outcomes
    if verdict.lost and getattr(result.experiment, "fault", "") == "none":
        return (
            f"{verdict.lost[0]} was never published, and bob was there all the time",
            verdict.lost[0],
        )
    for message_id in outcomes:
        if outcomes[message_id].startswith("failed"):
            return f"send raised for {message_id} instead of saying what became of it", message_id
        if (outcomes[message_id] == "delivered") == (message_id in verdict.lost):
            became = "lost" if message_id in verdict.lost else "handled by bob"
            return (
                f"{message_id} was {became}, and alice got the outcome {outcomes[message_id]!r}",
                message_id,
            )
    return "", ""


def _check_delivery(result: Result) -> tuple[str, str]:
    """Check that nothing is lost, nothing arrives twice, and every acknowledgement is true."""
    verdict = result.verdict
    for complaint, ids in (
        ("lost", verdict.lost),
        ("handled twice", verdict.duplicated),
        ("late", verdict.reordered),
    ):
        if ids:
            return f"{ids[0]} was {complaint}", ids[0]
    return _check_honesty(result)


def tell_the_truth() -> Challenge:
    """A sender that reports "delivered" exactly when it is so, while receivers come and go."""
    faults = [("none", 1), ("away", 1), ("away", 7), ("cut", 1), ("cut", 7)]
    return Challenge(
        "Tell the truth",
        "Write a class with `__init__(self, queue)` and `async send(self, uid, payload) -> str`\n"
        'that publishes to the user\'s channel and says "delivered" exactly when bob got the\n'
        "message. bob comes and goes; his connections are cut.",
        [_trial(fault, seed, _check_honesty) for fault, seed in faults],
        [
            "Whatever you ask before publishing may be out of date when you publish.",
            "The server tells you something at the very moment it hands the message over.",
            (
                "`await queue.publish(...)` returns the number of subscribers the server handed "
                "the message to."
            ),
        ],
    )


def deliver_everything() -> Challenge:
    """A sender that loses nothing and repeats nothing, while its receiver comes and goes."""
    faults = [("none", 1), ("away", 1), ("away", 7), ("cut", 1), ("cut", 7)]
    return Challenge(
        "Deliver everything",
        (
            "The same class, but now every message must reach bob, once and in order, although "
            "he comes and goes."
        ),
        [_trial(fault, seed, _check_delivery) for fault, seed in faults],
        [
            "When nobody was there, the message is still in your hands.",
            (
                "Try again, after a pause; how often may it take? Do not go on to the next "
                "message before this one is there."
            ),
            (
                "Repeat while the number of receivers is 0; a message that was handed over must "
                "not be repeated."
            ),
        ],
    )
