"""Experiments: parameters with bounds, runs that can be stopped, results that carry everything."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from mpim_lab.chapters.ch01_pubsub.measurements import ThroughputRun
from mpim_lab.chapters.ch08_im.experiment import ImExperiment
from mpim_lab.errors import FaultUnavailable, InvalidParameter
from mpim_lab.events import Event, EventKind
from mpim_lab.lab.exercise.experiment import Experiment, parameter
from mpim_lab.lab.trace.checker import check_trace


@dataclass(frozen=True, kw_only=True)
class Counting(Experiment):
    """Handles as many messages as it is told to."""

    title: ClassVar[str] = "counting"
    faults: ClassVar[tuple[str, ...]] = ("cut",)

    messages: int = parameter(3, "how many", low=1, high=10)
    mode: str = parameter("plain", "how", choices=("plain", "broken"))

    async def execute(self, run):
        if self.mode == "broken":
            raise RuntimeError("broken on purpose")
        for number in range(self.messages):
            for kind in (EventKind.ACCEPTED, EventKind.HANDLED):
                run.trace(Event(kind, 0.0, "bob", f"m{number}", "a"))
            if run.stopping:
                break
        return check_trace(run.trace, "bob", "a")


@pytest.mark.parametrize(
    "bad", [{"messages": 0}, {"messages": 11}, {"messages": "3"}, {"mode": "other"}]
)
def test_a_parameter_outside_its_bounds_is_refused(bad):
    """InvalidParameter names the parameter and the bounds."""
    with pytest.raises(InvalidParameter, match=next(iter(bad))):
        Counting(**bad)


def test_parameters_come_in_the_order_they_were_declared():
    """A panel draws them so."""
    assert [parameter.name for parameter, _ in Counting.parameters()] == ["messages", "mode"]


async def test_a_run_gives_trace_and_verdict():
    """Everything one needs is in the result, and its text is the experiment and the verdict."""
    result = await Counting(messages=5).run()
    assert result.verdict.sent == 5
    assert len(result.trace) == 10
    assert "Counting(messages=5" in repr(result)


async def test_a_stopped_run_gives_what_it_had():
    """stop ends the run at its next message."""
    run = Counting(messages=10).start()
    run.stop()
    assert (await run.result()).verdict.sent == 1


async def test_an_error_in_a_run_reaches_whoever_waits():
    """Not swallowed by the task it ran in."""
    with pytest.raises(RuntimeError, match="on purpose"):
        await Counting(mode="broken").run()


async def test_faults_are_refused_where_they_cannot_be_caused():
    """An unknown fault is InvalidParameter, one after the end FaultUnavailable."""
    run = Counting().start()
    await run.result()
    with pytest.raises(InvalidParameter):
        await run.inject("nonsense")
    with pytest.raises(FaultUnavailable):
        await run.inject("cut")


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (ImExperiment, "group", (1, "yes", None, float("nan"))),
        (ThroughputRun, "seconds", (True, "3", float("nan"))),
        (ThroughputRun, "tasks", (True, 1.0, None)),
    ],
    ids=["yes or no", "a number", "a whole number"],
)
def test_a_value_of_another_kind_is_refused(kind, name, values):
    """True is no number, and a number is no yes or no."""
    for value in values:
        with pytest.raises(InvalidParameter, match=name):
            kind(**{name: value})
