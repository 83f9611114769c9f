"""Who waits for whom: the odd rank first, then the others in groups. Pure: from what ranks were seen to do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from vllm_hpc.jobfolder.debug_records import RankView

# Why a rank is odd, the surest first. Those of OUTSIDE are no fault of the rows that ran.
GONE, ENDED, STOPPED, CUT, SILENT, DISK, LOCKED, BEHIND, ELSEWHERE = (
    "gone", "ended", "stopped", "cut", "silent", "disk", "locked", "behind", "elsewhere",
)  # fmt: skip
OUTSIDE = frozenset({GONE, ENDED, STOPPED, CUT, SILENT, DISK})
_MOST_NAMED = 12
_NOTHING = "nothing is known of what it does"
# Phases of the rank loop (engine/health/rank_record.py) in which a rank waits for nobody else.
_OWN_WORK = (
    "claim rows",
    "wait for a row to be read and prepared",
    "admit a row to the engine",
    "hand over finished rows",
)


class Verdict(msgspec.Struct, frozen=True):
    """What is odd: ``kind`` (empty: nothing), the ranks, and lines for people, of which the first says most."""

    kind: str
    odd: tuple[int, ...]
    lines: tuple[str, ...]


def judge(views: Sequence[RankView]) -> Verdict:
    """Find the rank that the others wait for."""
    views = sorted(views, key=lambda view: view.rank)
    for kind, find in _FINDERS:
        if odd := find(views):
            return _verdict(kind, odd, [view for view in views if view not in odd])
    return Verdict("", (), (*_waiting(views, alone=True),))


def ranks_in_words(ranks: Iterable[int]) -> str:
    """``rank 3``; ``ranks 0, 2-7``."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    named = [str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}-{b}" for a, b in runs]
    if len(named) > _MOST_NAMED:
        named = [*named[:_MOST_NAMED], "..."]
    is_one = len(runs) == 1 and runs[0][0] == runs[0][1]
    return f"{'rank' if is_one else 'ranks'} {', '.join(named)}"


def _verdict(kind: str, odd: list[RankView], others: list[RankView]) -> Verdict:
    lines = [f"rank {view.rank} ({view.host}): {_says(kind, view, others)}" for view in odd[:_MOST_NAMED]]
    if len(odd) > _MOST_NAMED:
        lines.append(f"and {len(odd) - _MOST_NAMED} more: {ranks_in_words(view.rank for view in odd)}")
    return Verdict(kind, tuple(view.rank for view in odd), (*lines, *_waiting(others)))


# -- the odd ones ------------------------------------------------------------------------------------------------------
def _gone(views: list[RankView]) -> list[RankView]:
    return [view for view in views if view.outcome == "running" and view.process in ("gone", "Z")]


def _ended(views: list[RankView]) -> list[RankView]:
    """Ranks that have left while others wait for them, in a collective."""
    waiting = [view for view in views if view.collective is not None]
    ended = [view for view in views if view.outcome != "running"]
    failed = [view for view in ended if view.outcome != "ok"]
    needed = {member for view in waiting if view.collective for member in view.collective.members}
    return failed or [view for view in ended if waiting and (not needed or view.rank in needed)]


def _stopped(views: list[RankView]) -> list[RankView]:
    return [view for view in views if view.process in ("T", "t")]


def _cut(views: list[RankView]) -> list[RankView]:
    """The ranks of the nodes that others do not reach: those in the most pairs, of two the one without rank 0."""
    pairs = _cut_pairs(views)
    if not pairs:
        return []
    counts = Counter(host for pair in pairs for host in pair)
    head = views[0].host
    most = max(counts.values())
    worst = {host for host, count in counts.items() if count == most}
    if len(worst) > 1:
        worst.discard(head)
    return [view for view in views if view.host in worst]


def _cut_pairs(views: list[RankView]) -> set[frozenset[str]]:
    hosts = {view.address: view.host for view in views if view.address}
    found = set()
    for view in views:
        for address in view.unreached:
            other = hosts.get(address, address)
            if other != view.host:
                found.add(frozenset((view.host, other)))
    return found


def _silent(views: list[RankView]) -> list[RankView]:
    return [view for view in views if view.source == "records" and view.outcome == "running"]


