"""Chart svg: small static pictures of line and bar charts, for readers without a kernel.

By hand: they follow the page's dark mode, and the same numbers give the same text.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from mpim_lab.widgets.static_picture import PALETTE, escape

WIDTH, HEIGHT = 780, 320
LEFT, RIGHT, TOP, BOTTOM = 90, 24, 64, 54
MAX_MARKS = 60
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}"
    ".t{font-size:14px;font-weight:600;fill:#1f2328}"
    ".card{fill:#fff;stroke:#d0d7de}"
    ".grid{stroke:#8c959f;stroke-opacity:.35}"
    "@media(prefers-color-scheme:dark){.card{fill:#161b22;stroke:#30363d}"
    "text{fill:#9ea7b3}.t{fill:#e6edf3}}"
)

Series = Mapping[str, tuple[Sequence[float], Sequence[float | None]]]


def ticks(highest: float, about: int = 5) -> list[float]:
    """Round numbers from 0 to at least `highest`.

    >>> ticks(87)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    if not highest > 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(highest / about))
    step = next(
        power * factor for factor in (1, 2, 5, 10) if power * factor * about >= highest * 0.999
    )
    return [step * index for index in range(math.ceil(highest / step - 1e-9) + 1)]


def _card(title: str, height: int, parts: Iterable[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>'
        f'<text class="t" x="18" y="28">{escape(title)}</text>'
    )
    return head + "".join(parts) + "</svg>"


def powers(lowest: float, highest: float) -> list[float]:
    """Powers of ten around two numbers above 0.

    >>> powers(20, 3_000)
    [10.0, 100.0, 1000.0, 10000.0]
    """
    first = math.floor(math.log10(lowest) + 1e-9)
    return [
        10.0**power
        for power in range(first, max(first + 1, math.ceil(math.log10(highest) - 1e-9)) + 1)
    ]


def tick_text(value: float) -> str:
    """A number at an axis.

    >>> [tick_text(value) for value in (0.1, 20, 100_000, 2_500_000)]
    ['0.1', '20', '100,000', '2.5M']
    """
    return f"{value / 1e6:,g}M" if value >= 1e6 else f"{value:,g}"


def _axis(values: Sequence[float], log: bool) -> tuple[list[float], Callable[[float], float]]:
    """The ticks of an axis, and where a value lies between the first (0) and the last (1)."""
    if not log:
        marks = ticks(max(values, default=1))
        return marks, lambda value: value / marks[-1]
    marks = powers(min(values, default=1), max(values, default=10))
    low, high = math.log10(marks[0]), math.log10(marks[-1])
    return marks, lambda value: (math.log10(value) - low) / (high - low)


def lines_svg(
    series: Series,
    title: str,
    x_title: str,
    y_title: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """Lines over a grid, few points marked; axes begin at 0, or at a power of ten.

    None, nan and, there, 0 are left out.
    """
    known = {
        name: [(x, y) for x, y in _known(xs, ys) if (x > 0 or not log_x) and (y > 0 or not log_y)]
        for name, (xs, ys) in series.items()
    }
    points = [point for line in known.values() for point in line]
    x_ticks, x_place = _axis([x for x, _ in points], log_x)
    y_ticks, y_place = _axis([y for _, y in points], log_y)

    def to_x(x: float) -> float:
        return LEFT + x_place(x) * (WIDTH - LEFT - RIGHT)

    def to_y(y: float) -> float:
        return HEIGHT - BOTTOM - y_place(y) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in y_ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {to_y(y):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{to_y(y) + 4:.1f}" text-anchor="end">{tick_text(y)}</text>'
        )
    parts += [_x_label(to_x(x), tick_text(x)) for x in x_ticks]
    left = 18
    for index, (name, line) in enumerate(known.items()):
        parts += _line(
            [(to_x(x), to_y(y)) for x, y in line], PALETTE[index % len(PALETTE)], name, left
        )
        left += 44 + round(6.2 * len(name))
    return _card(title, HEIGHT, [*parts, *_axis_titles(x_title, y_title)])


def _x_label(x: float, text: str) -> str:
    """Below its place; a long one at the right edge ends there."""
    at_edge = x + 4 * len(text) > WIDTH
    return (
        f'<text x="{WIDTH - 4 if at_edge else x:.1f}" y="{HEIGHT - BOTTOM + 18}" '
        f'text-anchor="{"end" if at_edge else "middle"}">{text}</text>'
    )


def _line(
    points: Sequence[tuple[float, float]], colour: str, name: str, left: int
) -> Iterable[str]:
    """One line with its marks, if they are few, and its name above the picture."""
    if len(points) <= MAX_MARKS:
        yield from (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"/>' for x, y in points
        )
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.2"/>'
    yield (
        f'<rect x="{left}" y="42" width="12" height="4" fill="{colour}"/>'
        f'<text x="{left + 18}" y="48">{escape(name)}</text>'
    )


def _axis_titles(x_title: str, y_title: str) -> Iterable[str]:
    x, y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    yield f'<text x="{x}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_title)}</text>'
    yield (
        f'<text x="20" y="{y}" text-anchor="middle" '
        f'transform="rotate(-90 20 {y})">{escape(y_title)}</text>'
    )


def _known(xs: Sequence[float], ys: Sequence[float | None]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None and not math.isnan(y)]


def bars_svg(rows: Sequence[tuple[str, float, str]], title: str, unit: str) -> str:
    """Horizontal bars: (name, value, label), values from 0."""
    most, left, right = max((value for _, value, _ in rows), default=0.0) or 1.0, 236, 150
    height = 84 + 34 * len(rows)
    parts = []
    for index, (name, value, label) in enumerate(rows):
        y, wide = 50 + 34 * index, max(1.0, value / most * (WIDTH - left - right))
        parts.append(f'<text x="{left - 10}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{left}" y="{y}" width="{wide:.1f}" height="23" rx="3" fill="{PALETTE[0]}"/>'
        )
        parts.append(f'<text x="{left + wide + 8:.1f}" y="{y + 16}">{escape(label)}</text>')
    parts.append(f'<text x="{left}" y="{height - 14}">{escape(unit)}</text>')
    return _card(title, height, parts)
