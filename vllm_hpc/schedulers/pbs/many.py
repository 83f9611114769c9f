"""Asks PBS about many jobs with one call of qstat."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vllm_hpc.schedulers.client import Ask, ClientError
from vllm_hpc.schedulers.pbs.qstat import FORGOTTEN, describe, parse_qstat
from vllm_hpc.schedulers.scheduler import JobState, Question

_AT_ONCE = 100
_UNKNOWN = re.compile(r"Unknown Job Id (\S+)")
# A scheduler's ``query``.
Query = Callable[[Question], dict[str, JobState]]


def query_all(questions: Sequence[Question], ask: Ask, alone: Query) -> list[dict[str, JobState]]:
    """What PBS says of many jobs; ``alone`` asks for one that qstat neither describes nor calls unknown."""
    found: dict[str, JobState] = {}
    for is_array in (False, True):  # arrays need -t
        ids = list(dict.fromkeys(one.job_id for one in questions if ("[" in one.job_id) == is_array))
        for first in range(0, len(ids), _AT_ONCE):
            found |= _query_some(ids[first : first + _AT_ONCE], ask)
    return [_of(question, found) or alone(question) for question in questions]


def _of(question: Question, found: dict[str, JobState]) -> dict[str, JobState] | None:
    # If an array ended before it was expanded, PBS may name only the parent.
    whole = found.get(question.job_id)
    return {task: found.get(task, whole) for task in question.tasks} if whole else None


def _query_some(ids: list[str], ask: Ask) -> dict[str, JobState]:
    """The states of these jobs, and of an array's tasks, by id, without those that are not clear."""
    try:
        answered = describe(ids, ask)
    except ClientError as error:
        return dict.fromkeys(ids, JobState("unknown", str(error)))
    forgotten = dict.fromkeys(_UNKNOWN.findall(answered.said), FORGOTTEN)
    clear = {name: state for name, state in parse_qstat(answered.text).items() if state.phase != "unknown"}
    return forgotten | clear
