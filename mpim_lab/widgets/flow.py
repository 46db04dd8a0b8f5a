"""FlowView: messages on their way and their space-time diagram, live while a run goes on, then to be replayed."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from mpim_lab.events import now
from mpim_lab.lab.experiment import Run
from mpim_lab.lab.trace import Trace
from mpim_lab.widgets.static_picture import Bundle, bundle
from mpim_lab.widgets.story import Scene, Story, tell
from mpim_lab.widgets.svg import space_time_svg

STATIC = Path(__file__).parent / "static"
POLL_S = 0.1


class FlowView(anywidget.AnyWidget):
    """Show a trace: play it, step, scrub, click a message for its story. Without a kernel: its space-time diagram.

    `show` puts another trace in; `follow` shows a run while it goes on.
    """

    _esm = STATIC / "flow.js"
    _css = STATIC / "flow.css"
    title = traitlets.Unicode("").tag(sync=True)

    def __init__(self, trace: Trace | None = None, *, title: str = "Who got the message?") -> None:
        super().__init__(title=title)
        self._trace = trace if trace is not None else Trace()
        self._live = False
        self._scene: Scene | None = None
        self._sent: dict[str, int] = {}
        self.on_msg(self._on_message)

    @property
    def scene(self) -> Scene:
        """What the picture shows."""
        if self._scene is None:
            self._scene = tell(self._trace, finished=not self._live)
        return self._scene

    def show(self, trace: Trace) -> None:
        """Show another trace, whole."""
        self._trace, self._live, self._scene = trace, False, None
        self._draw(fresh=True)

    async def follow(self, run: Run) -> None:
        """Show a run while it goes on, and whole at its end. Costs at most a fifth of the loop's time."""
        self._trace, self._live, seen = run.trace, True, -1
        self._draw(fresh=True)
        try:
            while not run.done:
                begun = now()
                if len(run.trace) != seen:
                    seen = len(run.trace)
                    self._scene = None
                    self._draw(fresh=False)
                await asyncio.sleep(max(POLL_S, 4 * (now() - begun)))
        finally:
            self._live, self._scene = False, None
            self._draw(fresh=False)

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if content.get("type") == "ready":  # a page was opened or loaded again: it knows nothing yet
            self._draw(fresh=True)

    def _draw(self, *, fresh: bool) -> None:
        """Send the scene; only the stories that are new or have changed since the last time, unless it is fresh."""
        scene = self.scene
        if fresh:
            self._sent.clear()
        changed = []
        for story in scene.stories:
            mark = hash((story.fate, len(story.legs), len(story.log)))
            if self._sent.get(story.id) != mark:
                self._sent[story.id] = mark
                changed.append(_as_json(story))
        content = {
            "type": "scene",
            "fresh": fresh,
            "live": self._live,
            "summary": str(scene),
            "producers": scene.producers,
            "channels": scene.channels,
            "consumers": scene.consumers,
            "bands": [asdict(band) for band in scene.bands],
            "steps": scene.steps,
            "note": scene.note,
            "stories": changed,
        }
        self.send(content)

    def _repr_mimebundle_(self, **options: Any) -> Bundle:
        return bundle(
            super()._repr_mimebundle_(**options), space_time_svg(self.scene, self.title), f"FlowView: {self.scene}"
        )


class SpaceTime:
    """Only the space-time diagram of a trace, as a picture: who sent what when, and where it ended."""

    def __init__(self, trace: Trace, *, title: str = "Space and time") -> None:
        self._scene, self._title = tell(trace), title

    def _repr_mimebundle_(self, **_options: Any) -> Bundle:
        return bundle(None, space_time_svg(self._scene, self._title), f"SpaceTime: {self._scene}")


def _as_json(story: Story) -> dict[str, Any]:
    return asdict(story)
