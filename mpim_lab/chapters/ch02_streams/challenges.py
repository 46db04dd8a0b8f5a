"""Chapter 2's challenges: lose nothing, then survive the poison."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from mpim_lab.chapters.ch02_streams.worker_run import (
    LATER_S,
    LONG_WORK_S,
    PAUSE_S,
    TOO_SOON_S,
    WORK_S,
    OutOfTea,
    WorkerRun,
)
from mpim_lab.lab.exercise.challenge import Challenge
from mpim_lab.lab.exercise.explorer import Explorer
from mpim_lab.lab.exercise.solution import Violation
from mpim_lab.mq.streams.entries import Entry
from mpim_lab.mq.streams.group import ConsumerGroup


class OrderWorker(Protocol):
    """What a solution looks like: each worker has an object of it."""

    def __init__(
        self, group: ConsumerGroup, name: str, handler: Callable[[Entry], Awaitable[None]]
    ) -> None: ...

    async def run(self) -> None:
        """Handle what the group delivers, until `stop`."""
        ...

    async def stop(self) -> None:
        """Have `run` return."""
        ...


class LoseRun(WorkerRun):
    """Of `lose_nothing`: every order can be done."""

    workloads = (
        "one worker after the other",
        "orders wait already",
        "two workers",
        WorkerRun.comes_later,
        WorkerRun.has_one_name,
        "a pause between two orders",
    )
    pairs = 80

    async def deliver(self) -> None:
        """Three orders or four; where there are two workers, the first order takes long."""
        if self.workload == "orders wait already":
            long = {"note": b"", "käse": b"\xff\x00\r\n" * 2_000}
            for number in range(4):
                await self.add(long if number == 2 else {})
            await self.hire()
            return
        await self.hire()
        if self.workload == "two workers":
            await self.hire()
            await asyncio.sleep(4 * WORK_S)  # both wait for orders
            await self.add(work_s=LONG_WORK_S)
            await self.add()
        else:
            await self.add()
        if self.workload == "a pause between two orders":
            await asyncio.sleep(PAUSE_S)
        else:
            await self.add()
        await self.add()

    async def judge(self) -> None:
        """Nobody began at once what another one had begun."""
        await super().judge()
        for order in () if self.schedule.disturbances else self.orders:
            for again in order.begun_at[1:]:
                if again - order.added_at < TOO_SOON_S:
                    text = f"{order.id} was begun again after less than {TOO_SOON_S * 1e3:g} ms"
                    raise Violation(text, 2, order.id)


class PoisonRun(WorkerRun):
    """Of `survive_the_poison`: some orders nobody can handle."""

    workloads = (
        "the poison in the middle",
        "the poison first",
        "the poison last, then a pause",
        "two poisons",
        WorkerRun.comes_later,
    )
    pairs = 60

    async def deliver(self) -> None:
        """Add orders, some of them poison, each with another error."""
        if self.workload == "the poison first":
            await self._add_poison(KeyError("tea"))
            await self.add()
            await self.add()
            await self.hire()
            return
        await self.hire()
        if self.workload == "the poison in the middle":
            await self.add()
            await self._add_poison(ValueError("no such tea"))
            await self.add()
        elif self.workload == "the poison last, then a pause":
            await self.add()
            await self._add_poison(RuntimeError())
            await asyncio.sleep(PAUSE_S)
            await self.add()
        elif self.workload == "two poisons":
            await self._add_poison(OutOfTea(7, "Darjeeling \udcff"))
            await self.add()
            await self._add_poison(TimeoutError())
        else:
            await self._add_poison(OutOfTea(7, "green"))
            await self.add()

    async def _add_poison(self, error: Exception) -> None:
        fields = {"table": b"\xff\x00:7", "note": b"", "größe": b"x" * 3_000}
        await self.add(fields, error=error)


_INTERFACE = (
    "Write a class with `__init__(self, group, name, handler)`, `async run(self)` and\n"
    "`async stop(self)`: `run` takes what the group delivers and awaits `handler(entry)`\n"
    "for each.\n"
)
_ASSUMED = (
    "Workers die before or after any of their commands, and of the handler; the next one is\n"
    f"hired at once or {LATER_S:g} s later, and may have the name of a dead one. They are\n"
    f"held for {WorkerRun.hold_s:g} s, and wake up when another has their orders. `run` is\n"
    "cancelled, or `stop` called, at any moment. The work of an order takes up to\n"
    f"{LONG_WORK_S * 1e3:g} ms: who has had one for less than {TOO_SOON_S * 1e3:g} ms is\n"
    "alive; an idle time of 60 to 500 ms is good. When a worker's own connection breaks,\n"
    "its `run` may go on, or raise the queue's error; then the next one is hired."
)
_RUN_ENDS = (
    f"`run` returns within {WorkerRun.limit_s:g} seconds after `stop`, and not before, however long"
    " there is nothing to do. Cancelled, it ends, too."
)


def lose_nothing() -> Challenge:
    """A worker loop that survives its own death; doing an order twice is allowed then."""
    return Challenge(
        "Lose nothing",
        f"{_INTERFACE}{_ASSUMED}",
        examiner=Explorer(LoseRun, budget=260),
        interface=OrderWorker,
        module=__name__,
        name="lose_nothing",
        guarantees=(
            "Every order is done, also if its worker dies, at whatever moment: the next one "
            f"begins it within {LoseRun.limit_s:g} seconds.",
            "As long as nobody dies, is held or leaves, nobody begins an order again within"
            f" {TOO_SOON_S * 1e3:g} ms. After a death twice is fine.",
            "At the end nothing is pending, and nothing is among the dead letters.",
            _RUN_ENDS,
        ),
        hints=[
            "When is an order yours to forget: before its work, or after it?",
            "What a dead worker was processing is in the pending list; nobody will bring it "
            "to you.",
            "`await group.claim(name, idle_ms=60)` returns deliveries that were idle for so "
            "long. Ask now and then.",
        ],
        difficulty=2,
        minutes=25,
    )


def survive_the_poison() -> Challenge:
    """A worker loop that goes on after a message nobody can handle, and dead-letters it."""
    return Challenge(
        "Survive the poison",
        f"{_INTERFACE}Some orders make every handler raise, each time, an Exception of any\n"
        "class. Try them as often as you like, up to 20 times for each worker, with at most\n"
        f"a second between.\n{_ASSUMED}",
        examiner=Explorer(PoisonRun, budget=220),
        interface=OrderWorker,
        module=__name__,
        name="survive_the_poison",
        guarantees=(
            "All other orders are done, also if workers die.",
            "What nobody can handle is among the dead letters at the end, once, with its "
            "fields unchanged.",
            "Nothing else is among the dead letters, and nothing is pending.",
            f"{_RUN_ENDS} It raises nothing, whatever the handler raises.",
        ),
        hints=[
            "A handler that raises must not end your loop, nor may its order be "
            "acknowledged as if it were done.",
            "Count: after how many failures of one order have you seen enough?",
            '`await group.dead_letter(delivery, reason="…")` dead-letters an order and '
            "acknowledges it, in one atomic step.",
        ],
        difficulty=2,
        minutes=25,
    )
