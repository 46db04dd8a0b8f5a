"""Chapter 4: two gateways write into one conversation; in which order does bob read?

And who works in order?
"""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from mpim_lab.chapters.ch04_ordering.chat_scenario import CHAT_DESIGNS, ChatDesign, ChatScenario
from mpim_lab.chapters.ch04_ordering.designs import DELIVERY_MODES, ORDERING_DESIGNS
from mpim_lab.chapters.shared.designs import Design
from mpim_lab.chapters.shared.pipeline_experiment import PipelineExperiment
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Experiment, Run, parameter
from mpim_lab.lab.faults.injector import schedule_faults
from mpim_lab.lab.server.embedded import PERSISTENCE, open_server
from mpim_lab.lab.trace.checker import Verdict, check
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.lab.workload.workload import Workload

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
class ChatOrdering(Experiment):
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
    messages: int = parameter(12, "how many messages are sent", low=6, high=1_000)
    duration: int = parameter(
        2, "how many messages come while something is held back", low=1, high=100
    )
    pace_ms: int = parameter(0, "pause between two messages", low=0, high=500, step=10)
    seed: int = parameter(
        7, "chooses which message the fault hits, and the texts", low=0, high=9_999
    )

    own: ChatDesign | None = None  # the learner's own, instead of a named one

    async def execute(self, run: Run) -> Verdict:
        """Send everything, fault included; judged by the numbers that the messages were given."""
        planned = (
            []
            if self.fault == "none"
            else schedule_faults(self.seed, self.fault, self.messages, self.duration)
        )
        fault_of = {f"m{fault.at}": fault.kind for fault in planned}
        design = self.own or CHAT_DESIGNS[self.design]
        async with (
            open_server() as server,
            ChatScenario(server, run, design, fault_of, self.duration) as scenario,
        ):
            for payload in Workload(self.seed, self.messages):
                if run.stopping:
                    break
                await scenario.send(payload)
                await asyncio.sleep(self.pace_ms / 1e3)
            await scenario.finish()
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
