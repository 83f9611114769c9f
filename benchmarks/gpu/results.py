"""The file in which figures accumulate, and the table of medians that is made of it."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from pathlib import Path

import msgspec

from benchmarks.gpu.case import GREEDY_ROWS, RAW, Case, Figure


class Line(msgspec.Struct, frozen=True):
    """What one rank has told of a case."""

    case: Case
    figures: tuple[Figure, ...]

    @classmethod
    def of(cls, case: Case, lines: bytes) -> Line:
        """From the lines that a rank has written."""
        return cls(case, tuple(msgspec.json.decode(line, type=Figure) for line in lines.splitlines()))


def append(file: Path, line: Line) -> None:
    """Add a line to the file of results."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as out:
        out.write(msgspec.json.encode(line) + b"\n")


def read(file: Path) -> list[Line]:
    """All lines so far."""
    if not file.exists():
        return []
    return [msgspec.json.decode(line, type=Line) for line in file.read_bytes().splitlines()]


def spread(numbers: list[float], form: str = ".1f") -> str:
    """Their median, and the least and the most beside it."""
    middle, least, most = (format(one, form) for one in (statistics.median(numbers), min(numbers), max(numbers)))
    return f"{middle} ({least} - {most})"


def table(lines: list[Line]) -> str:
    """One row for each way of each case: median output tokens/s of all its ranks' replicas, least and most."""
    head = "| shape | way | TP x PP x DP | prompts | output tok/s (least - most) | idle | start-up | digests |"
    rows = [head, "| --- " * (head.count("|") - 1) + "|"]
    for group in _by_case(lines):
        case = group[0].case
        for way in case.ways:
            figures = [figure for line in group for figure in line.figures if figure.way == way]
            rates = sorted(rates_of(figures))
            if not rates:
                continue
            idle = statistics.median(figure.idle for figure in figures)
            start_up = max(figure.start_up["import"] + figure.start_up["load"] for figure in figures)
            rows.append(
                f"| {case.shape} | {way} | {case.tp} x {case.pp} x {case.dp} | {case.prompts} "
                f"| {spread(rates, ',.0f')} "
                f"| {'-' if way in ('generate', *RAW) else f'{idle:.1%}'} | {start_up:.0f} s | {_agree(figures)} |"
            )
    return "\n".join(rows)


def whole(lines: list[Line]) -> list[Line]:
    """Without those of an attempt alone that was run with others, too: one engine start a layout."""
    ways: dict[bytes, tuple[str, ...]] = {}
    for line in lines:
        key = _but_for_ways(line)
        ways[key] = max(ways.get(key, ()), line.case.ways, key=len)
    return [line for line in lines if line.case.ways == ways[_but_for_ways(line)]]


def _but_for_ways(line: Line) -> bytes:
    """What lines of the same engine have in common: the first way is what an engine is started for."""
    return msgspec.json.encode(msgspec.structs.replace(line.case, ways=line.case.ways[:1]))


def outputs(lines: list[Line]) -> str:
    """For each layout of one replica, whether all its ways make the same of the same rows, greedily.

    Of the same batches, that is: then the arithmetic is the same, and ours is to be vLLM's own.
    """
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line in lines:
        case = line.case
        for figure in line.figures:
            if case.dp == 1 and figure.greedy:
                rows = f", {case.prompts} prompts" if case.prompts < GREEDY_ROWS else ""
                layout = f"{case.kind}{rows}, TP x PP = {case.tp} x {case.pp}"
                found[layout][figure.way].add(figure.greedy)
    told = []
    for layout, ways in found.items():
        is_same = len(set().union(*ways.values())) == 1
        each = ", ".join(ways if is_same else (f"{way} {'/'.join(sorted(one))}" for way, one in ways.items()))
        told.append(f"{layout}: greedy tokens {'equal' if is_same else 'DIFFER'}: {each}")
    return "\n".join(told)


def choices(lines: list[Line]) -> str:
    """For each work and number of GPUs for which a submit chose a layout: its attempt against the best one's.

    Where only other numbers of prompts of that kind were submitted, what was chosen for the nearest.
    """
    best: dict[tuple[str, int, int], dict[tuple[int, int, int], float]] = defaultdict(dict)
    chosen: dict[tuple[str, int], dict[int, tuple[int, int, int]]] = defaultdict(dict)
    for group in _by_case(lines):
        case = group[0].case
        layout = (case.tp, case.pp, case.dp)
        if case.ways == ("submit",):
            chosen[case.kind, case.gpus][case.prompts] = layout
        rates = rates_of([figure for line in group for figure in line.figures if figure.way == "attempt"])
        if rates:
            best[case.kind, case.prompts, case.gpus][layout] = statistics.median(rates)
    told = []
    for (kind, prompts, gpus), speeds in best.items():
        if submits := chosen.get((kind, gpus)):
            choice = submits[min(submits, key=lambda number: abs(math.log(number / prompts)))]
            cut = "x".join(map(str, choice))
            how = f"which was not run by itself: --only attempt:{cut}"
            if choice in speeds:
                how = f"{speeds[choice] / max(speeds.values()):.2f} of the best of {len(speeds)} layouts run"
            told.append(
                f"{kind}, {prompts} prompts, {gpus} GPUs: the planner chose TP x PP x DP = {_cut(choice)}, {how}"
            )
    return "\n".join(told)


def efficiencies(lines: list[Line]) -> str:
    """For each work, the attempt's tokens/s a GPU in every layout, against those of the layout of the fewest GPUs."""
    found: dict[str, dict[tuple[int, int, int], float]] = defaultdict(dict)
    for group in _by_case(lines):
        case = group[0].case
        rates = rates_of([figure for line in group for figure in line.figures if figure.way == "attempt"])
        if rates:
            found[case.work][case.tp, case.pp, case.dp] = statistics.median(rates) / case.gpus
    told = []
    for work, layouts in found.items():
        base = min(layouts, key=lambda layout: (math.prod(layout), layout[0] * layout[1]))
        for layout in sorted(layouts, key=math.prod):
            share = layouts[layout] / layouts[base]
            told.append(
                f"{work}, TP x PP x DP = {_cut(layout)}: {layouts[layout]:,.0f} tok/s a GPU, "
                f"{share:.2f} of {_cut(base)}"
            )
    return "\n".join(told)


def _by_case(lines: list[Line]) -> list[list[Line]]:
    found: dict[bytes, list[Line]] = defaultdict(list)
    for line in lines:
        found[msgspec.json.encode(line.case)].append(line)
    return list(found.values())


def rates_of(figures: list[Figure]) -> list[float]:
    """Tokens/s of each round: of all replicas, each counted once, until the slowest has ended."""
    found = []
    for number in sorted({figure.round for figure in figures}):
        ones = {figure.replica: figure for figure in figures if figure.round == number}.values()
        found.append(sum(one.tokens for one in ones) / max(one.seconds for one in ones))
    return found


def _agree(figures: list[Figure]) -> str:
    """Whether the ranks of a replica generated the same in each round."""
    seen: dict[tuple[int, int], set[str]] = defaultdict(set)
    for figure in figures:
        seen[figure.round, figure.replica].add(figure.digest)
    return "equal" if all(len(one) == 1 for one in seen.values()) else "DIFFER"


def _cut(layout: tuple[int, int, int]) -> str:
    return " x ".join(map(str, layout))
