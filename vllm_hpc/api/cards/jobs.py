"""The card of several jobs: a table, newest first."""

from __future__ import annotations

import os
import time
from collections import Counter

from vllm_hpc.api.cards.elements import frame, head, look_of, pill, said, speed, table, tag
from vllm_hpc.api.cards.status import age_of
from vllm_hpc.jobs.drawn_lists import Jobs, Statuses
from vllm_hpc.jobs.in_words import name_of
from vllm_hpc.jobs.status import Status
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted, in_bytes

# What matters most comes first: a narrow page shows only that without scrolling.
_TITLES = ["job", "state", "rows", "age", "model", "tokens/s", "size", "id"]
# Files of a folder whose sizes are added; a network file system may take a millisecond for each.
_MOST_FILES = 300
_MOST_JOBS = 24


def card(jobs: Jobs | Statuses) -> str:
    """Jobs or their statuses, newest first; those without a time last."""
    statuses = jobs.statuses() if isinstance(jobs, Jobs) else list(jobs)
    statuses = sorted(statuses, key=lambda one: one.created_at or 0.0, reverse=True)
    states = Counter(one.state for one in statuses)
    top = head(
        "Jobs", counted(len(statuses), "job"), *(pill(f"{n} {state}", look_of(state)) for state, n in states.items())
    )
    if not statuses:
        return frame(top)
    shown = [_line(one) for one in statuses[:_MOST_JOBS]]
    more = len(statuses) - len(shown)
    rest = tag("div", f"and {more:,} older ones", class_="vh-dim") if more else ""
    return frame(top, table(_TITLES, shown, "jobs", "age,rows,tokens/s,size", "job,model"), rest)


def _line(one: Status) -> list[str]:
    age = age_of(one.created_at, time.time())
    state = tag("span", one.state, class_=f"vh-{look_of(one.state)}", title=one.reason)
    name, model = said(name_of(one.job)), said(one_line(one.model or one.program or "", 120))
    if not one.scheduler:
        return [name, state, "", age, said(one_line(one.reason, 200)), "", "", ""]
    size, id_ = folder_size(one.job), said(one_line(one.job_id or "", 60))
    return [name, state, _rows(one), age, model, speed(one.tokens_per_s, ""), size, id_]


def _rows(one: Status) -> str:
    if not one.has_rows:
        return ""
    failed = f" ({one.rows.failed:,} failed)" if one.rows.failed else ""
    return f"{one.rows.done + one.rows.failed:,}/{one.rows.total:,}{failed}"


def folder_size(folder: str) -> str:
    """How much a job folder holds; of very many files at least that much. Empty if it cannot be read."""
    size, files, folders = 0, 0, [folder]
    try:
        while folders and files < _MOST_FILES:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        continue
                    size += entry.stat(follow_symlinks=False).st_size
                    files += 1
                    if files >= _MOST_FILES:
                        break
    except (OSError, ValueError):
        return ""
    return ("≥ " if files >= _MOST_FILES else "") + in_bytes(size)
