"""Svg: the static space-time diagram, for readers without a kernel.

The same scene gives the same text.
"""

from collections.abc import Iterable

from mpim_lab.widgets.scenes.scene import FATES, Leg, MessageHistory, Scene
from mpim_lab.widgets.static_picture import escape

# Okabe and Ito's palette: told apart with any kind of colour vision. Every fate has a shape of its
# own as well.
COLOURS = {
    "delivered": "#009E73",
    "duplicated": "#CC79A7",
    "lost": "#D55E00",
    "pending": "#56B4E9",
    "dead-lettered": "#8C8C8C",
    "confirmation": "#0072B2",
}
STEP, LANE, LOW_LANE, LEFT, TOP = 30, 82, 50, 132, 74
MAX_LANES = 6  # at their full height
MAX_STEPS = 40

_STYLE = (
    ".card{fill:#fff;stroke:#d0d7de}.t{fill:#1f2328;font:13px system-ui,sans-serif}"
    ".s{fill:#57606a;font:12px system-ui,sans-serif} .b{font-weight:600}"
    ".line{stroke:#8c959f;stroke-width:1.5}.band{fill:#6e7781;fill-opacity:.16}"
    ".bt{fill:#57606a;font:italic 12px system-ui,sans-serif} "
    "@media (prefers-color-scheme:dark){.card{fill:#161b22;stroke:#30363d}.t{fill:#e6edf3}"
    ".s,.bt{fill:#9ea7b3}.line{stroke:#6e7681} .band{fill:#8b949e;fill-opacity:.24}}"
)


def space_time_svg(scene: Scene, title: str) -> str:
    """Draw the scene.

    Time to the right in steps, a line for everybody, messages as slanted lines between them.
    """
    first, last = _window(scene)
    nodes = [*scene.producers, *scene.channels, *scene.consumers]
    lane = LANE if len(nodes) <= MAX_LANES else LOW_LANE
    lanes = {node: TOP + 46 + lane * index for index, node in enumerate(nodes)}
    width = max(LEFT + STEP * (last - first + 1) + 40, 780)
    height = TOP + lane * max(len(nodes), 1) + 34 + (LANE - lane) // 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" ',
        f'width="{width}" height="{height}" role="img">',
        f"<title>{escape(title)}: {escape(str(scene))}</title><style>{_STYLE}</style>",
        f'<rect class="card" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="10"/>',
        *_heading(scene, title, first, last, width),
        *_bands(scene, lanes, first, last),
        *_lanes(lanes, width),
    ]
    for story in scene.stories:
        parts += _message(story, lanes, scene.channels, first, last)
    return "".join([*parts, "</svg>"])


def _window(scene: Scene) -> tuple[int, int]:
    """Which steps are shown: all, or as many as can be read, around the first loss or repeat."""
    if scene.steps <= MAX_STEPS:
        return 1, max(scene.steps, 1)
    odd = [
        story.legs[0].begin
        for story in scene.stories
        if story.legs and story.fate in ("lost", "duplicated", "dead-lettered")
    ]
    first = max(1, min(int(min(odd, default=1)) - 5, scene.steps - MAX_STEPS + 1))
    return first, first + MAX_STEPS - 1


def _heading(scene: Scene, title: str, first: int, last: int, width: int) -> Iterable[str]:
    yield f'<text class="t b" x="18" y="28">{escape(title)}</text>'
    shown = f"steps {first}–{last} of {scene.steps} shown" if last - first + 1 < scene.steps else ""
    note = "; ".join(filter(None, (shown, scene.note)))
    yield f'<text class="s" x="{width - 18}" y="28" text-anchor="end">{escape(note)}</text>'
    x, counts = 18, scene.counts()
    for fate in FATES:
        if counts[fate]:
            label = f"{counts[fate]} {fate}"
            yield shape(fate, x + 6, 47) + f'<text class="s" x="{x + 18}" y="51">{label}</text>'
            x += 36 + 7 * len(label)
    if any(story.silently_lost for story in scene.stories):
        silent = sum(story.silently_lost for story in scene.stories)
        yield (
            _flag(x + 6, 50) + f'<text class="s" x="{x + 18}" y="51">'
            f"{silent} of them acknowledged “{scene.acknowledgement}”</text>"
        )


