"""Chapter 3: alice pays, a worker books.

Connections break, workers die; how often was each payment booked?
"""

from dataclasses import dataclass
from typing import ClassVar

from mpim_lab.chapters.ch03_idempotency.designs import IDEMPOTENCY_DESIGNS
from mpim_lab.chapters.shared.designs import Design
from mpim_lab.chapters.shared.pipeline_scenario import PipelineExperiment
from mpim_lab.lab.exercise.experiment import parameter

FAULTS = (
    "request lost",
    "answer lost",
    "answer late",
    "sent twice",
    "two at once",
    "crash before work",
    "crash after work",
    "zombie",
    "answer to the worker lost",
)


@dataclass(frozen=True, kw_only=True)
class PaymentExperiment(PipelineExperiment):
    """The experiment of chapter 3: payments of one customer; each must be booked once."""

    title: ClassVar[str] = "How often was each payment booked?"
    faults: ClassVar[tuple[str, ...]] = FAULTS
    designs: ClassVar[dict[str, Design]] = IDEMPOTENCY_DESIGNS

    design: str = parameter(
        "check then set", "how repeats are recognised", choices=tuple(IDEMPOTENCY_DESIGNS)
    )
    fault: str = parameter("two at once", "what goes wrong", choices=("none", *FAULTS))
