"""What people look at: every picture is drawn from a Trace, and leaves a static one for readers without a kernel."""

from mpim_lab.widgets.charts import Chart, LiveCharts, ladder_chart, sweep_chart
from mpim_lab.widgets.flow import FlowView, SpaceTime
from mpim_lab.widgets.panel import Panel
from mpim_lab.widgets.quiz import Quiz

__all__ = ["Chart", "FlowView", "LiveCharts", "Panel", "Quiz", "SpaceTime", "ladder_chart", "sweep_chart"]
