"""Charts as inline SVG. What is hovered, or reached by the arrow keys, has its words in ``data-tip``."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from vllm_hpc.report.facts import AttemptFacts, Histogram
from vllm_hpc.report.words import number, percent, round_step, seconds, short_seconds

WIDTH = 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 8, 22
_PLOT = WIDTH - _LEFT - _RIGHT
_SLICES, _TICKS, _LEVELS = 100, 6, 10


class Curve(NamedTuple):
    """A line: ``edges`` of its bins from 0 to 1, one more than ``values``. ``style``: its CSS class."""

    name: str
    edges: Sequence[float]
    values: Sequence[float | None]
    style: str

    def at(self, x: float) -> float | None:
        """Its value there; None outside."""
        place = bisect_right(self.edges, x) - 1
        return self.values[place] if 0 <= place < len(self.values) else None


class Scale(NamedTuple):
    """How values are told: ``label`` says the time at a place from 0 to 1, ``words`` a value, ``most`` the top.

    ``marks``: places on the axis of time, with what stands there.
    """

    label: Callable[[float], str]
    words: Callable[[float | None], str]
    marks: Sequence[tuple[float, str]]
    most: float | None = None


def curves(lines: Sequence[Curve], scale: Scale, cuts: Iterable[float] = ()) -> Markup:
    """Lines over time; ``cuts``: where some was left out."""
    height, plot = 210, 210 - _TOP - _BOTTOM
    most = scale.most or _nice(max((value for line in lines for value in line.values if value is not None), default=0))
    body = [_grid(height, plot, most, scale.words), _times(height, scale.marks)]
    body += [_rect(_x(cut) - 1, _TOP, 2, plot, "cut") for cut in cuts]
    body += [f'<path class="line {escape(line.style)}" d="{_path(line, most, plot)}"/>' for line in lines]
    for place in range(_SLICES):
        x = (place + 0.5) / _SLICES
        said = [f"{line.name}: {scale.words(line.at(x))}" for line in lines if line.at(x) is not None]
        if said:
            tip = "\n".join([scale.label(x), *said])
            body.append(_rect(_x(place / _SLICES), _TOP, _PLOT / _SLICES, plot, "band", tip))
    return _svg(height, body)


def heat(lines: Sequence[Curve], scale: Scale) -> Markup:
    """A row of cells for each line, the darker the more."""
    row = max(5, min(18, 560 // max(1, len(lines))))
    height = row * len(lines) + _TOP + _BOTTOM
    most = (
        scale.most or max((value for line in lines for value in line.values if value is not None), default=0.0) or 1.0
    )
    body = [_times(height, scale.marks)]
    step = max(1, -(-12 // row))
    for place, line in enumerate(lines):
        top = _TOP + place * row
        if place % step == 0:
            body.append(_text(_LEFT - 6, top + min(row, 12) - 1, line.name.removeprefix("replica "), "end"))
        for left, right, value in zip(line.edges, line.edges[1:], line.values, strict=False):
            if value is not None:
                level = min(_LEVELS - 1, int(_LEVELS * value / most))
                tip = f"{line.name}, {scale.label((left + right) / 2)}: {scale.words(value)}"
                body.append(_rect(_x(left), top, (right - left) * _PLOT, row - 1, f"heat{level}", tip))
    return _svg(height, body)


def bars(histograms: Sequence[tuple[str, Histogram]], unit: str) -> Markup:
    """Histograms beside each other, brought to the same bars; each as a share of its rows if there are several."""
    width = max(histogram.width for _, histogram in histograms)
    merged = [(name, _rebinned(histogram, width), histogram.counts) for name, histogram in histograms]
    is_share = len(merged) > 1
    heights = [[count / (sum(all_of) if is_share else 1) for count in counts] for _, counts, all_of in merged]
    most = _nice(max(max(column) for column in heights))
    number_of_bars = max(map(len, heights))
    height, plot = 170, 170 - _TOP - _BOTTOM
    body = [_grid(height, plot, most, percent if is_share else number)]
    step = _PLOT / number_of_bars
    for which, (name, counts, _) in enumerate(merged):
        for place, count in enumerate(counts):
            size = heights[which][place] / most * plot
            tip = f"{place * width:,} to {(place + 1) * width - 1:,} {unit}\n{name}: {count:,}"
            tip += f" ({100 * heights[which][place]:.3g} %)" if is_share else ""
            left = _LEFT + place * step + which * step * 0.86 / len(merged)
            body.append(_rect(left, _TOP, step * 0.86 / len(merged), plot, "band", tip))
            body.append(_rect(left, _TOP + plot - size, step * 0.86 / len(merged), size, f"job{which}"))
    for place in range(0, number_of_bars + 1, max(1, number_of_bars // _TICKS)):
        anchor = "end" if place == number_of_bars else "middle"
        body.append(_text(_LEFT + place * step, height - 6, f"{place * width:,}", anchor))
    return _svg(height, body)


def timeline(attempts: Sequence[AttemptFacts]) -> Markup:
    """A bar for each attempt, one under another, from when the job was made."""
    row = 24 if len(attempts) <= 30 else 8
    height = row * len(attempts) + _TOP + _BOTTOM
    total = max((part.end for one in attempts for part in one.parts), default=0.0) or 1.0
    body = [_times(height, marks(total))]
    for place, one in enumerate(attempts):
        top = _TOP + place * row
        task = f", task {one.task}" if one.task else ""
        if row > 8 or place % 3 == 0:
            body.append(_text(_LEFT - 6, top + min(row, 22) * 0.68, f"attempt {one.attempt}", "end"))
        for part in one.parts:
            tip = f"attempt {one.attempt}{task}: {part.name}\n{seconds(part.end - part.start)}"
            tip += f", from {seconds(part.start)} to {seconds(part.end)}"
            size = max(1.0, (part.end - part.start) / total * _PLOT)
            body.append(_rect(_x(part.start / total), top + 2, size, row - 4, f"part-{part.name}", tip))
    return _svg(height, body)


class Square(NamedTuple):
    """A rank in the picture of the layout."""

    text: str
    style: str
    tip: str


def nodes(groups: Sequence[tuple[str, Sequence[Square]]]) -> Markup:
    """Nodes as boxes of their ranks."""
    size, most_in_row = 26, 8
    columns = min(most_in_row, max((len(squares) for _, squares in groups), default=1))
    box_width = columns * size + 14
    box_height = -(-max((len(squares) for _, squares in groups), default=1) // columns) * size + 30
    across = max(1, min(len(groups), WIDTH // (box_width + 8)))
    body = []
    for place, (name, squares) in enumerate(groups):
        left, top = (place % across) * (box_width + 8) + 1, (place // across) * (box_height + 8) + 1
        body += [_rect(left, top, box_width, box_height, "node"), _text(left + 8, top + 15, name[:24], "start")]
        for number_in_node, square in enumerate(squares):
            x = left + 7 + (number_in_node % columns) * size
            y = top + 22 + (number_in_node // columns) * size
            body.append(_rect(x + 1, y + 1, size - 2, size - 2, square.style, square.tip))
            body.append(_text(x + size / 2, y + size / 2 + 4, square.text, "middle", "on"))
    rows = -(-len(groups) // across)
    return _svg(rows * (box_height + 8) + 2, body)


def _rebinned(histogram: Histogram, width: int) -> list[int]:
    by = width // histogram.width
    counts = histogram.counts
    return [sum(counts[place : place + by]) for place in range(0, len(counts), by)]


def _nice(most: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if most <= 0:
        return 1.0
    power: float = 10.0 ** (len(str(int(most))) - 1) if most >= 1 else 0.01 if most < 0.1 else 0.1
    return next((step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if step * power >= most), 10 * power)


def _grid(height: int, plot: int, most: float, say: Callable[[float | None], str]) -> str:
    lines = []
    for place in range(5):
        value, y = most * place / 4, _TOP + plot - plot * place / 4
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(_text(_LEFT - 6, y + 4, _on_axis(say(value)), "end"))
    return "".join(lines)


def _on_axis(said: str) -> str:
    """A value without its unit, which the chart's title has."""
    return said if said.endswith("%") else said.partition(" ")[0]


