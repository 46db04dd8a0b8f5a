"""Chapter 5's challenges: close the batch in time, and lose nothing when a flush fails."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from mpim_lab.chapters.ch05_batching.batcher_inputs import CLOSING, FAILING, batchers
from mpim_lab.chapters.ch05_batching.batcher_model import play_batchers
from mpim_lab.chapters.ch05_batching.batcher_rules import Numbers
from mpim_lab.lab.exercise.challenge import Challenge
from mpim_lab.lab.exercise.model_check import ModelCheck

Send = Callable[[list[bytes]], Awaitable[None]]


class LearnerBatcher(Protocol):
    """What a solution looks like."""

    def __init__(self, send: Send, max_messages: int, window_s: float) -> None: ...

    async def add(self, payload: bytes) -> None:
        """Take a message into the open batch."""
        ...

    async def close(self) -> None:
        """Send what is left; return when everything has been sent. Nobody adds after it."""
        ...


TASK_CLOSE = (
    "Write a class with `__init__(self, send, max_messages, window_s)`,\n"
    "`async add(self, payload)` and `async close(self)`. `await send(batch)` sends a list of\n"
    "payloads; it never fails, and may take long. Calls of `send` may overlap: batches arrive in\n"
    "the order of the calls. `add` may return at once, or when its message has been sent. Nobody\n"
    "adds after `close`, and nobody cancels a call of yours. Payloads are bytes of any kind, and\n"
    "some are equal. There may be several objects of your class. The check runs in virtual time:\n"
    "use asyncio, no threads."
)
TASK_LOSE = (
    "The same class, and now `send` may raise, and callers of `add` may be cancelled.\n"
    "NotConnected and QueueFull (of mpim_lab.errors) say that nothing was sent and that it may go\n"
    "in a moment. Any other error is final; all are MpimErrors. If its `definite` is False, the\n"
    "batch may have been sent. The line may be down for minutes, also during `close`. If a caller\n"
    "of `add` is cancelled, its message is sent or not, as you like."
)
GUARANTEES_CLOSE = (
    "Each message is sent once. No call of `send` is cancelled on its way.",
    "Messages are sent in the order in which they were added.",
    "A batch has 1 to max_messages messages. It leaves as soon as it is full, and with all that"
    " has come until it is closed.",
    "A batch that is not full leaves when its first message has waited for window_s, whether or"
    " not anybody writes another one: not before, and at most a quarter of a window and 50 ms"
    " later. If the batch before it is still on its way, the window may begin when that has been"
    " sent.",
    "`close` sends what is left, at once. It returns when everything has been sent, what was on"
    " its way before included, and then every `add` returns, too.",
)
GUARANTEES_LOSE = (
    "Each message is sent once, however long that takes, unless its batch has a final error.",
    "After NotConnected and QueueFull the same messages are tried again, before anything that"
    " came later: at most a second (and a quarter of a window) after the failure, and at most"
    " once a millisecond.",
    "After any other error nothing of that batch is tried again. What comes later is sent.",
    "`add` returns once its own message has been sent, not before. If its batch has a final"
    " error, `add` raises that error, for each message of the batch and for no other.",
    "If a caller of `add` is cancelled, its `add` ends, and all other messages and callers go on"
    " as if nothing had happened.",
    "Batches have 1 to max_messages messages and leave when they are full, when their window is"
    " over, or on `close`, as in `close_the_batch`.",
    "`close` returns once each message has been sent or has its error. It raises nothing.",
)
HINTS_CLOSE = (
    "Who wakes up when nobody writes? Only a task or a timer of the batch's own"
    " (asyncio.create_task, call_later).",
    "Start the timer with the first message of each batch, not with every message; stop it when"
    " the batch is full, but never in the middle of a `send`.",
    "Take the list out and put a new one in its place before you await `send`: others may add"
    " meanwhile. Keep the task that sends, so that `close` can wait for it.",
)
HINTS_LOSE = (
    "Give each message a future: `add` awaits it, and whoever sends the batch sets its result or"
    " its exception.",
    "One task sends, one batch at a time, in a loop: `while True: try: await send(batch) … break`.",
    "except (NotConnected, QueueFull): sleep a little and try again; except MpimError as error:"
    " set_exception on each future of the batch that is not done: it may have been cancelled.",
)


def close_the_batch() -> Challenge:
    """A batch that is closed by count, by its own timer, and at the end."""
    return Challenge(
        "Close the batch",
        TASK_CLOSE,
        examiner=ModelCheck(
            play_batchers(Numbers(once=1, order=2, size=3, window=4, close=5)),
            batchers(can_fail=False),
            always=CLOSING,
            budget=500,
        ),
        interface=LearnerBatcher,
        module=__name__,
        name="close_the_batch",
        guarantees=GUARANTEES_CLOSE,
        hints=HINTS_CLOSE,
        difficulty=2,
        minutes=25,
    )


def lose_nothing() -> Challenge:
    """A flush that fails keeps its batch, in order, and tells the truth."""
    numbers = Numbers(
        once=1, order=2, retry=2, final=3, outcome=4, cancel=5, size=6, window=6, close=7
    )
    return Challenge(
        "Lose nothing when a flush fails",
        TASK_LOSE,
        examiner=ModelCheck(
            play_batchers(numbers),
            batchers(can_fail=True),
            always=[*CLOSING[:6], *FAILING, *CLOSING[6:]],
            budget=500,
        ),
        interface=LearnerBatcher,
        module=__name__,
        name="lose_nothing",
        guarantees=GUARANTEES_LOSE,
        hints=HINTS_LOSE,
        difficulty=3,
        minutes=40,
    )
