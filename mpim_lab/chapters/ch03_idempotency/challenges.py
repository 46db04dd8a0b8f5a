"""Chapter 3's challenges: do it once, then survive the zombie."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Protocol

from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.actors import Actor
from mpim_lab.lab.exercise.challenge import Challenge
from mpim_lab.lab.exercise.explorer import Explorer
from mpim_lab.lab.exercise.schedule_run import ScheduleRun
from mpim_lab.lab.exercise.schedules import DIES, IS_HELD, LOSES_CONNECTION, SERVER_STOPS
from mpim_lab.lab.exercise.solution import Violation, finished
from mpim_lab.mq.pubsub.queue import MessageQueue

SCOPE = "payments"
LEASE_MS = 100
WORK_S = 0.02
LATE_S = 1.2  # a repeat that comes long after the lease
MAX_DELIVERIES = 30
Command = tuple[Any, ...]


class LearnerStore:
    """The store that a learner's class gets: the server, a key for each name, how long a lease lasts."""

    def __init__(self, queue: MessageQueue) -> None:
        self._queue, self.lease_ms = queue, LEASE_MS

    async def call(self, *command: bytes | str | int) -> Any:
        """Run one command, answered as RESP3 has it: `await store.call("SET", store.key("a"), "1", "NX")`."""
        words = [str(word) if isinstance(word, int) else word for word in command]
        return await self._queue.context(SCOPE).connection.call(*words)

    def key(self, name: str) -> bytes:
        """Return the key of that name."""
        return self._queue.keys.idempotency_record(SCOPE, name)


