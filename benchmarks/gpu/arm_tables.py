"""Tables of arms and sweeps, in Markdown, for docs/performance.md."""

from __future__ import annotations

import statistics

from benchmarks.gpu.case import Figure
from benchmarks.gpu.limits import Limits
from benchmarks.gpu.results import Line, rates_of, spread
from benchmarks.gpu.roofline import CEILINGS, roofline_of

# Output tokens/s a GPU of the offline scenario, all fp8: the results of MLPerf Inference 5.1 (first and last two), 6.0.
PUBLISHED = (
    ("vLLM 0.10, one H100 (RedHat, 5.1)", 5_777),
    ("TensorRT-LLM, 8 x H200 NVL (Dell, 6.0)", 6_649),
    ("TensorRT-LLM, H200 (5.1)", 7_288),
    ("TensorRT-LLM, H200 (5.1, the best)", 8_255),
)
_BEST = PUBLISHED[-1][1]
_PARTS = ("launch", "import", "load", "warm-up", "generate", "drain")
_Groups = dict[tuple[str, str, str], list[Line]]


def arms_table(lines: list[Line]) -> str:
    """Speed and parts of each arm of MLPerf's lengths, and what is published; then where generation's time goes."""
    groups: _Groups = {}
    for line in lines:
        case = line.case
        if case.arm and line.figures and Limits.named(case.ways[0]) is None:
            work = f"{case.shape}, {case.prompts} rows" + (f" of {case.lengths}" if case.lengths else "")
            groups.setdefault((work, case.arm, case.ways[0]), []).append(line)
    if not groups:
        return ""
    return "\n".join([*_speeds(groups), "", *_where(groups)])


def _speeds(groups: _Groups) -> list[str]:
    found: list[list[str]] = []
    for key, group in groups.items():
        rates = [rate for line in group for rate in rates_of(list(line.figures))]
        parts = [_median_part(group, part) for part in (*_PARTS, "whole")]
        found.append([*key, spread(rates, ",.0f"), f"{statistics.median(rates) / _BEST:.2f}", *parts])
    if any(line.case.lengths for group in groups.values() for line in group):
        empty = [""] * (len(_PARTS) + 1)
        found += [["published", "fp8", who, f"{rate:,}", f"{rate / _BEST:.2f}", *empty] for who, rate in PUBLISHED]
    head = ["work", "settings", "way", "output tok/s (least - most)", f"of {_BEST:,}", *_PARTS, "whole job, s"]
    return _table(head, found)


def _median_part(group: list[Line], part: str) -> str:
    every = [{**figure.start_up, **figure.parts} for line in group for figure in line.figures]
    seconds = [parts[part] for parts in every if part in parts]
    return f"{statistics.median(seconds):.1f}" if seconds else ""


def _where(groups: _Groups) -> list[str]:
    """Seconds that the ceilings allow, beside those of generation."""
    found: list[list[str]] = []
    for key, group in groups.items():
        figures = [figure for line in group for figure in line.figures]
        measured = statistics.median(max(_of_round(figures, number)) for number in {one.round for one in figures})
        allowed = roofline_of(group[0].case)
        told = [f"{seconds:.1f}" for seconds in (measured, *allowed, allowed.whole)]
        idle = statistics.median(figure.idle for figure in figures)
        found.append([*key, *told, f"{allowed.whole / measured:.2f}", f"{idle:.1%}"])
    head = ["work", "settings", "way", "generation, s", "prompts: products", "prompts: attention", "decoding: reads"]
    head += ["decoding: products", "roofline, s", "of it reached", "no step under way"]
    return [f"What {CEILINGS} allow:", "", *_table(head, found)]


def _of_round(figures: list[Figure], number: int) -> list[float]:
    return [figure.seconds for figure in figures if figure.round == number]


def sweep_table(lines: list[Line]) -> str:
    """Each limit's rounds in one engine, against the first one's, and what the start took."""
    found: list[list[str]] = []
    for line in lines:
        case = line.case
        if Limits.named(case.ways[0]) is None or not line.figures or line.figures[0].rank:
            continue
        rates = {way: rates_of([one for one in line.figures if one.way == way]) for way in case.ways}
        base = statistics.median(rates[case.ways[0]])
        start = line.figures[0].start_up
        for way in case.ways:
            limits = Limits.named(way)
            assert limits is not None
            found.append(
                [
                    f"{case.kind}, {case.prompts} rows", str(limits.sequences), str(limits.tokens),
                    spread(rates[way], ",.0f"), f"{statistics.median(rates[way]) / base:.3f}",
                    f"{start['import'] + start['load']:.0f}", f"{start.get('capture', 0.0):.1f}",
                ]
            )  # fmt: skip
    head = ["work", "at once", "tokens a step", "output tok/s (least - most)", "to the first", "start, s", "capture, s"]
    return "\n".join(_table(head, found)) if found else ""


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