def _disk(views: list[RankView]) -> list[RankView]:
    return [view for view in views if view.process == "D"]


def _locked(views: list[RankView]) -> list[RankView]:
    """A process that runs, but could not answer: its other threads do not get to run."""
    return [view for view in views if view.source in ("neighbour", "agent") and view.outcome == "running"]


def _behind(views: list[RankView]) -> list[RankView]:
    """Ranks of a group at an earlier collective than its others."""
    groups = defaultdict[tuple[str, tuple[int, ...]], list[RankView]](list)
    for view in views:
        if (at := view.collective) and at.sequence is not None and len(at.members) > 1:
            groups[at.group, at.members].append(view)
    found: list[RankView] = []
    for those in groups.values():
        furthest = max(_sequence(view) for view in those)
        found += [view for view in those if _sequence(view) < furthest]
    return found


def _elsewhere(views: list[RankView]) -> list[RankView]:
    """Ranks that do something else than most, or that those who wait need and do not find with them."""
    running = [view for view in views if view.outcome == "running"]
    busy = [view for view in running if view.phase in _OWN_WORK and view.collective is None]
    if busy and len(busy) < len(running):
        return busy
    waiting = _longest(view for view in running if view.collective is not None)
    free = [view for view in running if view.collective is None]
    if waiting and free:
        needed = {member for view in waiting if view.collective for member in view.collective.members}
        return [view for view in free if view.rank in needed] or free
    places = defaultdict[object, list[RankView]](list)
    for view in running:
        places[_where(view)].append(view)
    if len(places) < 2:
        return []
    least = min(map(len, places.values()))
    fewest = [those for those in places.values() if len(those) == least]
    return fewest[-1] if len(fewest) < len(places) else []


def _longest(waiting: Iterable[RankView]) -> list[RankView]:
    """Those that have waited for about as long as the longest: another replica's ranks wait, too, and get on."""
    those = list(waiting)
    longest = max((view.still_s for view in those), default=0.0)
    return [view for view in those if view.still_s >= longest / 2]


def _where(view: RankView) -> object:
    """What two ranks have in common that are at the same place."""
    at = view.collective
    if at is not None:
        return at.operation, at.site and (at.site.file, at.site.line), at.members
    return view.phase, view.place and (view.place.file, view.place.line)


def _sequence(view: RankView) -> int:
    return view.collective.sequence or 0 if view.collective else 0


_FINDERS: tuple[tuple[str, Callable[[list[RankView]], list[RankView]]], ...] = (
    (GONE, _gone), (ENDED, _ended), (STOPPED, _stopped), (CUT, _cut), (SILENT, _silent), (DISK, _disk),
    (LOCKED, _locked), (BEHIND, _behind), (ELSEWHERE, _elsewhere),
)  # fmt: skip


# -- words -------------------------------------------------------------------------------------------------------------
def _says(kind: str, view: RankView, others: list[RankView]) -> str:
    """Why a rank is odd, and where it is."""
    if kind == CUT:
        return f"cut off: {view.host} and {_unreached_by(view, others)} do not reach each other{_at(view)}"
    if kind == BEHIND:
        furthest = max(map(_sequence, others), default=0)
        return f"is at an earlier collective ({_sequence(view)} of its group, others at {furthest}): {_doing(view)}"
    if kind == ELSEWHERE:
        return _missed(view, others) + _doing(view)
    words = _WORDS[kind](view)
    return words if kind in (ENDED, STOPPED) else words + _at(view)


def _said_of_stop(view: RankView) -> str:
    how = "held by a debugger (t)" if view.process == "t" else "stopped by a signal (T)"
    return how + (f", last seen {_last_seen(view)}" if view.stack else "")


def _said_of_silence(view: RankView) -> str:
    since = "" if view.silent_s is None else f"; its last sign of life is {view.silent_s:.0f} s old"
    return f"does not answer, nor does its node{since}"