class PaymentWorker(Protocol):
    """What a solution looks like: each worker has an object of it."""

    def __init__(self, store: LearnerStore) -> None: ...

    async def run(self, id: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Have the payment with this id done; return once it is."""
        ...


class PaymentRun(ScheduleRun):
    """Workers that are delivered payments, some of them again."""

    workloads = (
        "one after the other",
        "a late repeat",
        "two at once",
        "the second while the first works",
    )
    result_is_commands: ClassVar[bool] = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.done = Counter[str]()  # how often the work of an id was done
        self.unfinished = Counter[str]()  # of these: in a call of `run` that did not return
        self._hired = 0
        self._problem: Violation | None = None
        self._workers: list[asyncio.Task[Any]] = []

    async def play(self) -> None:
        """Deliver the payments, as the workload says; at the end all of them again."""
        await self._deliver_all()
        self._check()
        if not await self.until(lambda: all(each.done() for each in self._workers)):
            self._say(Violation("`run` does not come to an end", 1))
        self._check()
        await self._hire("m1", "m2")
        self._check()

    async def _deliver_all(self) -> None:
        if self.workload == "two at once":
            await asyncio.gather(self._hire("m1", "m2"), self._hire("m1"))
        elif self.workload == "the second while the first works":
            first = asyncio.ensure_future(self._hire("m1"))
            await asyncio.sleep(WORK_S / 2)
            await asyncio.gather(first, self._hire("m1", "m2"))
        else:
            await self._hire("m1", "m2")
            self._check()
            if self.workload == "a late repeat":
                await asyncio.sleep(LATE_S)
            await self._hire("m1")

    async def _hire(self, *ids: str) -> None:
        """Start a worker and wait until it has worked off some ids, or is dead."""
        self._hired += 1
        actor = await self.actor(f"worker-{self._hired}")
        task = actor.spawn(self._work_off(actor, ids))
        if not await self.until(lambda: task.done() or actor.is_dead):
            self._say(
                Violation(f"{actor.name}: `run` has not returned after {self.limit_s:g} s", 1)
            )
        if task.done() and not actor.is_dead:
            await task

    async def on_death(self, actor: Actor) -> None:
        """The group delivers what the dead worker had to another one, at once."""
        self._take_over()

    async def on_hold(self, actor: Actor) -> None:
        """The group delivers what the held worker has to another one; time passes."""
        other = self._take_over()
        await self.until(other.done, self.hold_s)
        await asyncio.sleep(self.hold_s / 4)

    def _take_over(self) -> "asyncio.Task[Any]":
        task = self.background(self._hire("m1", "m2"))
        self._workers.append(task)
        return task

    async def _work_off(self, actor: Actor, ids: tuple[str, ...]) -> None:
        queue = await self.queue(actor.url, actor.name)
        own = self.solution.load()(LearnerStore(queue))
        for each in ids:
            await self._deliver(actor, own, each)

    async def _deliver(self, actor: Actor, own: Any, id: str) -> None:
        worked = 0  # times, in this call of `run`

        async def book() -> list[Command]:
            nonlocal worked
            await asyncio.sleep(WORK_S)
            self.report(EventKind.EFFECT, actor.name, id)
            if not self.result_is_commands:
                worked += 1
                self.done[id] += 1
                self.unfinished[id] += 1
            return self._commands(id)

        async def work() -> Any:
            commands: Any = await actor.step("work", book)
            return commands if self.result_is_commands else None

        self.report(EventKind.RECEIVED, actor.name, id)
        for _ in range(MAX_DELIVERIES):
            worked = 0
            try:
                await finished("run", own.run(id, work))
            except MpimError as error:
                if not self.schedule.disturbances:
                    return self._say(_raised(actor, error))
                await asyncio.sleep(0.02)  # delivered again
            except (Violation, Exception) as error:
                return self._say(error if isinstance(error, Violation) else _raised(actor, error))
            else:
                break
        else:
            return self._say(Violation(f"{actor.name}: `run` raised {MAX_DELIVERIES} times", 1))
        self.report(EventKind.ACKED, actor.name, id)
        self.unfinished[id] -= worked
        await self._check_returned(actor, id)

    async def _check_returned(self, actor: Actor, id: str) -> None:
        if not self.done[id]:
            text = f"{actor.name}: `run` returned for {id}, and its work was not done"
            self._say(Violation(text, 1, id))

    def _commands(self, id: str) -> list[Command]:
        return []

    def _say(self, violation: Violation) -> None:
        self._problem = self._problem or violation

    def _check(self) -> None:
        if self._problem is not None:
            raise self._problem

    async def judge(self) -> None:
        """Each id's work was done, and again only for a worker that could not finish."""
        self._check()
        for each in ("m1", "m2"):
            if self.done[each] > 1 + self.unfinished[each]:
                raise Violation(f"the work of {each} was done {self.done[each]} times", 2, each)


def _raised(actor: Actor, error: BaseException) -> Violation:
    return Violation(f"{actor.name}: `run` raised {type(error).__name__}: {error}", error=error)


class OnceRun(PaymentRun):
    """Of `do_it_once`: the work is done when it is called, in less than a lease."""

    actions = (DIES, LOSES_CONNECTION, IS_HELD)
    hold_s = LEASE_MS / 5e3

    async def on_hold(self, actor: Actor) -> None:
        """A slow answer, within the lease."""
        await asyncio.sleep(self.hold_s)


class LedgerRun(PaymentRun):
    """Of `survive_the_zombie`: the work gives commands, and the ledger on the server is what counts."""

    actions = (DIES, IS_HELD, LOSES_CONNECTION, SERVER_STOPS)
    pairs = 60
    result_is_commands = True

    def _commands(self, id: str) -> list[Command]:
        ledger, totals = (
            self.prefix.encode() + b"{ledger}:" + name for name in (b"rows", b"totals")
        )
        return [("RPUSH", ledger, id), ("HINCRBY", totals, id, 5)][: 1 if id == "m2" else 2]

    async def _booked(self) -> tuple[Counter[str], dict[str, int]]:
        reader = await self.queue(self.server, "judge")
        connection = reader.context(SCOPE).connection
        rows = await connection.call("LRANGE", self.prefix + "{ledger}:rows", "0", "-1")
        totals = await connection.call("HGETALL", self.prefix + "{ledger}:totals")
        return (
            Counter(row.decode() for row in rows),
            {name.decode(): int(value) for name, value in totals.items()},
        )

    async def _check_returned(self, actor: Actor, id: str) -> None:
        rows, _ = await self._booked()
        if not rows[id]:
            text = f"{actor.name}: `run` returned for {id}, and it was not booked"
            self._say(Violation(text, 1, id))

    async def judge(self) -> None:
        """Each payment is booked once, all of it."""
        self._check()
        rows, totals = await self._booked()
        for each in ("m1", "m2"):
            if rows[each] != 1:
                times = f"{rows[each]} times" if rows[each] else "never"
                raise Violation(f"{each} was booked {times}", 2 if rows[each] else 1, each)
        if totals.get("m1") != 5:
            text = f"m1 has two commands: the first was run once, the second made {totals.get('m1', 0)} of 5"
            raise Violation(text, 3, "m1")


def do_it_once() -> Challenge:
    """Recognise a repeat, also at the same time, and also after a crash."""
    return Challenge(
        "Do it once",
        "Write a class with `__init__(self, store)` and `async run(self, id, work)`. `await work()` does the payment.\n"
        "`await store.call(…)` is any Redis command, whose answer is in bytes, `store.key(name)` a key for you, and\n"
        f"`store.lease_ms` ({LEASE_MS}) how long a claim should last; the work takes a fifth of that.",
        examiner=Explorer(OnceRun, budget=200),
        interface=PaymentWorker,
        module=__name__,
        name="do_it_once",
        guarantees=(
            "When `run` returns, the work of this id has been done: by this worker or by another.",
            "The work is done once for each id, whoever comes with it, however often and however late.",
            "If a worker dies, the next one that comes with the id does the work, within 3 seconds. Only if it died"
            " after the work, and before `run` returned, may the work be done twice.",
        ),
        hints=[
            "Between your EXISTS and your SET another worker fits. Which one command does both?",
            "Who records first and then dies leaves a record for ever. Let a claim end by itself: SET … NX PX lease.",
            'Two states: "claimed", with a lease, and "done", for long. Whoever finds "claimed" waits and asks again.',
        ],
        difficulty=1,
        minutes=25,
    )


def survive_the_zombie() -> Challenge:
    """Effect and record in one atomic step, and only by the one whose claim still stands."""
    return Challenge(
        "Survive the zombie",
        "The same class, but now `commands = await work()` does nothing by itself: it returns the commands, a list of\n"
        "tuples (name, key, further words…), that book the payment. Run all of them and your record in one atomic step,\n"
        'and not if your claim has passed on to another worker: `await store.call("EVAL", script, number_of_keys, *keys,\n'
        "*arguments)`. Workers die at any moment, are held for longer than their lease, and lose their connection.",
        examiner=Explorer(LedgerRun, budget=260),
        interface=PaymentWorker,
        module=__name__,
        name="survive_the_zombie",
        guarantees=(
            "When `run` returns, the payment of this id is booked.",
            "It is booked once, whoever comes with the id, however often, and whoever wakes up late.",
            "All commands of a payment take effect, or none.",
        ),
        hints=[
            "A claim needs a token of its own, kept in the record, so that you can tell later whether it is still yours.",
            "In Lua: if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end; then the commands, then the record.",
            "Several commands in one script: give their words as JSON (cjson.decode), and redis.call(unpack(each)).",
        ],
        difficulty=3,
        minutes=40,
    )
