"""Chapter 6: alice compresses, bob reads; who else may send to him, and what may they do to him?"""

import asyncio
from dataclasses import dataclass, replace
from typing import ClassVar

import pandas as pd

from mpim_lab.chapters.ch06_compression.naive import NaiveCodec
from mpim_lab.chapters.ch06_compression.scenario import CHANGED, SENDERS, CompressionScenario
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Experiment, Run, parameter
from mpim_lab.lab.faults.injector import schedule_faults
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.checker import Verdict, check
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.lab.workload.corpus import Corpus
from mpim_lab.mq.compression.codec import Codec

DESIGNS = ("naive", "zlib", "lz4", "zstd")


@dataclass(frozen=True, kw_only=True)
class CompressionExperiment(Experiment):
    """The experiment of chapter 6: alice sends packed chat lines.

    The fault replaces some senders by others.
    """

    title: ClassVar[str] = "Who can read it?"

    design: str = parameter("naive", "how alice packs and bob unpacks", choices=DESIGNS)
    fault: str = parameter("old sender", "what goes wrong", choices=("none", *SENDERS, CHANGED))
    messages: int = parameter(16, "how many messages are sent", low=4, high=1_000)
    duration: int = parameter(3, "how many of them the fault hits", low=1, high=100)
    pace_ms: int = parameter(0, "pause between two messages", low=0, high=500, step=10)
    seed: int = parameter(
        7, "chooses which messages the fault hits, and the texts", low=0, high=9_999
    )

    async def execute(self, run: Run) -> Verdict:
        """Send everything. The verdict is bob's: what came, what he read as other text (`altered`).

        Metrics besides: bytes before and after packing, the most that one became.
        """
        fault_of = {} if self.fault == "none" else self._planned_faults()
        codec = NaiveCodec() if self.design == "naive" else Codec(self.design)
        lines = Corpus(self.seed).lines(self.messages)
        async with (
            open_server() as server,
            CompressionScenario(server, run, codec, fault_of) as scenario,
        ):
            for number, line in enumerate(lines, start=1):
                if run.stopping:
                    break
                await scenario.send(b"m%d %b" % (number, line))
                await asyncio.sleep(self.pace_ms / 1e3)
        run.metrics |= {"bytes_before": scenario.bytes_before, "bytes_after": scenario.bytes_after}
        run.metrics |= {"most_bytes": scenario.most_bytes, "misread": len(scenario.misread)}
        return replace(check_decoding(run.trace), altered=tuple(scenario.misread))

    def _planned_faults(self) -> dict[str, str]:
        fault = schedule_faults(self.seed, self.fault, self.messages, self.duration)[0]
        many = 1 if self.fault == "bomb" else self.duration
        return {f"m{number}": self.fault for number in range(fault.at, fault.at + many)}


def check_decoding(trace: Trace) -> Verdict:
    """Judge what bob handled against what was sent to him; a bomb is not owed to anybody."""
    sent = [
        event.message_id
        for event in trace.by_kind(EventKind.ACCEPTED)
        if event.actor != SENDERS["bomb"]
    ]
    return check(
        sent,
        [
            event.message_id
            for event in trace.by_kind(EventKind.HANDLED)
            if event.message_id in set(sent)
        ],
    )


async def decode_table(seed: int = 7) -> pd.DataFrame:
    """Every design under every fault: one row a run, the same in every run."""
    rows = []
    for fault in SENDERS:
        for design in DESIGNS:
            result = await CompressionExperiment(design=design, fault=fault, seed=seed).run()
            errors = sorted({event.error for event in result.trace.by_kind(EventKind.FAILED)})
            made = result.metrics["most_bytes"] / 1024 / 1024
            lost = len(result.verdict.lost)
            rows.append(
                (
                    fault,
                    design,
                    lost,
                    ", ".join(errors),
                    f"{made:.0f} MiB" if made >= 1 else "below 1 MiB",
                )
            )
    columns = ["fault", "design", "lost", "bob's error", "the most one became"]
    return pd.DataFrame(rows, columns=columns).set_index(["fault", "design"])


async def corruption_table(seed: int = 7) -> pd.DataFrame:
    """One bit of three messages changed on the way, by design.

    Refused by name, or read as another text.

    Only zlib has a checksum here; the same in every run.
    """
    rows = []
    for design in DESIGNS:
        result = await CompressionExperiment(design=design, fault=CHANGED, seed=seed).run()
        errors = sorted({event.error for event in result.trace.by_kind(EventKind.FAILED)})
        rows.append(
            (design, len(result.verdict.lost), ", ".join(errors), int(result.metrics["misread"]))
        )
    return pd.DataFrame(
        rows, columns=["design", "refused", "bob's error", "read as another text"]
    ).set_index("design")
