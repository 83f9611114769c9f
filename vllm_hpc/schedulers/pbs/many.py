"""Asks PBS about many jobs with one call of qstat.

qstat asks the server for one id after the other, prints the jobs that it has found at the end, names the others on
stderr, and exits with the code of the last of these (src/cmds/qstat.c of OpenPBS 23.06).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vllm_hpc.schedulers.client import Ask, ClientError
from vllm_hpc.schedulers.scheduler import JobState, Question

_AT_ONCE = 100
_UNKNOWN = re.compile(r"Unknown Job Id (\S+)")
# qstat's exit codes for an unknown id, and for that of a job that has ended, without -x.
_OF_AN_ID = (153, 35)
_FORGOTTEN = JobState("forgotten", "PBS does not know the job (any more)")
Parse = Callable[[str], dict[str, JobState]]
# A scheduler's ``query``.
Query = Callable[[Question], dict[str, JobState]]


def query_all(questions: Sequence[Question], ask: Ask, parse: Parse, alone: Query) -> list[dict[str, JobState]]:
    """What PBS says of many jobs; ``alone`` asks for one that qstat neither describes nor calls unknown."""
    found: dict[str, JobState] = {}
    for is_array in (False, True):  # arrays need -t
        ids = list(dict.fromkeys(one.job_id for one in questions if ("[" in one.job_id) == is_array))
        for first in range(0, len(ids), _AT_ONCE):
            found |= _query_some(ids[first : first + _AT_ONCE], ask, parse)
    return [_of(question, found) or alone(question) for question in questions]


def _of(question: Question, found: dict[str, JobState]) -> dict[str, JobState] | None:
    # If an array ended before it was expanded, PBS may name only the parent.
    whole = found.get(question.job_id)
    return {task: found.get(task, whole) for task in question.tasks} if whole else None


def _query_some(ids: list[str], ask: Ask, parse: Parse) -> dict[str, JobState]:
    """The states of these jobs, and of an array's tasks, by id, without those that are not clear."""
    argv = ["qstat", "-x", *(["-t"] if "[" in ids[0] else []), "-f", "-F", "json", *ids]
    try:
        answer, said = _answer(argv, ask)
        found = parse(answer)
        if not found:  # a server without a history describes no job at all with -x
            answer, said = _answer([word for word in argv if word != "-x"], ask)
            found = parse(answer)
    except ClientError as error:
        return dict.fromkeys(ids, JobState("unknown", str(error)))
    forgotten = dict.fromkeys(_UNKNOWN.findall(said), _FORGOTTEN)
    return forgotten | {name: state for name, state in found.items() if state.phase != "unknown"}


def _answer(argv: list[str], ask: Ask) -> tuple[str, str]:
    """What qstat printed and what it said beside, also if it does not know an id. Raises ClientError."""
    try:
        return ask(argv), ""
    except ClientError as error:
        if error.code not in _OF_AN_ID:
            raise
        return error.output, error.err
