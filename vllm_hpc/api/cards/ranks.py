"""The card of ranks: where each ran and how it ended."""

from __future__ import annotations

from collections import Counter

from markupsafe import Markup

from vllm_hpc.api.cards.elements import frame, head, join, lines_of, number, pill, said, table, tag
from vllm_hpc.jobfolder.records import RankError, RankRecord
from vllm_hpc.jobs.drawn_lists import Ranks
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted

_LOOKS = {"ok": "ok", "running": "run", "error": "bad", "terminated": "wait"}


def card(ranks: Ranks) -> str:
    """The ranks, first those that have ended badly; how many ended how in the title."""
    outcomes = Counter(one.outcome for one in ranks)
    pills = [
        pill(f"{count:,} {one_line(outcome, 40)}", _LOOKS.get(outcome, "none"))
        for outcome, count in outcomes.most_common(6)
    ]
    hosts = counted(len({one.host for one in ranks}), "host")
    top = head("Ranks", counted(len(ranks), "rank"), *pills, tag("span", hosts, class_="vh-dim"))
    if not ranks:
        return frame(top, tag("div", "none has started", class_="vh-dim"))
    ordered = sorted(ranks, key=lambda one: (one.outcome in ("ok", "running"), one.rank))
    titles = ["rank", "replica", "attempt", "host", "device", "outcome", "rows", "error"]
    return frame(top, table(titles, lines_of(ordered, _line), "ranks", "rank,replica,attempt,rows", "error"))


def _line(one: RankRecord) -> list[str]:
    device = one.device_name or one.device
    size = f", {number(one.device_gib, 'GiB')}" if one.device_gib else ""
    error = _error(one.error) if one.error else ""
    outcome = tag("span", one_line(one.outcome, 40), class_=f"vh-{_LOOKS.get(one.outcome, 'none')}")
    where = join([one_line(device, 60), size])
    return [str(one.rank), str(one.replica), str(one.attempt), one_line(one.host, 60), where, outcome, f"{one.rows:,}",
            error]  # fmt: skip


def _error(error: RankError) -> Markup:
    echo = tag("span", " (after another rank died)", class_="vh-dim") if error.is_echo else ""
    return join([said(one_line(f"{error.type}: {error.message}", 200)), echo])
