"""Chapter 3's challenges: do it once, then survive the zombie."""

import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from mpim_lab.chapters.ch03_idempotency.designs import IDEMPOTENCY_DESIGNS
from mpim_lab.chapters.ch03_idempotency.experiment import PaymentExperiment
from mpim_lab.chapters.shared.designs import SCOPE, Design, DesignContext, group_worker
from mpim_lab.chapters.shared.worker_fleet import SimulatedCrash
from mpim_lab.lab.exercise.challenge import Challenge, Trial, TrialFailure, first_violation
from mpim_lab.mq.idempotency.effects import AtomicEffects, Command
from mpim_lab.mq.idempotency.store import Work
from mpim_lab.mq.pubsub.queue import MessageQueue


class LearnerStore:
    """The store that a learner's class gets.

    The server, a key for each name, and how long a claim should last.
    """

    def __init__(self, queue: MessageQueue, lease_ms: int) -> None:
        self._queue, self.lease_ms = queue, lease_ms
        self.crashed: SimulatedCrash | None = None

    async def call(self, *command: bytes | str | int) -> Any:
        """Run one command: `await store.call("SET", store.key("a"), "1", "NX")`.

        The answer is as RESP3 has it.
        """
        words = [str(word) if isinstance(word, int) else word for word in command]
        with self.alive():
            return await self._queue.context(SCOPE).connection.call(*words)

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Until the process crashes.

        Then nothing it still does (`finally`, `except`) reaches the server.
        """
        if self.crashed is not None:
            raise self.crashed
        try:
            yield
        except SimulatedCrash as crash:
            self.crashed = crash
            raise

    def key(self, name: str) -> bytes:
        """The key of that name in this run."""
        return self._queue.keys.idempotency_record(SCOPE, name)


def _as_design(
    solution: type[Any], context: DesignContext, *, at_once: bool
) -> Callable[[MessageQueue, str], Any]:
    """The learner's class in the place of `IdempotencyStore`.

    `at_once`: its work is done when it calls it.
    """

    class Once:
        def __init__(self, queue: MessageQueue, scope: str) -> None:
            self._queue, self._store = queue, LearnerStore(queue, context.lease_ms)
            self._own = solution(self._store)

        async def run(self, id: str, work: Work) -> Any:
            async def do() -> list[Command]:
                effects = AtomicEffects(self._queue.prefix)
                with self._store.alive():
                    done: Any = work(effects)
                    if inspect.isawaitable(done):
                        await done
                if not at_once:
                    return effects.commands
                for command in effects.commands:
                    await self._store.call(*command)
                return []

            return await self._own.run(id, do)

    return Once


def _trial(fault: str, seed: int, *, at_once: bool, allowed: tuple[str, ...] = ()) -> Trial:
    async def judge(solution: type[Any]) -> TrialFailure | None:
        def make_worker(
            context: DesignContext,
            queue: MessageQueue,
            name: str,
            work: Callable[..., Awaitable[None]],
        ) -> Any:
            return group_worker(_as_design(solution, context, at_once=at_once))(
                context, queue, name, work
            )

        design = Design(IDEMPOTENCY_DESIGNS["correct"].sender, make_worker)
        result = await PaymentExperiment(
            fault=fault, seed=seed, messages=8, duration=2, own=design
        ).run()
        return first_violation(
            result, f"fault {fault!r}, seed {seed}", allowed=("reordered", *allowed)
        )

    return judge


def do_it_once() -> Challenge:
    """Recognise a repeat, also at the same time, and also after a crash."""
    trials = [
        ("none", 1),
        ("sent twice", 1),
        ("two at once", 1),
        ("crash before work", 1),
        ("crash before work", 7),
    ]
    return Challenge(
        "Do it once",
        "Write a class with `__init__(self, store)` and `async run(self, id, work)`:\n"
        "`await work()` books the payment, and must be awaited once for each id, whoever comes\n"
        "with it, however often. A worker may die while it works: then the next one must do it.\n"
        "`await store.call(…)` is any Redis command, whose answer is in bytes,\n"
        "`store.key(name)` a key for you, and `store.lease_ms` how long a claim should last.",
        [_trial(fault, seed, at_once=True) for fault, seed in trials],
        [
            "Between your EXISTS and your SET another worker fits. Which one command does both?",
            (
                "Who marks first and then dies leaves a mark for ever. Let a claim end by "
                "itself: SET … NX PX lease."
            ),
            (
                'Two states: "claimed", with a lease, and "done", for long. Whoever finds '
                '"claimed" waits and asks again.'
            ),
        ],
    )


def survive_the_zombie() -> Challenge:
    """Effect and mark in one step, and only by the one whose claim still stands."""
    faults = ["none", "two at once", "crash after work", "answer to the worker lost", "zombie"]
    return Challenge(
        "Survive the zombie",
        "The same class, but now `commands = await work()` does nothing by itself: it returns\n"
        "the commands, tuples of (name, key, further words…), that book the payment. Run them\n"
        "and your mark in one step, and not if your claim has passed on to another worker:\n"
        '`await store.call("EVAL", script, number_of_keys, *keys, *arguments)`.',
        [_trial(fault, 1, at_once=False) for fault in faults]
        + [_trial("zombie", 7, at_once=False)],
        [
            (
                "A claim needs a token of its own, kept in the mark, so that you can tell later "
                "whether it is still yours."
            ),
            (
                "In Lua: if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end; then the "
                "command, then the mark."
            ),
            (
                "One command a payment: KEYS[2] is its key; redis.call(ARGV[3], KEYS[2], "
                "unpack(ARGV, 4)) runs it."
            ),
        ],
    )