def marks(span: float) -> list[tuple[float, str]]:
    """Round times on an axis from 0 to that many seconds."""
    step = round_step(span, _TICKS)
    return [(place * step / span, short_seconds(place * step)) for place in range(int(span / step) + 1)]


def _times(height: int, at: Iterable[tuple[float, str]]) -> str:
    return "".join(
        _text(_x(place), height - 6, said, "start" if place < 0.01 else "end" if place > 0.97 else "middle")
        for place, said in at
    )


def _path(line: Curve, most: float, plot: int) -> str:
    """Through the middle of each bin; broken where nothing is known."""
    words, is_begun = [], False
    for left, right, value in zip(line.edges, line.edges[1:], line.values, strict=False):
        if value is not None:
            words.append(
                f"{'L' if is_begun else 'M'}{_x((left + right) / 2):.1f} {_TOP + plot * (1 - value / most):.1f}"
            )
        is_begun = value is not None
    return "".join(words)


def _x(place: float) -> float:
    return _LEFT + place * _PLOT


def _rect(x: float, y: float, width: float, height: float, style: str, tip: str = "") -> str:
    said = f' data-tip="{escape(tip)}"' if tip else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{escape(style)}"{said}/>'


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(text)}</text>'


def _svg(height: int, body: Iterable[str]) -> Markup:
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(body)}</svg>')
