"""The page: one HTML file with all that it shows, which asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import msgspec
from markupsafe import Markup

from vllm_hpc import __version__
from vllm_hpc.report import charts, words
from vllm_hpc.report.charts import Curve, Scale
from vllm_hpc.report.drawings import Chart, Table, edges_of, in_unit, layout_of, legend, lengths, series, together_of
from vllm_hpc.report.facts import Compared, Facts

_PARTS = ("queue", "launch", "import", "load", "warm-up", "generate", "drain", "collect", "ending", "other")


class _View(NamedTuple):
    """A job as the template shows it. ``key`` tells its anchors from those of another job on the page."""

    key: str
    facts: Facts
    charts: Sequence[Chart]
    lengths: Sequence[Chart]
    timeline: Markup | None
    parts: Sequence[str]
    layout: Markup
    layout_note: str
    ended: str


def render(facts: Facts, other: Facts | None = None, compared: Compared | None = None) -> str:
    """The HTML of one job, or of two beside each other."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "seconds": words.seconds, "number": words.number, "percent": words.percent, "moment": words.moment,
        "value": _value,
    }  # fmt: skip
    loader = environment.loader
    assert loader is not None
    script, _, _ = loader.get_source(environment, "page.js")
    style, _, _ = loader.get_source(environment, "page.css")
    views = [_view(f"job{number}", one) for number, one in enumerate(filter(None, [facts, other]))]
    page = environment.get_template("page.html.j2").render(
        views=views,
        compared=compared,
        both=_both(facts, other) if other is not None else [],
        speeds=_compare_speeds(facts, other) if other is not None else [],
        script=Markup(script),
        style=Markup(style),
        # The only script that the page runs, whatever a name or a row says.
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
    )
    return words.shown(page)


def _value(value: object) -> str:
    """A setting as it was given."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode() if value is not None else "–"


def _view(key: str, facts: Facts) -> _View:
    drawn = [one for one in facts.attempts if one.parts]
    last = max((part.end for one in drawn for part in one.parts), default=None)
    picture, note = layout_of(facts)
    there = {part.name for one in drawn for part in one.parts}
    return _View(
        key=key,
        facts=facts,
        charts=series(facts.samples) if facts.samples else [],
        lengths=lengths([facts]),
        timeline=charts.timeline(drawn) if drawn else None,
        parts=[name for name in _PARTS if name in there],
        layout=picture,
        layout_note=note,
        ended=words.seconds(last) if last is not None else "–",
    )


# -- two jobs ----------------------------------------------------------------------------------------------------------
def _both(first: Facts, second: Facts) -> list[Chart]:
    drawn = [_both_speeds(first, second), *lengths([first, second])]
    return [one for one in drawn if one is not None]


def _both_speeds(first: Facts, second: Facts) -> Chart | None:
    """All output tokens per second of each, over the time in which its attempts ran."""
    jobs = [(one.name, one.samples) for one in (first, second) if one.samples]
    if not jobs:
        return None
    longest = max(sum(samples.widths) for _, samples in jobs)
    lines = []
    for number, (name, samples) in enumerate(jobs):
        share = sum(samples.widths) / longest
        each = [Curve("", edges_of(samples), one.tokens_per_s, "") for one in samples.replicas]
        values = together_of(each, name, True).values
        lines.append(Curve(name, [edge * share for edge in edges_of(samples)], values, f"line{number}"))
    picture = charts.curves(
        lines, Scale(lambda x: words.short_seconds(x * longest), in_unit("tokens/s"), charts.marks(longest))
    )
    rows = [
        [line.name, words.seconds(edge * longest), words.number(value, "tokens/s")]
        for line in lines
        for edge, value in zip(line.edges, line.values, strict=False)
    ]
    table = Table(["job", "after", "speed"], rows)
    note = "Over the time in which attempts ran."
    return Chart("Throughput, output tokens/s", note, picture, table, legend(lines))


def _compare_speeds(first: Facts, second: Facts) -> list[tuple[str, str, str, str]]:
    names = {
        "tokens_per_s": "Output tokens/s", "most_tokens_per_s": "Most output tokens/s", "seconds": "Seconds in all",
        "output_tokens": "Output tokens", "prompt_tokens": "Prompt tokens", "occupancy": "Occupancy", "idle": "Idle",
        "kwh": "kWh", "joules_per_token": "Joules per output token",
    }  # fmt: skip
    found = []
    for key, name in names.items():
        one, other = first.speeds.get(key), second.speeds.get(key)
        if one is None and other is None:
            continue
        ratio = f"× {other / one:.3g}" if one and other is not None else "–"
        shows = words.percent if key in ("occupancy", "idle") else words.number
        found.append((name, shows(one), shows(other), ratio))
    return found
