"""What a learner's class may do to its check: each gets a clear sentence, and nothing harms this process."""

import asyncio
import contextlib
import os
import sys
import threading

import pytest

from mpim_lab.chapters.ch03_idempotency.challenges import do_it_once, survive_the_zombie
from mpim_lab.chapters.ch03_idempotency.solutions import FencedRecord, LeasedRecord
from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.explorer import Explorer
from mpim_lab.lab.exercise.solution import pack_solution

LOCK = threading.Lock()


class Holds:
    """A class that gets the store."""

    def __init__(self, store):
        self.store = store


class LoopsForEver(Holds):
    async def run(self, id, work):
        while True:
            pass


class SwallowsCancellation(Holds):
    async def run(self, id, work):
        while True:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(1)


class RaisesBaseException(Holds):
    async def run(self, id, work):
        raise KeyboardInterrupt


class Exits(Holds):
    async def run(self, id, work):
        sys.exit(3)


class ExitsAtOnce(Holds):
    async def run(self, id, work):
        os._exit(0)


class ExitsInATask(Holds):
    async def run(self, id, work):
        async def leave():
            raise SystemExit

        self.task = asyncio.create_task(leave())
        await asyncio.sleep(1)


class TakesMemory(Holds):
    async def run(self, id, work):
        kept = []
        while True:
            kept.append(bytearray(50_000_000))
            await asyncio.sleep(0)


class MakesTasks(Holds):
    async def run(self, id, work):
        self.tasks = []
        while True:
            self.tasks.append(asyncio.create_task(asyncio.sleep(100)))
            if len(self.tasks) % 100 == 0:
                await asyncio.sleep(0)


class IsPlain(Holds):
    def run(self, id, work):
        return "done"


class RaisesKeyError(Holds):
    async def run(self, id, work):
        return {}["no such key"]


class ForgetsTheStore:
    async def run(self, id, work):
        await work()


class MisspellsRun(Holds):
    async def runn(self, id, work):
        await work()


class UsesALock(Holds):
    async def run(self, id, work):
        with LOCK:
            await work()


class Prints(LeasedRecord):
    async def run(self, id, work):
        for _ in range(200):
            print("x" * 10_000)
        await super().run(id, work)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (LoopsForEver, "keeps the event loop busy"),
        (SwallowsCancellation, "has not returned"),
        (RaisesBaseException, "KeyboardInterrupt"),
        (Exits, "SystemExit"),
        (ExitsAtOnce, "ended the process of the check"),
        (ExitsInATask, "SystemExit"),
        (TakesMemory, "emory"),
        (MakesTasks, "tasks"),
        (IsPlain, "`run` gave 'done' instead of something to await"),
        (RaisesKeyError, "raised KeyError: 'no such key'"),
        (ForgetsTheStore, "TypeError"),
        (MisspellsRun, "no method `run`; it has `runn`"),
        (UsesALock, "`LOCK`, which your class uses, cannot travel"),
        ("MyWorker", "give the class itself"),
        (None, "give the class itself"),
        (Exits(None), "give the class itself"),
    ],
    ids=lambda case: getattr(case, "__name__", repr(case)[:20]),
)
async def test_what_a_class_does_to_its_check_gets_a_sentence(bad, said):
    """And this process goes on."""
    result = await do_it_once().check(bad)
    assert not result.passed
    assert said in repr(result)


async def test_a_busy_class_is_found_with_its_line():
    """The line that loops, in the learner's own words."""
    result = await do_it_once().check(LoopsForEver)
    assert "in run: pass" in repr(result) or "in run: while True:" in repr(result)


async def test_what_a_class_prints_goes_nowhere_and_harms_nothing(capfd):
    """Megabytes of it."""
    result = await do_it_once().check(Prints, quick=True)
    assert result.passed, result
    assert "xxx" not in capfd.readouterr().out


async def test_a_check_that_is_cancelled_ends_at_once_and_leaves_no_process():
    """As the Interrupt button does."""
    check = asyncio.create_task(do_it_once().check(SwallowsCancellation))
    await asyncio.sleep(1.5)
    children = _children()
    assert children
    begun = asyncio.get_running_loop().time()
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check
    assert asyncio.get_running_loop().time() - begun < 2
    for _ in range(400):
        if not any(map(_is_running, children)):
            return
        await asyncio.sleep(0.05)
    pytest.fail("something of the check is left running")


def _is_running(process):
    """Not gone, and not a zombie that nobody has waited for."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _children(of=None):
    found = []
    for task in os.listdir(f"/proc/{of or os.getpid()}/task"):
        with open(f"/proc/{of or os.getpid()}/task/{task}/children", encoding="ascii") as file:
            for child in file.read().split():
                found += [child, *_children(child)]
    return found


async def test_a_failed_trial_is_played_again_by_its_text():
    """The line that a failure shows."""

    class RecordsFirst(LeasedRecord):
        async def run(self, id, work):
            if await self.store.call("SET", self.store.key(id), "done", "NX"):
                await work()

    challenge = do_it_once()
    result = await challenge.check(RecordsFirst)
    assert result.failure is not None
    again = await challenge.replay(RecordsFirst, result.failure.trial)
    assert again.failure is not None
    assert again.failure.guarantee == result.failure.guarantee
    right = await challenge.replay(LeasedRecord, result.failure.trial)
    assert right.passed


async def test_a_trial_that_nobody_can_read_is_refused():
    """Whoever mistypes it hears how it reads."""
    with pytest.raises(InvalidParameter, match="it reads like"):
        await do_it_once().replay(LeasedRecord, "one after the other; worker-1 dies somehow")


async def test_an_error_of_the_lab_is_told_apart(monkeypatch):
    """It is no failure of the learner's, and no pass."""
    challenge = do_it_once()

    async def broken(self):
        raise ZeroDivisionError("in the lab")

    assert isinstance(challenge.examiner, Explorer)
    monkeypatch.setattr(challenge.examiner.run, "play", broken)
    result = await challenge.check(LeasedRecord, in_process=True)
    assert not result.passed
    assert result.failure is None
    assert "an error of the lab, not of yours" in repr(result)


def test_each_actor_has_the_class_anew():
    """What one remembers in the class, or in a global, dies with it."""

    class Remembers:
        seen: list[str] = []

        def run(self):
            self.seen.append("x")

    solution = pack_solution(Remembers, ["run"])
    first, second = solution.load(), solution.load()
    first().run()
    assert (len(first.seen), len(second.seen), len(Remembers.seen)) == (1, 0, 0)


async def test_the_solution_is_shown_after_the_last_hint_or_a_pass():
    """With its script, its comments and the alternatives."""
    challenge = do_it_once()
    with pytest.raises(InvalidParameter, match="3 are left"):
        challenge.solution()
    for _ in range(3):
        challenge.hint()
    assert repr(challenge.solution()).startswith("class LeasedRecord")
    passed = survive_the_zombie()
    await passed.check(FencedRecord, quick=True)
    shown = repr(passed.solution())
    assert shown.startswith('FINISH = """')
    assert "class FencedRecord" in shown


def test_what_is_explored_is_said():
    """How many schedules, which workloads, which actions."""
    said = repr(do_it_once().explain())
    assert "two at once" in said
    assert "dies" in said
