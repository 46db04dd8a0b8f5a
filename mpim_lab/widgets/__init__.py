"""What people look at: pictures of a Trace, each with a static one for where there is no kernel."""

from mpim_lab.widgets.charts import LiveCharts, ladder_chart, sweep_chart
from mpim_lab.widgets.code_tour import CodeTour
from mpim_lab.widgets.flow import FlowView, SpaceTime
from mpim_lab.widgets.panel import Panel
from mpim_lab.widgets.plot import Plot
from mpim_lab.widgets.quiz import Quiz
from mpim_lab.widgets.result_card import ResultCard
from mpim_lab.widgets.source_view import SideBySide, SourceView
from mpim_lab.widgets.sweep_panel import SweepPanel

__all__ = [
    "CodeTour",
    "FlowView",
    "LiveCharts",
    "Panel",
    "Plot",
    "Quiz",
    "ResultCard",
    "SideBySide",
    "SourceView",
    "SpaceTime",
    "SweepPanel",
    "ladder_chart",
    "sweep_chart",
]
