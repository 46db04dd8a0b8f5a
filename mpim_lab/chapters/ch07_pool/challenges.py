"""Chapter 7's challenges: a fair wait queue, and a lease that gives nothing broken back."""

from types import TracebackType
from typing import Any, Protocol

from mpim_lab.chapters.ch07_pool.learner_pool import LearnerConnection, LearnerPool
from mpim_lab.chapters.ch07_pool.lease_run import CALL_TIMEOUT_S, LeaseRun
from mpim_lab.chapters.ch07_pool.pool_operations import INPUTS, KNOWN, play_pool
from mpim_lab.lab.exercise.challenge import Challenge
from mpim_lab.lab.exercise.explorer import Explorer
from mpim_lab.lab.exercise.model_check import ModelCheck


class FairQueue(Protocol):
    """What a solution of `first_come_first_served` looks like: one pool."""

    def __init__(self, connect: Any, limit: int, wait_s: float) -> None: ...

    async def get(self) -> Any:
        """Return a connection that is the caller's own until it is put back."""
        ...

    def put(self, connection: Any) -> None:
        """Take a connection back."""
        ...


class Lease(Protocol):
    """What a solution of `give_nothing_broken_back` looks like: one object for each caller."""

    def __init__(self, pool: LearnerPool) -> None: ...

    async def __aenter__(self) -> LearnerConnection:
        """Return a connection that is of use."""
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        """Give it back, or discard it. What is true here keeps the error from the caller."""
        ...


def first_come_first_served() -> Challenge:
    """A pool's wait queue: bounded, fair, with a time limit, and no slot is ever lost."""
    return Challenge(
        "First come, first served",
        "Write a class with `__init__(self, connect, limit, wait_s)`, `async get(self)` and\n"
        "`put(self, connection)`: a pool. `await connect()` opens a connection; it may take\n"
        "long, and it may raise anything. `limit` is 1 to 3, `wait_s` 2.5 to 30 seconds.\n"
        "Callers ask by `get`, many at once; a caller may release and ask again in the same\n"
        "step, and it may be cancelled at any moment: while it waits, while its connection is\n"
        "opened, or in the moment in which it is given one. Connections stay well here; nothing\n"
        "closes them. Time is virtual: a minute costs nothing.",
        examiner=ModelCheck(play_pool, INPUTS, always=KNOWN, budget=3_000),
        interface=FairQueue,
        module=__name__,
        name="first_come_first_served",
        guarantees=(
            "Never more than `limit` connections are open or being opened, and each has one\n"
            "   caller at a time.",
            "Connections are used again: `connect` is called only if none is idle.",
            "First come, first served: whoever asked first is next, and nobody slips in before\n"
            "   those who wait.",
            "No slot is lost: while one is free nobody waits for longer than a second, whoever\n"
            "   was cancelled or could not connect. A cancelled `get` ends.",
            "Who has waited for `wait_s` seconds gets PoolTimeout (of `mpim_lab.errors`), at\n"
            "   most a second late, and not before; nobody gets another error. The time for which\n"
            "   its own connection is being opened may count or not.",
            "If `connect` raises, the caller for whom it was called gets that error from `get`,\n"
            "   and nobody else does.",
        ),
        hints=[
            "Keep a deque of futures, one for each caller in the queue; `put` hands something to\n"
            "the first of them.",
            "Whoever leaves the queue, for whatever reason (except BaseException), takes its\n"
            "future out of it, and hands on what that future was given already.",
            "Hand on a slot, not a connection: who has a slot takes an idle connection or opens\n"
            "one; if that fails, the slot is handed on.",
        ],
        difficulty=2,
        minutes=30,
    )


def give_nothing_broken_back() -> Challenge:
    """A lease: healthy connections come back, others are discarded, no slot is lost."""
    return Challenge(
        "Give nothing broken back",
        "Write a class with `__init__(self, pool)`, `async __aenter__(self)`, which returns a\n"
        "connection, and `async __aexit__(self, kind, error, traceback)`. Each caller makes one\n"
        "object of it: `async with YourLease(pool) as connection:`. `await pool.get()` waits for\n"
        "a slot and returns its connection, or a new one; it raises NotConnected while the\n"
        "server restarts. Then it is either `pool.put(connection)` or\n"
        "`pool.discard(connection)`, which closes it. The pool has up to 8 slots and lends what\n"
        "is there, unasked: sometimes the one that has been idle for longest.\n"
        "`await connection.call(…)` is any command; it raises CommandTimeout after\n"
        f"{CALL_TIMEOUT_S:g} s. `connection.unanswered` is the number of replies that are still\n"
        "to come. Callers raise whatever they like, are cancelled at any moment, lose their\n"
        "connection, or give up waiting for a reply by themselves, with or without an error.\n"
        "Idle connections are cut, all at once. Callers leave no MULTI or SELECT behind.",
        examiner=Explorer(LeaseRun, budget=360),
        interface=Lease,
        module=__name__,
        name="give_nothing_broken_back",
        guarantees=(
            "Nobody reads the reply to somebody else's command.",
            "Nobody is given a connection that was cut while it was idle, or does not answer;\n"
            "   there is always a healthy one to be had, or a new one.",
            "No connection is discarded that is not cut, and on which no reply is to come.",
            "Each connection is given back once, by `put` or by `discard`, when its caller has\n"
            "   left and not before, at most a second later: at the end all slots are free.\n"
            "   Nobody waits for ever: for longer than 3 seconds.",
            "What a caller raises comes out of its lease, also a cancellation; and nothing that\n"
            "   it has not raised, but what `pool.get()` does.",
        ),
        hints=[
            "`__aexit__` runs in every case: there each connection must come back, one way or the\n"
            "other, without awaiting.",
            "An error says nothing about the connection; a reply that is still to come does.",
            "An idle one may have been cut. Ask it (PING) before you give it out; if that fails,\n"
            "give it up and get another, as often as need be. You may be cancelled while you ask.",
        ],
        difficulty=2,
        minutes=25,
    )