def _lanes(lanes: dict[str, int], width: int) -> Iterable[str]:
    for node, y in lanes.items():
        yield f'<line class="line" x1="{LEFT - 10}" x2="{width - 18}" y1="{y}" y2="{y}"/>'
        name = escape(node)
        yield f'<text class="t b" x="{LEFT - 20}" y="{y + 4}" text-anchor="end">{name}</text>'


def _bands(scene: Scene, lanes: dict[str, int], first: int, last: int) -> Iterable[str]:
    labelled: set[str] = set()
    for band in scene.bands:
        begin, end = max(band.begin, first - 0.1), min(band.end, last + 1)
        if band.node in lanes and begin < end:
            x, wide, y = _x(begin, first), (end - begin) * STEP, lanes[band.node]
            place = f'x="{x:.1f}" y="{y - 22}" width="{wide:.1f}" height="44"'
            yield f'<rect class="band" {place} rx="5"/>'
            if band.label not in labelled or wide > 60:
                yield f'<text class="bt" x="{x + 3:.1f}" y="{y + 36}">{escape(band.label)}</text>'
            labelled.add(band.label)


def _x(step: float, first: int) -> float:
    return LEFT + (step - first) * STEP


def _message(
    story: MessageHistory, lanes: dict[str, int], channels: list[str], first: int, last: int
) -> Iterable[str]:
    colour = COLOURS[story.fate]
    for leg in story.legs:
        if (
            not (first <= leg.begin <= last + 1)
            or leg.source not in lanes
            or leg.target not in lanes
        ):
            continue
        yield _leg(leg, colour, lanes, first)
        x, y = _end_of(leg, lanes, first)
        if leg.outcome in ("lost", "dead-lettered"):
            yield shape(leg.outcome, x, y)
        elif leg.outcome == "arrived" and leg.target not in channels and story.fate != "lost":
            yield shape(story.fate, x, y)
    begin = story.legs[0].begin if story.legs else 0
    if first <= begin <= last and story.legs[0].source in lanes:
        x, y = _x(begin, first), lanes[story.legs[0].source]
        every = max(1, len(story.id) * 8 // STEP)
        if int(begin) % every == 0 or story.fate != "delivered":
            place = f'x="{x:.1f}" y="{y - 14}" text-anchor="middle"'
            yield f'<text class="s" {place}>{escape(story.id)}</text>'
        if story.silently_lost:
            yield _flag(x, y - 2)


def _leg(leg: Leg, colour: str, lanes: dict[str, int], first: int) -> str:
    x2, y2 = _end_of(leg, lanes, first)
    stroke = COLOURS.get(leg.outcome, colour)  # "arrived" has its message's colour
    style = (
        ' stroke-dasharray="3 3" stroke-width="1.2"'
        if leg.outcome == "confirmation"
        else ' stroke-width="1.8"'
    )
    x1, y1 = _x(leg.begin, first), lanes[leg.source]
    return f'<line x1="{x1:.1f}" y1="{y1}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{style}/>'


def _end_of(leg: Leg, lanes: dict[str, int], first: int) -> tuple[float, float]:
    """A leg that was lost on the way from the server ends half-way.

    One that found nobody ends at the server.
    """
    y1, y2 = lanes[leg.source], lanes[leg.target]
    is_half = leg.outcome == "lost" and leg.end - leg.begin < 0.3
    return _x(leg.end, first), (y1 + (y2 - y1) * 0.5) if is_half else y2


def _flag(x: float, y: float) -> str:
    """A small flag: this message was acknowledged to its sender, and lost."""
    colour = COLOURS["lost"]
    form = f"M{x:.1f} {y + 2:.1f}v-10l8 3.5l-8 3.5"
    return f'<path d="{form}" fill="{colour}" stroke="{colour}"/>'


def shape(fate: str, x: float, y: float) -> str:
    """The mark of a fate: disc, cross, diamond, ring, square."""
    colour = COLOURS[fate]
    if fate == "lost":
        form = f"M{x - 5:.1f} {y - 5:.1f}l10 10m0-10l-10 10"
        return f'<path d="{form}" stroke="{colour}" stroke-width="2.6" fill="none"/>'
    if fate == "duplicated":
        return f'<path d="M{x:.1f} {y - 6.5:.1f}l6.5 6.5l-6.5 6.5l-6.5-6.5z" fill="{colour}"/>'
    if fate == "dead-lettered":
        return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>'
    circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"'
    if fate == "pending":
        return f'{circle} fill="none" stroke="{colour}" stroke-width="2.2"/>'
    return f'{circle} fill="{colour}"/>'
