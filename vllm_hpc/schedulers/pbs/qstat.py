r"""Asks qstat about jobs and reads what ``qstat -f`` prints: JSON, JSON that is not JSON, and the plain form.

PBS before 20.0 wrote values into its JSON as they were: ``\,`` and ``\'`` of an environment variable, 005, .5, quotes
(openpbs/openpbs#1255, #2049, #2603, #830), and closed no brace after several jobs (#585). The fields that say how a job
is can be read all the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vllm_hpc.schedulers.client import Ask, ClientError, said_beside
from vllm_hpc.schedulers.pbs.reasons import exit_state, waiting_reason
from vllm_hpc.schedulers.scheduler import JobState

# qstat's exit code for an id that the server does not know, or no longer knows.
UNKNOWN_JOB = 153
# qdel's exit code for a job that has ended, and that of qstat without -x.
ENDED_JOB = 35
FORGOTTEN = JobState("forgotten", "PBS does not know the job (any more)")
# A server without a history refuses qstat -x, on stderr and with exit code 0, and does not know jobs that have ended.
_NO_HISTORY = re.compile(r"not configured to maintain job history", re.IGNORECASE)
_TASK = re.compile(r"(?P<number>\d+)\[(?P<task>\d+)\](?P<server>\..+)")
_WAITING = frozenset("HQTW")
_RUNNING = frozenset("REBSU")
# All that is read of a job.
_NEEDED = frozenset({"job_state", "Exit_status", "comment", "Hold_Types", "depend", "Execution_Time"})
# Lines of JSON as PBS lays it out, one value on each: a job's id, and a field. The indentation tells whose it is.
_JSON_ID = re.compile(r'(\s*)"(\d+(?:\[\d*\])?\.[^"\s]+)"\s*:\s*\{\s*')
_JSON_FIELD = re.compile(r'(\s*)"(\w+)"\s*:\s*(.*?),?\s*')
_PLAIN_ID = re.compile(r"Job Id: (\S+)\s*")
_PLAIN_FIELD = re.compile(r"    (\w+) = (.*)")
Fields = dict[str, Any]


class Answered(NamedTuple):
    """What ``argv`` printed, what it said on stderr, and its exit code if that only tells of ids."""

    argv: list[str]
    text: str
    said: str
    code: int = 0


def describe(ids: Sequence[str], ask: Ask) -> Answered:
    """What qstat prints of these jobs, all arrays or none, also where the server keeps no history. Raises ClientError.

    qstat asks the server for one id after the other, prints the jobs that it has found at the end, names the others on
    stderr, and exits with the code of the last of these (src/cmds/qstat.c of OpenPBS 23.06).
    """
    argv = ["qstat", "-x", *(["-t"] if "[" in ids[0] else []), "-f", "-F", "json", *ids]
    answered = _answered(argv, ask)
    if _NO_HISTORY.search(answered.said):
        answered = _answered([word for word in argv if word != "-x"], ask)
    return answered


def _answered(argv: list[str], ask: Ask) -> Answered:
    try:
        text = ask(argv)
    except ClientError as error:
        said = error.err or str(error)
        if error.code not in (UNKNOWN_JOB, ENDED_JOB) and not ("-x" in argv and _NO_HISTORY.search(said)):
            raise
        return Answered(argv, error.output, said, error.code or 0)
    return Answered(argv, text, said_beside(text))


def parse_qstat(text: str) -> dict[str, JobState]:
    """The output of ``qstat -f -F json``, by id; a subjob ``12[3].server`` under ``12[].server_3``.

    PBS does not escape control characters in strings. What no parser takes is read line by line.
    """
    try:
        answer = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return _states(_from_lines(text))
    jobs = answer.get("Jobs") if isinstance(answer, dict) else None
    return _states(jobs) if isinstance(jobs, dict) else {}


def parse_plain(text: str) -> dict[str, JobState]:
    """The output of ``qstat -f``, by id."""
    return _states({job: dict(_needed(fields)) for job, fields in plain_fields(text).items()})


def plain_fields(text: str) -> dict[str, Fields]:
    """What ``qstat -f`` prints of each job, as text. A long value goes on in lines that begin with a tab."""
    jobs: dict[str, Fields] = {}
    fields: Fields = {}
    name = ""
    for line in text.splitlines():
        if match := _PLAIN_ID.fullmatch(line):
            fields, name = jobs.setdefault(match[1], {}), ""
        elif (match := _PLAIN_FIELD.fullmatch(line)) and match[1] not in fields:
            name = match[1]
            fields[name] = match[2]
        elif line.startswith("\t") and name:
            fields[name] += line[1:]
    return jobs


def is_json(text: str) -> bool:
    """Whether any JSON parser would take it."""
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def _from_lines(text: str) -> dict[str, Fields]:
    """The needed fields of each job, from the lines of what should be JSON."""
    jobs: dict[str, Fields] = {}
    fields: Fields | None = None
    of_job = of_field = ""
    for line in text.splitlines():
        if match := _JSON_ID.fullmatch(line):
            of_job, of_field = match[1], ""
            fields = jobs.setdefault(match[2], {})
        elif fields is not None and (match := _JSON_FIELD.fullmatch(line)):
            # The first field after the id shows how deep a job's fields stand; those of Variable_List stand deeper.
            of_field = of_field or match[1]
            if match[1] == of_field != of_job:
                fields.setdefault(match[2], match[3].strip('"'))
    return {job: dict(_needed(found)) for job, found in jobs.items()}


def _needed(fields: Fields) -> Iterator[tuple[str, Any]]:
    """The needed ones of fields that are all text; a whole number as such."""
    for name in _NEEDED & fields.keys():
        value = fields[name].strip()
        yield name, int(value) if re.fullmatch(r"-?\d+", value) and name == "Exit_status" else value


def _states(jobs: dict[str, Any]) -> dict[str, JobState]:
    return {_task_id(name): _state(fields) for name, fields in jobs.items() if isinstance(fields, dict)}


def _task_id(name: str) -> str:
    match = _TASK.fullmatch(name)
    return f"{match['number']}[]{match['server']}_{match['task']}" if match else name


def _state(fields: Fields) -> JobState:
    state, code = str(fields.get("job_state")), fields.get("Exit_status")
    if state in _WAITING:  # including a job whose first host died: it has an Exit_status, but will run again
        return JobState("waiting", waiting_reason(fields))
    if state in _RUNNING:
        return JobState("running", "suspended" if state in "SU" else "")
    if state in ("F", "X"):
        return exit_state(code, str(fields.get("comment", "")))
    return JobState("unknown", f"PBS says {state}")
