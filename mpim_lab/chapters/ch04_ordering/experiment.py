"""Chapter 4: two gateways write into one conversation; in which order does bob read?

And who works in order?
"""

from dataclasses import dataclass
from typing import ClassVar

from mpim_lab.chapters.ch04_ordering.chat_scenario import CHAT_DESIGNS, ChatDesign, ChatScenario
from mpim_lab.chapters.ch04_ordering.designs import DELIVERY_MODES, ORDERING_DESIGNS
from mpim_lab.chapters.shared.designs import Design
from mpim_lab.chapters.shared.experiment import ScenarioExperiment
from mpim_lab.chapters.shared.pipeline_scenario import PipelineExperiment
from mpim_lab.chapters.shared.scenario import Server
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Run, parameter
from mpim_lab.lab.server.embedded import PERSISTENCE
from mpim_lab.lab.trace.checker import Verdict, check
from mpim_lab.lab.trace.trace import Trace

CHAT_FAULTS = ("interleave", "gateway dies", "away", "answer lost")
WORKER_FAULTS = (
    "slow worker",
    "zombie",
    "crash before work",
    "crash after work",
    "answer to the worker lost",
    "poison",
)
PIPELINE_FAULTS = (
    "request lost",
    "request late",
    "answer lost",
    "sent twice",
    "crash before work",
    "crash after work",
    "crash after ack",
    "answer to the worker lost",
    "zombie",
    "poison",
    "server kill",
)


@dataclass(frozen=True, kw_only=True)
class ChatOrdering(ScenarioExperiment):
    """Messages through two gateways in turns.

    The fault hits one at the first gateway, held up for `duration` messages.
    """

    title: ClassVar[str] = "In which order does bob read?"
    faults: ClassVar[tuple[str, ...]] = CHAT_FAULTS
    designs: ClassVar[dict[str, ChatDesign]] = CHAT_DESIGNS

    design: str = parameter(
        "as it comes", "how messages are numbered and read", choices=tuple(CHAT_DESIGNS)
    )
    fault: str = parameter("interleave", "what goes wrong", choices=("none", *CHAT_FAULTS))
    duration: int = parameter(
        2, "how many messages come while something is held back", low=1, high=100
    )

    def scenario(self, server: Server, run: Run) -> ChatScenario:
        """Return two gateways and bob, with the selected design."""
        return ChatScenario(server, run, self.selected_design, self.planned(), self.duration)

    def judge(self, run: Run, scenario: ChatScenario) -> Verdict:
        """Judge by the numbers that the messages were given."""
        return check_reading_order(run.trace)


def check_reading_order(trace: Trace) -> Verdict:
    """Judge what a reader was shown: each message once, in the order of the numbers.

    A message's order is the number it was first given; two people who write at the same time have
    no other.
    """
    numbers: dict[str, int] = {}
    for event in trace.by_kind(EventKind.ADDED):
        numbers.setdefault(event.message_id, event.sequence or 0)
    accepted = list(dict.fromkeys(event.message_id for event in trace.by_kind(EventKind.ACCEPTED)))
    sent = sorted(accepted, key=lambda name: numbers.get(name, len(accepted)))
    stalled = [event.message_id for event in trace.by_kind(EventKind.STALLED)]
    shown = [event.message_id for event in trace.by_kind(EventKind.EFFECT)]
    return check(sent, shown, numbers, stalled=stalled, acknowledgement="added")


@dataclass(frozen=True, kw_only=True)
class WorkOrdering(PipelineExperiment):
    """The experiment on workers.

    One customer's orders must be done in the order in which they came.
    """

    title: ClassVar[str] = "Who works in order?"
    faults: ClassVar[tuple[str, ...]] = WORKER_FAULTS
    designs: ClassVar[dict[str, Design]] = ORDERING_DESIGNS

    design: str = parameter("any worker", "who gets which message", choices=tuple(ORDERING_DESIGNS))
    fault: str = parameter("slow worker", "what goes wrong", choices=("none", *WORKER_FAULTS))


@dataclass(frozen=True, kw_only=True)
class DeliveryGuarantees(PipelineExperiment):
    """The experiment on delivery modes: three of them, each from the sender to the effect."""

    title: ClassVar[str] = "What does each mode guarantee?"
    faults: ClassVar[tuple[str, ...]] = PIPELINE_FAULTS
    designs: ClassVar[dict[str, Design]] = DELIVERY_MODES

    design: str = parameter(
        "exactly once in effect", "the delivery mode", choices=tuple(DELIVERY_MODES)
    )
    fault: str = parameter("none", "what goes wrong", choices=("none", *PIPELINE_FAULTS))
    persistence: str = parameter(
        "always", "what the server keeps on disk (appendfsync)", choices=tuple(PERSISTENCE)
    )