_WORDS: dict[str, Callable[[RankView], str]] = {
    GONE: lambda view: f"its process ({view.pid}) is gone",
    ENDED: lambda view: f"has ended{'' if view.outcome == 'ok' else f' ({view.outcome})'}, and others wait for it",
    STOPPED: _said_of_stop,
    SILENT: _said_of_silence,
    DISK: lambda view: (
        "waits for a disk, a file system or a device (D" + f", {view.waits_in}" * bool(view.waits_in) + ")"
    ),
    LOCKED: lambda view: "runs, but its Python does not (a library holds the interpreter)",
}


def _unreached_by(view: RankView, others: list[RankView]) -> str:
    pairs = [pair for pair in _cut_pairs([*others, view]) if view.host in pair]
    return ", ".join(sorted({host for pair in pairs for host in pair} - {view.host})) or "others"


def _missed(view: RankView, others: list[RankView]) -> str:
    """What others wait in and this rank does not."""
    waiting = [other for other in others if other.collective is not None]
    if view.collective is not None or not waiting or waiting[0].collective is None:
        return ""
    wait = "waits" if len(waiting) == 1 else "wait"
    those = ranks_in_words(other.rank for other in waiting)
    return f"is not in the {waiting[0].collective.operation} that {those} {wait} in: "


def _at(view: RankView) -> str:
    """Where it is, with what it was doing."""
    doing = _doing(view)
    return f" {doing}" if doing.startswith("at ") else f": {doing}" if doing else ""


def _last_seen(view: RankView) -> str:
    """Where it was before: it may have got a little further since then."""
    place, at = view.place, view.collective
    where = at.site if at is not None and at.site is not None else place
    inside = f" in {at.operation}" if at is not None else f" in '{view.phase}'" if view.phase not in ("", "run") else ""
    return f"at {where.words if where else '?'}{_called_by(view)}{inside}"


def _doing(view: RankView) -> str:
    if view.collective is not None:
        phase = f", in {view.phase!r}" if view.phase in _OWN_WORK else ""
        return f"waits in {_collective(view)}{phase}"
    place = view.place
    at = f"at {place.words}{_called_by(view)}" if place else ""
    # "run": of the user's own code, whose line says more.
    is_told = view.phase and view.phase != "run"
    doing = f"in '{view.phase}'" + (f" (row {view.row})" if view.row else "") if is_told else ""
    return ", ".join(filter(None, (at, doing))) or _NOTHING


def _collective(view: RankView) -> str:
    at = view.collective
    assert at is not None
    site = (at.site.words if at.site else "") + _called_by(view)
    # torch's default group is called 0.
    inner = [word for word in (site, "" if at.group.isdecimal() else f"group {at.group}" if at.group else "") if word]
    number = f", collective {at.sequence}" if at.sequence is not None else ""
    return at.operation + (f" ({', '.join(inner)}{number})" if inner else "")


def _called_by(view: RankView) -> str:
    """The user's own line, where the rank is further inside."""
    own, at = view.own, view.collective
    is_shown = own is None or own == (at.site if at and at.site else view.place)
    return "" if own is None or is_shown else f", called by {own.place}"


def _waiting(views: list[RankView], alone: bool = False) -> list[str]:
    """A line for each place at which ranks are, the most first. ``alone``: nothing else is said."""
    places = defaultdict[object, list[RankView]](list)
    for view in views:
        if view.outcome == "running":
            places[_where(view)].append(view)
    lines = []
    for those in sorted(places.values(), key=lambda one: -len(one))[:_MOST_NAMED]:
        who, first = ranks_in_words(view.rank for view in those), those[0]
        doing = _doing(first)
        if doing == _NOTHING:
            lines.append(f"nothing is known of what {who} {'does' if len(those) == 1 else 'do'}")
            continue
        if first.collective is not None:
            doing = doing.removeprefix("waits in ")
            doing = f"{'waits' if len(those) == 1 else 'wait'} in {doing}"
        else:
            doing = f"{'is' if len(those) == 1 else 'are'} {doing}"
        lines.append(f"{who} {doing}")
    if alone and len(places) > 1 and all(view.collective for view in views):
        return ["ranks wait in different collectives", *lines]
    if alone and len(places) == 1 and len(views) > 1:
        return [f"no rank is odd: {lines[0]}: what connects them hangs, or a device"]
    return lines or ["nothing is known of any rank"]
