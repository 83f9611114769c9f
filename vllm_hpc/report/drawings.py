"""A job's charts: what its replicas did over time, how long prompts and answers are, where its ranks are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from vllm_hpc.report import charts, words
from vllm_hpc.report.charts import Curve, Scale, Square
from vllm_hpc.report.facts import Facts, Samples, Series
from vllm_hpc.spec.words import counted

# Of more replicas, neighbours share a row; of more nodes, the first are drawn. Lines for each replica up to a few.
_MOST_ROWS, _MOST_SQUARES, _MOST_LINES = 64, 1024, 8
# Bins at the end of an attempt in which a replica may be seen no more, though it generated as before: it was killed.
_RAGGED_BINS = 2
_COLOURS = 10
_MARKS = 7


class Table(NamedTuple):
    """A chart's values: ``head``, and a line for each bin."""

    head: Sequence[str]
    lines: Sequence[Sequence[str]]


class Chart(NamedTuple):
    """A chart with its title, what to know of it, and its values."""

    title: str
    note: str
    picture: Markup
    table: Table
    lines: Sequence[tuple[str, str]] = ()  # for the legend: names, and CSS classes


# -- over time ---------------------------------------------------------------------------------------------------------
def edges_of(samples: Samples) -> list[float]:
    """Where the bins begin, and the last ends: from 0 to 1 of the time in which attempts ran."""
    total = sum(samples.widths)
    edges = [0.0]
    for width in samples.widths:
        edges.append(edges[-1] + width / total)
    return edges


def _label(samples: Samples) -> Callable[[float], str]:
    """The time since the job was made, at a place from 0 to 1 of the time in which attempts ran."""
    edges = edges_of(samples)

    def label(x: float) -> str:
        place = min(len(samples.starts) - 1, sum(edge <= x for edge in edges) - 1)
        inside = (x - edges[place]) / ((edges[place + 1] - edges[place]) or 1.0)
        return words.short_seconds(samples.starts[place] + min(1.0, inside) * samples.widths[place])

    return label


