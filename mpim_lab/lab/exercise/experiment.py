"""Experiment: parameters with bounds → a run → Result(trace, verdict, metrics)."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar

from mpim_lab.errors import FaultUnavailable, InvalidParameter, WrongLoop
from mpim_lab.events import EventKind
from mpim_lab.lab.trace.checker import Verdict
from mpim_lab.lab.trace.trace import Trace


@dataclass(frozen=True)
class Parameter:
    """One parameter of an experiment, as a panel draws it: bounds or choices, step and help."""

    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()

    def validate(self, value: Any) -> str | None:
        """Return what is wrong with `value`, or None."""
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}"
        if self.low is not None and not (
            isinstance(value, (int, float)) and self.low <= value <= (self.high or value)
        ):
            return (
                f"must be a number from {self.low:g} to {self.high:g}"
                if self.high
                else f"must be at least {self.low:g}"
            )
        return None


def parameter(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Declare a parameter of an experiment: a dataclass field that knows its bounds and its help.

    Args:
        default: its value where none is given; its type is the parameter's.
        help: one line for the panel, with the unit.
        low: the lowest value that is allowed; None: any.
        high: the highest value that is allowed; None: any.
        step: of the panel's slider.
        choices: the only values that are allowed, in the order of the panel.

    Returns:
        The field.
    """
    return field(
        default=default, metadata={"parameter": Parameter(help, low, high, step, tuple(choices))}
    )


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Args:
        experiment: what was run.
        trace: all that happened.
        verdict: the same in every run of a seeded experiment.
        metrics: what was measured, by name; it differs from run to run.
    """

    experiment: "Experiment"
    trace: Trace
    verdict: Verdict
    metrics: dict[str, float]

    @property
    def outcomes(self) -> dict[str, str]:
        """Return the last outcome that each message's sender got, by message id."""
        return {event.message_id: event.outcome for event in self.trace.by_kind(EventKind.OUTCOME)}

    def __repr__(self) -> str:
        return f"{self.experiment!r}\n{self.verdict}"


_KINDS = {bool: "True or False", int: "a whole number", float: "a number"}


def _wrong_type(kind: type, value: Any) -> str | None:
    """Say that a parameter's value is not of the kind of its default; None if it is.

    True is no number.
    """
    fits = type(value) is kind or (
        kind is float and isinstance(value, (int, float)) and not isinstance(value, bool)
    )
    return None if fits or kind not in _KINDS else f"must be {_KINDS[kind]}"


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that runs here. Raise WrongLoop where there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise WrongLoop(
            "no event loop runs here: use `await` in a notebook, or asyncio.run(...) in a script"
        ) from None


class Run:
    """A run that is going on: watch its `trace`, cause faults, and wait for its result.

    Args:
        experiment: what to run; it begins at once, in the running event loop.

    Raises:
        WrongLoop: no event loop runs here.
    """

    def __init__(self, experiment: "Experiment") -> None:
        self.experiment = experiment
        self.trace = Trace(sample_above_per_s=None)  # the verdict is read from it
        self.metrics: dict[str, float] = {}
        self.stopping = False
        self.injector: Callable[[str], Awaitable[None]] | None = None
        self._task: asyncio.Task[Verdict] = running_loop().create_task(experiment.execute(self))

    async def inject(self, fault: str) -> None:
        """Cause a fault now.

        Args:
            fault: one of the experiment's `faults`.

        Raises:
            InvalidParameter: the experiment has no such fault.
            FaultUnavailable: it cannot be caused here, or the run is over.
        """
        if fault not in self.experiment.faults:
            faults = ", ".join(self.experiment.faults)
            raise InvalidParameter(f"{fault!r} is not a fault of this experiment; it has {faults}")
        if self.injector is None or self._task.done():
            raise FaultUnavailable(f"{fault!r} cannot be caused: the run is not going on")
        await self.injector(fault)

    def stop(self) -> None:
        """Ask the run to end early, at its next message; its result still comes."""
        self.stopping = True

    async def cancel(self) -> None:
        """End the run at once, without a result, and wait until it has cleaned up."""
        self._task.cancel()
        await asyncio.wait([self._task])

    @property
    def done(self) -> bool:
        """Whether the run has ended, one way or another."""
        return self._task.done()

    async def result(self) -> Result:
        """Wait for the end of the run.

        Returns:
            The trace, the verdict and the metrics.

        Raises:
            MpimError: what the run raised.
        """
        verdict = await asyncio.shield(self._task)
        return Result(self.experiment, self.trace, verdict, self.metrics)


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """The base of every chapter's experiments: a frozen dataclass whose fields are parameters.

    Usable with or without a notebook. `title` is for people; `faults` are what `Run.inject` takes.

    Raises:
        InvalidParameter: a field is of the wrong type, or outside its bounds.
    """

    title: ClassVar[str]
    faults: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for each, bounds in self.parameters():
            value = getattr(self, each.name)
            if complaint := bounds.validate(value) or _wrong_type(type(each.default), value):
                raise InvalidParameter(f"{each.name}={value!r}: {complaint}")

    @classmethod
    def parameters(cls) -> list[tuple[Field[Any], Parameter]]:
        """List the parameters.

        Returns:
            Each field with its bounds, in the order they were declared.
        """
        return [
            (each, each.metadata["parameter"])
            for each in fields(cls)
            if "parameter" in each.metadata
        ]

    @abstractmethod
    async def execute(self, run: Run) -> Verdict:
        """Do the run. A subclass writes this.

        Args:
            run: report to its `trace`, set its `injector`, obey `stopping`, fill `metrics`.

        Returns:
            What the run did to its messages.
        """

    def start(self) -> Run:
        """Start a run in the background.

        Returns:
            The run, which has begun.

        Raises:
            WrongLoop: no event loop runs here.
        """
        return Run(self)

    async def run(self) -> Result:
        """Run to the end; a run whose caller is cancelled ends with it.

        Returns:
            The trace, the verdict and the metrics.

        Raises:
            MpimError: what the run raised.
        """
        run = self.start()
        try:
            return await run.result()
        except asyncio.CancelledError:
            await run.cancel()
            raise
