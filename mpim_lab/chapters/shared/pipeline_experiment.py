"""The experiments of chapters 3 and 4: alice sends, a worker works."""

from dataclasses import dataclass

from mpim_lab.chapters.shared.designs import STREAM
from mpim_lab.chapters.shared.experiment import ScenarioExperiment
from mpim_lab.chapters.shared.pipeline_scenario import PipelineScenario
from mpim_lab.chapters.shared.scenario import Server
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.trace.checker import Verdict, check_effects


@dataclass(frozen=True, kw_only=True)
class PipelineExperiment(ScenarioExperiment):
    """An experiment with the pipeline; the verdict is about effects on the server."""

    def scenario(self, server: Server, run: Run) -> PipelineScenario:
        """Return alice's messages with the selected design."""
        return PipelineScenario(server, run, self.selected_design, self.planned(), self.duration)

    def judge(self, run: Run, scenario: PipelineScenario) -> Verdict:
        """Judge the effects, whoever had them."""
        return check_effects(run.trace, STREAM)
