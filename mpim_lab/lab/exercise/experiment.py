"""Experiment: parameters with bounds → a run → Result(trace, verdict, metrics).

Usable with or without a notebook.
"""

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
    """Declare a parameter of an experiment.

    A dataclass field that knows its bounds and its help text.
    """
    return field(
        default=default, metadata={"parameter": Parameter(help, low, high, step, tuple(choices))}
    )


@dataclass(frozen=True)
class Result:
    """Result of a run.

    `metrics` are measured and differ from run to run; the verdict of a seeded run does not.
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
    """One run going on.

    Watch `trace`, cause a fault with `inject`, end it with `stop`, await `result`.
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

        Raises InvalidParameter for an unknown one, FaultUnavailable where it cannot be caused.
        """
        if fault not in self.experiment.faults:
            raise InvalidParameter(
                f"{fault!r} is not a fault of this experiment; it has {', '.join(self.experiment.faults)}"
            )
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
        """The run has ended, one way or another."""
        return self._task.done()

    async def result(self) -> Result:
        """Wait for the end; raises what the run raised."""
        verdict = await asyncio.shield(self._task)
        return Result(self.experiment, self.trace, verdict, self.metrics)


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """Base of every chapter's experiments: a frozen dataclass whose fields are parameters.

    Raises InvalidParameter when a field is outside its bounds.
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
        """Return the parameters and their bounds, in the order they were declared."""
        return [
            (each, each.metadata["parameter"])
            for each in fields(cls)
            if "parameter" in each.metadata
        ]

    @abstractmethod
    async def execute(self, run: Run) -> Verdict:
        """Do the run.

        Report to `run.trace`, set `run.injector`, obey `run.stopping`, fill `run.metrics`.
        """

    def start(self) -> Run:
        """Start a run in the background, in the running event loop."""
        return Run(self)

    async def run(self) -> Result:
        """Run to the end; a run whose caller is cancelled ends with it."""
        run = self.start()
        try:
            return await run.result()
        except asyncio.CancelledError:
            await run.cancel()
            raise
