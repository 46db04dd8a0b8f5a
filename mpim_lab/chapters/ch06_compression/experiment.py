"""Chapter 6: alice compresses, bob reads; who else may send to him, and what may they do to him?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pandas as pd

from mpim_lab.chapters.ch06_compression.naive import NaiveCodec
from mpim_lab.chapters.ch06_compression.scenario import CHANGED, SENDERS, CompressionScenario
from mpim_lab.chapters.shared.experiment import ScenarioExperiment, run_designs, tabulate
from mpim_lab.chapters.shared.scenario import Server
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Result, Run, parameter
from mpim_lab.lab.faults.injector import Fault
from mpim_lab.lab.trace.checker import Verdict, check
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.lab.workload.corpus import Corpus
from mpim_lab.mq.compression.codec import Codec

DESIGNS: dict[str, Any] = {
    "naive": NaiveCodec,
    **{name: partial(Codec, name) for name in ("zlib", "lz4", "zstd")},
}


@dataclass(frozen=True, kw_only=True)
class CompressionExperiment(ScenarioExperiment):
    """The experiment of chapter 6: alice sends packed chat lines.

    The fault replaces some senders by others.
    """

    title: ClassVar[str] = "Who can read it?"
    designs: ClassVar[dict[str, Any]] = DESIGNS

    design: str = parameter("naive", "how alice packs and bob unpacks", choices=tuple(DESIGNS))
    fault: str = parameter("old sender", "what goes wrong", choices=("none", *SENDERS, CHANGED))
    messages: int = parameter(16, "how many messages are sent", low=4, high=1_000)
    duration: int = parameter(3, "how many of them the fault hits", low=1, high=100)

    def scenario(self, server: Server, run: Run) -> CompressionScenario:
        """Return the senders and bob, with the selected codec."""
        codec = DESIGNS[self.design]()
        return CompressionScenario(server, run, codec, self.planned())

    def planned(self) -> list[Fault]:
        """Return a fault for each message that it hits; a bomb comes once."""
        many = 1 if self.fault == "bomb" else self.duration
        return [
            Fault(fault.kind, fault.at + place, 1)
            for fault in super().planned()
            for place in range(many)
        ]

    def payloads(self) -> Iterator[bytes]:
        """Return lines of a chat."""
        for number, line in enumerate(Corpus(self.seed).lines(self.messages), start=1):
            yield b"m%d %b" % (number, line)

    def judge(self, run: Run, scenario: CompressionScenario) -> Verdict:
        """Judge what came to bob, and what he read as another text (`altered`).

        Metrics besides: bytes before and after packing, the most that one became.
        """
        names = ("bytes_before", "bytes_after", "most_bytes")
        run.metrics |= {name: getattr(scenario, name) for name in names}
        run.metrics |= {"misread": len(scenario.misread)}
        return replace(check_decoding(run.trace), altered=tuple(scenario.misread))


def check_decoding(trace: Trace) -> Verdict:
    """Judge what bob handled against what was sent to him; a bomb is not owed to anybody."""
    accepted = trace.by_kind(EventKind.ACCEPTED)
    sent = [event.message_id for event in accepted if event.actor != SENDERS["bomb"]]
    handled = [event.message_id for event in trace.by_kind(EventKind.HANDLED)]
    return check(sent, [name for name in handled if name in set(sent)])


async def decode_table(seed: int = 7) -> pd.DataFrame:
    """Return every design under every fault: one row a run, the same in every run."""

    def row(result: Result) -> dict[str, Any]:
        made = result.metrics["most_bytes"] / 1024 / 1024
        most = f"{made:.0f} MiB" if made >= 1 else "below 1 MiB"
        lost = len(result.verdict.lost)
        return {"lost": lost, "bob's error": _errors(result), "the most one became": most}

    results = await run_designs(CompressionExperiment, SENDERS, seed=seed)
    return tabulate({case: row(result) for case, result in results.items()})


async def corruption_table(seed: int = 7) -> pd.DataFrame:
    """Return what became of three messages of which one bit was changed on the way, by design.

    Refused by name, or read as another text. Only zlib has a checksum here. The same in every run.
    """

    def row(result: Result) -> dict[str, Any]:
        misread = int(result.metrics["misread"])
        refused = len(result.verdict.lost)
        return {
            "refused": refused,
            "bob's error": _errors(result),
            "read as another text": misread,
        }

    results = await run_designs(CompressionExperiment, [CHANGED], seed=seed)
    return tabulate({case: row(result) for case, result in results.items()}).droplevel("fault")


def _errors(result: Result) -> str:
    return ", ".join(sorted({event.error for event in result.trace.by_kind(EventKind.FAILED)}))
