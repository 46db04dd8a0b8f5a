"""FlowView: messages on their way and their space-time diagram, live and then to be replayed."""

import asyncio
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from mpim_lab.events import now
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.widgets.scenes.builder import build_scene
from mpim_lab.widgets.scenes.scene import Scene
from mpim_lab.widgets.scenes.svg import space_time_svg
from mpim_lab.widgets.static_picture import Bundle, bundle

STATIC = Path(__file__).parent / "static"
# One module in the page; there is no build step.
SCRIPTS = ("marks", "flow_picture", "space_time", "flow")
POLL_S = 0.1


class FlowView(anywidget.AnyWidget):
    """Show a trace: play it, step, scrub, click a message for its story.

    Without a kernel: its space-time diagram.

    `show` puts another trace in; `follow` shows a run while it goes on.
    """

    _esm = "\n".join((STATIC / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    _css = STATIC / "flow.css"
    title = traitlets.Unicode("").tag(sync=True)

    def __init__(self, trace: Trace | None = None, *, title: str = "Who got the message?") -> None:
        super().__init__(title=title)
        self._trace = trace if trace is not None else Trace()
        self._live = False
        self._scene: Scene | None = None
        self._sent: dict[str, int] = {}
        self._sent_sample_rate = 1
        self._drawing = threading.Lock()  # what a page says may come on another thread
        self.on_msg(self._on_message)

    @property
    def scene(self) -> Scene:
        """What the picture shows."""
        if self._scene is None:
            self._scene = build_scene(self._trace, finished=not self._live)
        return self._scene

    def show(self, trace: Trace) -> None:
        """Show another trace, whole."""
        self._put(trace, live=False, fresh=True)

    async def follow(self, run: Run) -> None:
        """Show a run while it goes on, and whole at its end.

        Costs at most a fifth of the loop's time.
        """
        self._put(run.trace, live=True, fresh=True)
        seen = len(run.trace)
        try:
            while not run.done:
                begun = now()
                if len(run.trace) != seen:
                    seen = len(run.trace)
                    self._put(run.trace, live=True, fresh=False)
                await asyncio.sleep(max(POLL_S, 4 * (now() - begun)))
        finally:
            self._put(run.trace, live=False, fresh=False)

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        # A page was opened or loaded again: it knows nothing yet.
        if content.get("type") == "ready":
            with self._drawing:
                self._draw(fresh=True)

    def _put(self, trace: Trace, *, live: bool, fresh: bool) -> None:
        with self._drawing:
            self._trace, self._live, self._scene = trace, live, None
            self._draw(fresh=fresh)

    def _draw(self, *, fresh: bool) -> None:
        """Send the scene.

        Only the stories that are new or have changed since the last time, unless it is fresh.

        A trace that began to sample is sent whole: the messages it let go must leave the page.
        """
        fresh = fresh or self._trace.sample_rate != self._sent_sample_rate
        self._sent_sample_rate = self._trace.sample_rate
        if fresh:
            self._sent.clear()
        self.send(self._message(self.scene, fresh))

    def _message(self, scene: Scene, fresh: bool) -> dict[str, Any]:
        changed = []
        for story in scene.stories:
            mark = hash((story.fate, story.silently_lost, tuple(story.legs), len(story.log)))
            if self._sent.get(story.id) != mark:
                self._sent[story.id] = mark
                changed.append(asdict(story))
        return {
            "type": "scene",
            "fresh": fresh,
            "live": self._live,
            "summary": str(scene),
            "producers": scene.producers,
            "channels": scene.channels,
            "consumers": scene.consumers,
            "columns": scene.columns,
            "bands": [asdict(band) for band in scene.bands],
            "steps": scene.steps,
            "note": scene.note,
            "acknowledgement": scene.acknowledgement,
            "stories": changed,
        }

    def _repr_mimebundle_(self, **options: Any) -> Bundle:
        return bundle(
            super()._repr_mimebundle_(**options),
            space_time_svg(self.scene, self.title),
            f"FlowView: {self.scene}",
        )


class SpaceTime:
    """Only the space-time diagram of a trace, as a picture.

    Who sent what when, and where it ended.
    """

    def __init__(self, trace: Trace, *, title: str = "Space and time") -> None:
        self._scene, self._title = build_scene(trace), title

    def _repr_mimebundle_(self, **_options: Any) -> Bundle:
        return bundle(None, space_time_svg(self._scene, self._title), f"SpaceTime: {self._scene}")
