"""Chapter 1's challenges: tell the truth, then deliver everything."""

from typing import Protocol

from mpim_lab.chapters.ch01_pubsub.sender_run import (
    AWAY_S,
    COMES_OR_GOES,
    DELIVERED,
    IS_CUT,
    LOSES_HERS,
    Receiver,
    SenderRun,
    Sent,
)
from mpim_lab.lab.exercise.challenge import Challenge
from mpim_lab.lab.exercise.explorer import Explorer
from mpim_lab.lab.exercise.schedules import IS_HELD
from mpim_lab.lab.exercise.solution import Violation
from mpim_lab.mq.pubsub.queue import MessageQueue


class Sender(Protocol):
    """What a solution looks like."""

    def __init__(self, queue: MessageQueue) -> None: ...

    async def send(self, uid: str, payload: bytes) -> str:
        """Publish to this user's channel; say what became of it."""
        ...


class TruthRun(SenderRun):
    """Of `tell_the_truth`: who is away misses it, and the sender knows."""

    actions = (COMES_OR_GOES, IS_HELD, IS_CUT, LOSES_HERS)
    pairs = 60
    comes_by_himself = False

    def _judge_outcome(self, bob: Receiver, sent: Sent, *, stayed: bool) -> None:
        if sent.outcome == DELIVERED and not sent.has_come:
            text = f"alice was told {DELIVERED!r} for {sent.id}, and {bob.name} has not got it"
            raise Violation(text.replace("alice", sent.sender), 2, sent.id)
        if stayed and not sent.has_come and not sent.is_in_doubt:
            text = f"{sent.id} was not published, and {bob.name} was there all the time"
            raise Violation(text, 1, sent.id)

    def _judge_at_end(self, receiver: Receiver, sent: Sent) -> None:
        if sent.has_come and sent.outcome != DELIVERED:
            text = f"{receiver.name} got {sent.id}, and {sent.sender} was told {sent.outcome!r:.40}"
            raise Violation(text, 3, sent.id)


class DeliverRun(SenderRun):
    """Of `deliver_everything`: bob always comes back, and then has everything."""

    actions = (COMES_OR_GOES, IS_HELD, IS_CUT, LOSES_HERS)
    pairs = 80
    limit_s = 4.0
    repeats, end = 2, 3

    def _judge_outcome(self, bob: Receiver, sent: Sent, *, stayed: bool) -> None:
        if sent.outcome != DELIVERED:
            if sent.is_in_doubt:
                return
            became = f"{bob.name} has it" if sent.has_come else f"{bob.name} has not got it"
            text = f"{sent.sender} was told {sent.outcome!r:.40} for {sent.id}, and {became}"
            raise Violation(text, self.end if sent.has_come else 1, sent.id)
        if not sent.has_come:
            text = (
                f"{sent.sender} was told {DELIVERED!r} for {sent.id}, and {bob.name} has not got it"
            )
            raise Violation(text, 1, sent.id)

    def _judge_at_end(self, receiver: Receiver, sent: Sent) -> None:
        pass  # that it came was seen when `send` returned


_OWN_BREAKS = (
    "When alice's own connection breaks before the answer to a command is there, nobody can\n"
    "know whether the server has done it. Then `send` may raise the queue's error, repeat\n"
    f'the command, or say what it likes except "{DELIVERED}" for what bob has not got; bob\n'
    "may have that one message twice or not at all. The next ones must be right again."
)


def tell_the_truth() -> Challenge:
    """Say "delivered" exactly when it is so, as far as receivers that come and go are concerned."""
    return Challenge(
        "Tell the truth",
        "Write a class with `__init__(self, queue)` and `async send(self, uid, payload) ->\n"
        "str` that publishes once to the user's channel, `user_channel(uid)`, and returns\n"
        f'"{DELIVERED}" exactly when bob got the message, and any other text if he did not.\n'
        "bob comes and goes, before and after each of your commands; his connections are\n"
        f"cut, and come back later; an answer of the server may take {TruthRun.hold_s:g} s.\n"
        "He reads all that he is handed, and may listen at two places: then one is enough.\n"
        f"Nobody else listens to his channel.\n{_OWN_BREAKS}",
        examiner=Explorer(TruthRun, budget=220),
        interface=Sender,
        module=__name__,
        name="tell_the_truth",
        guarantees=(
            "Every message is published once, unchanged and in order: bob gets it if he is "
            "there all the time.",
            f'"{DELIVERED}" is returned only for what bob has got.',
            f'Whatever bob gets, now or later, is "{DELIVERED}".',
            f"`send` returns within {TruthRun.limit_s:g} seconds, and raises nothing.",
        ),
        hints=[
            "Whatever you ask before publishing may be out of date when you publish.",
            "The server tells you something at the very moment it hands the message over.",
            "`await queue.publish(...)` returns the number of subscribers the server handed "
            "the message to.",
        ],
        difficulty=1,
        minutes=10,
    )


def deliver_everything() -> Challenge:
    """Lose nothing and repeat nothing, while the receiver comes and goes."""
    return Challenge(
        "Deliver everything",
        "The same class, but now every message must reach bob, once and in order, although\n"
        f"he comes and goes. He is never away for longer than {AWAY_S:g} s at a time. alice\n"
        "sends him the next message when `send` has returned; messages to others are sent\n"
        f"meanwhile. An answer of the server may take {DeliverRun.hold_s:g} s.\n{_OWN_BREAKS}",
        examiner=Explorer(DeliverRun, budget=220),
        interface=Sender,
        module=__name__,
        name="deliver_everything",
        guarantees=(
            "Every message reaches bob, unchanged, before `send` returns; so they come in order.",
            "None reaches him twice.",
            f'`send` returns "{DELIVERED}" within {DeliverRun.limit_s:g} seconds, and raises '
            "nothing.",
        ),
        hints=[
            "When nobody was there, the message is still in your hands.",
            "Try again, after a pause; how often may it take? Do not go on to the next "
            "message before this one is there.",
            "Repeat while the number of receivers is 0; a message that was handed over must not be"
            " repeated.",
        ],
        difficulty=1,
        minutes=15,
    )