def _marks(samples: Samples) -> list[tuple[float, str]]:
    """Round times since the job was made, not too close to each other where time was left out."""
    edges, step = edges_of(samples), words.round_step(sum(samples.widths), _MARKS)
    found: list[tuple[float, str]] = []
    for place, (start, width) in enumerate(zip(samples.starts, samples.widths, strict=True)):
        at = step * -(-start // step)
        while at < start + width:
            x = edges[place] + (at - start) / width * (edges[place + 1] - edges[place])
            if not found or x - found[-1][0] > 0.07:
                found.append((x, words.short_seconds(at)))
            at += step
    return found


class _Measure(NamedTuple):
    """What is drawn over time. ``is_sum``: replicas add up; else their mean is told. ``is_heat``: each is told, too."""

    title: str
    pick: Callable[[Series], Sequence[float | None]]
    words: Callable[[float | None], str]
    is_sum: bool = False
    most: float | None = None
    is_heat: bool = False


def in_unit(unit: str) -> Callable[[float | None], str]:
    """Tells values in a unit."""
    return lambda value: words.number(value, unit)


_MEASURES = (
    _Measure(
        "Throughput, output tokens/s", lambda one: one.tokens_per_s, in_unit("tokens/s"), is_sum=True, is_heat=True
    ),
    _Measure("Occupancy", lambda one: one.occupancy, words.percent, most=1.0, is_heat=True),
    _Measure("Rows running", lambda one: one.running, in_unit("rows"), is_sum=True),
    _Measure("Rows waiting in the engines", lambda one: one.waiting, in_unit("rows"), is_sum=True),
    _Measure("KV cache in use", lambda one: one.kv, words.percent, most=1.0),
    _Measure("Power of the GPUs, W", lambda one: one.watts, in_unit("W"), is_sum=True),
)


def series(samples: Samples) -> list[Chart]:
    """The charts over time, without those of which nothing is known."""
    return [chart for measure in _MEASURES if (chart := _over_time(samples, measure)) is not None]


def _over_time(samples: Samples, measure: _Measure) -> Chart | None:
    """Lines of a few replicas, with their sum where that means something; a row of cells for each of many."""
    edges = edges_of(samples)
    lines = [
        Curve(f"replica {one.replica}", edges, measure.pick(one), f"replica{one.replica % _COLOURS}")
        for one in samples.replicas
    ]
    known = [value for line in lines for value in line.values if value is not None]
    if not any(known):
        return None
    top = max(measure.most, *known) if measure.most else None
    scale = Scale(_label(samples), measure.words, _marks(samples), top)
    together = together_of(lines, "all" if measure.is_sum else "mean", measure.is_sum)
    cuts = [edges[place] for place in samples.cuts]
    if len(lines) <= _MOST_LINES:
        lines = [together, *lines] if len(lines) > 1 and measure.is_sum else lines
        picture, note, shown = charts.curves(lines, scale, cuts), "", lines
    else:
        rows = _grouped(lines)
        picture, note, shown = charts.curves([together], scale, cuts), f"All {len(lines)} replicas together.", []
        if measure.is_heat:
            whose = "replica" if len(rows) == len(lines) else f"{-(-len(lines) // len(rows))} replicas, their mean"
            picture += charts.heat(rows, scale._replace(most=measure.most and scale.most))
            note = f"Above all replicas together; below a row for each {whose}: the stronger its colour, the more."
        lines = [together, *rows] if measure.is_heat else [together]
    note += " At a dashed line, time in which no attempt ran is left out." if cuts else ""
    return Chart(measure.title, note.strip(), picture, _table(samples, lines, measure.words), legend(shown))


def legend(lines: Sequence[Curve]) -> list[tuple[str, str]]:
    """The names of several lines, and their CSS classes."""
    return [(line.name, line.style) for line in lines] if len(lines) > 1 else []


def _table(samples: Samples, lines: Sequence[Curve], say: Callable[[float | None], str]) -> Table:
    head = ["after", *(line.name for line in lines)]
    starts = enumerate(samples.starts)
    return Table(head, [[words.seconds(at), *(say(line.values[place]) for line in lines)] for place, at in starts])


def together_of(lines: Sequence[Curve], name: str, is_sum: bool) -> Curve:
    """One line of several: their sum, or their mean.

    Replicas are not seen for the last time at one moment: a sum would drop there, though none of them did.
    """
    values, numbers = list[float | None](), list[int]()
    for at in zip(*(line.values for line in lines), strict=True):
        known = [value for value in at if value is not None]
        numbers.append(len(known))
        values.append((sum(known) if is_sum else sum(known) / len(known)) if known else None)
    if is_sum:
        for place in _ragged(numbers):
            values[place] = None
    return Curve(name, lines[0].edges, values, "together")


def _ragged(numbers: Sequence[int]) -> list[int]:
    """The last bins before a gap, or the end, in which fewer are known than just before."""
    found = []
    for last, number in enumerate(numbers):
        if number and (last + 1 == len(numbers) or not numbers[last + 1]):
            ends = range(max(0, last - _RAGGED_BINS + 1), last + 1)
            found += [place for place in ends if ends.start and 0 < numbers[place] < numbers[ends.start - 1]]
    return found


def _grouped(lines: Sequence[Curve]) -> list[Curve]:
    """At most so many rows: neighbours together, as their mean."""
    by = -(-len(lines) // _MOST_ROWS)
    if by == 1:
        return list(lines)
    groups = [lines[first : first + by] for first in range(0, len(lines), by)]
    return [together_of(group, f"{group[0].name}+", False) for group in groups]


# -- lengths, layout ---------------------------------------------------------------------------------------------------
def lengths(jobs: Sequence[Facts]) -> list[Chart]:
    """Histograms of prompt and output tokens, of one job or two; none of jobs without results."""
    made = []
    for title, name in (("Prompt tokens", "prompt"), ("Output tokens", "completion")):
        found = [(one.name, getattr(one.rows, name)) for one in jobs if one.rows and getattr(one.rows, name)]
        if not found:
            continue
        note = "; ".join(
            f"{f'{job}: ' if len(jobs) > 1 else ''}mean {words.number(one.mean)}, median {one.median:,}, nine of ten "
            f"up to {one.p90:,}, most {one.most:,}"
            for job, one in found
        )
        named = [(job if len(jobs) > 1 else "rows", one) for job, one in found]
        lines = [
            [job, f"{place * one.width:,} to {(place + 1) * one.width - 1:,}", f"{count:,}"]
            for job, one in named
            for place, count in enumerate(one.counts)
            if count
        ]
        made.append(Chart(title, note, charts.bars(named, "tokens"), Table(["", "tokens", "rows"], lines)))
    return made


def layout_of(facts: Facts) -> tuple[Markup, str]:
    """The nodes with their ranks, and the layout in words."""
    layout = facts.layout
    hosts = {rank: host.host for host in facts.hosts for rank in host.ranks}
    all_nodes = layout.nodes * layout.tasks
    groups = []
    for node in range(min(all_nodes, max(1, _MOST_SQUARES // layout.procs_per_node))):
        first = node * layout.procs_per_node
        ranks = range(first, first + layout.procs_per_node)
        groups.append((hosts.get(first, f"node {node}"), [_square(facts, rank, hosts.get(rank)) for rank in ranks]))
    size = layout.cut
    note = f"{counted(all_nodes, 'node')}, {layout.all_ranks} ranks: {size}. The number is the replica's."
    if len(groups) < all_nodes:
        note += f" The first {len(groups)} nodes are drawn."
    return charts.nodes(groups), note


def _square(facts: Facts, rank: int, host: str | None) -> Square:
    place = facts.layout.place(rank)
    where = f"\n{host}" if host else ""
    tip = f"rank {rank}: replica {place.replica}, TP rank {place.tp}, PP rank {place.pp}{where}"
    return Square(str(place.replica), f"fill{place.replica % _COLOURS}", tip)
