"""The card of a status, and the parts that a job's card shares with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from math import inf, isfinite
from statistics import median

from markupsafe import Markup

from vllm_hpc.api.cards.elements import (
    Line,
    bar,
    folded,
    frame,
    head,
    join,
    lines_of,
    look_of,
    note,
    number,
    pill,
    row,
    said,
    section,
    speed,
    table,
    tag,
)  # fmt: skip
from vllm_hpc.jobs.in_words import name_of
from vllm_hpc.jobs.replica_status import ReplicaStatus
from vllm_hpc.jobs.status import Status
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted, duration

# Of a card that is redrawn: the worst come first.
_FIRST_REPLICAS = 8


def card(status: Status) -> str:
    """A status as it was when it was read."""
    return frame(*parts_of(status, "Status"))


def parts_of(status: Status, kind: str, *more: str, is_redrawn: bool = False) -> list[Markup]:
    """Its name and state, a bar of its rows, speed and time left, why, ``more``, its replicas, and where it is.

    ``is_redrawn``: again and again, so that nothing of it can be unfolded: it would be folded each time.
    """
    if not status.scheduler:
        return [_head(status, kind), note(status.reason, "bad"), *map(Markup, more), _foot(status)]
    look = look_of(status.state)
    parts = [_head(status, kind)]
    if status.has_rows:
        parts += [_rows_bar(status), row(rows_in_words(status), *_progress(status))]
    if status.reason:
        parts.append(note(status.reason, look))
    parts += [Markup(part) for part in more]
    if status.replicas:
        parts.append(first_replicas(status.replicas) if is_redrawn else replicas(status.replicas))
    return [*parts, _foot(status)]


def _head(status: Status, kind: str) -> Markup:
    model = tag("span", said(one_line(status.model, 120)), class_="vh-dim") if status.model else ""
    rehearsal = pill("REHEARSAL", "wait") if status.rehearsal else ""
    return head(kind, name_of(status.job), pill(status.state), rehearsal, model)


def rows_in_words(status: Status) -> str:
    """Its counts: what is done, failed, and in all."""
    rows = status.rows
    if not rows.total:
        return "no rows"
    failed = f", {rows.failed:,} with errors" if rows.failed else ""
    share = int(100 * min(1.0, (rows.done + rows.failed) / rows.total))  # 100 % only when all are done
    return f"{rows.done:,} of {counted_rows(rows.total)} done{failed} ({share} %)"


def counted_rows(number: int) -> str:
    """A number of rows with thousands."""
    return f"{number:,} row" if number == 1 else f"{number:,} rows"


def _rows_bar(status: Status) -> Markup:
    rows, look = status.rows, "ok" if status.state == "COMPLETED" else "run"
    return bar([(look, rows.done), ("bad", rows.failed)], rows.total, rows_in_words(status))


def _progress(status: Status) -> list[str]:
    """Speed, tokens, the time left and that of the walltime."""
    tokens = number(status.tokens, "output tokens") if status.tokens else ""
    return [speed(status.tokens_per_s), tokens, *time_left(status)]


def time_left(status: Status) -> list[str]:
    """How long it will take, and whether the walltime ends before that."""
    if status.state != "RUNNING":
        return []
    takes = duration(status.eta_s) if status.eta_s is not None else ""
    eta = f"ETA {takes}" if takes else "ETA unknown yet" * status.has_rows
    left = status.ends_at - time.time() if status.ends_at is not None else inf
    if not duration(left):
        return [eta]
    if left <= 0:
        return [eta, "the walltime has ended"]
    if status.eta_s is not None and status.eta_s > left:
        return [eta, tag("span", f"the walltime ends before that, in {duration(left)}", class_="vh-wait")]
    return [eta, tag("span", f"walltime ends in {duration(left)}", class_="vh-dim")]


def _foot(status: Status) -> Markup:
    now = time.time()
    age = age_of(status.created_at, now)
    submitted = f"submitted {age} ago" if age else ""
    id_ = join([f"{status.scheduler} ", said(one_line(status.job_id or "(no id)", 60))]) if status.scheduler else ""
    attempts = counted(status.attempts, "attempt") if status.attempts else ""
    seen = datetime.fromtimestamp(now).astimezone().strftime("as of %H:%M:%S")
    program = join(["runs ", said(one_line(status.program, 200))]) if status.program else ""
    facts = row(id_, attempts, submitted, program, seen)
    return tag("div", facts, tag("div", said(status.job), class_="vh-path"), class_="vh-foot")


def age_of(created_at: float | None, now: float) -> str:
    """How long ago; empty if that is not known."""
    if not created_at or not isfinite(created_at):
        return ""
    return duration(max(0, int(now - created_at)))


def replicas(those: tuple[ReplicaStatus, ...]) -> Markup:
    """What each replica does; how their speeds differ in the title."""
    return folded(_spread(those), _table(lines_of(those, _replica)))


def first_replicas(those: tuple[ReplicaStatus, ...]) -> Markup:
    """The same of the first few, which is always shown."""
    left = len(those) - _FIRST_REPLICAS if len(those) > _FIRST_REPLICAS + 1 else 0  # the line of one takes no more room
    lines: list[Line] = [_replica(one) for one in those[: len(those) - left]]
    return section(_spread(those), _table([*lines, left] if left else lines))


def _table(lines: Sequence[Line]) -> Markup:
    titles = ["replica", "attempt", "done", "errors", "tokens/s", "in engine", "KV cache", "watts"]
    return table(titles, lines, "replicas", ",".join(titles))


def _replica(one: ReplicaStatus) -> list[str]:
    kv = number(100 * one.kv, "%") if one.kv is not None else ""
    counts = [str(one.replica), str(one.attempt), f"{one.done:,}", f"{one.failed:,}"]
    return [*counts, speed(one.tokens_per_s, ""), _running(one), kv, number(one.watts)]


def _running(one: ReplicaStatus) -> str:
    if one.running is None:
        return ""
    return f"{one.running:,} of {one.most_running:,}" if one.most_running else f"{one.running:,}"


def _spread(those: tuple[ReplicaStatus, ...]) -> str:
    speeds = sorted((one.tokens_per_s, one.replica) for one in those if one.tokens_per_s is not None)
    title = counted(len(those), "replica")
    if len(speeds) < 2:
        return title
    (least, slowest), (most, _) = speeds[0], speeds[-1]
    middle = median(one for one, _ in speeds)
    return f"{title}: {speed(least, '')} to {speed(most)} each, median {speed(middle, '')}, slowest: replica {slowest}"
