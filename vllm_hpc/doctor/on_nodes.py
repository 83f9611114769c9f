"""``doctor --on-nodes``: a short rehearsal in the real allocation, whose nodes and ranks say what they find."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from vllm_hpc.doctor.expected import Expected, expect
from vllm_hpc.doctor.judge_nodes import judge_nodes
from vllm_hpc.doctor.judge_ranks import judge_ranks
from vllm_hpc.doctor.runtimes import program_of
from vllm_hpc.jobfolder.node_report import MARK, VARIABLE, NodeReport, RankFacts, Subject
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.status import Status
from vllm_hpc.jobs.submit import prepare_untuned
from vllm_hpc.spec.errors import RequestError, SubmitError
from vllm_hpc.spec.finding import Finding
from vllm_hpc.spec.host_path import HostPath
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.model_cache import revision_of
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.values import as_path

# The walltime where no option gives one, in minutes; and after how many seconds a node that does not join is named.
_TIME, _JOIN_S = "10", "120"
# Seconds between two questions to the scheduler.
_ASK_S = 2.0
Change = Callable[[Status], None]
_JOINED = re.compile(r"^vllm-hpc: (\S+) joined as node (\d+)", re.MULTILINE)
_NOT_JOINED = re.compile(r"^vllm-hpc: not joined within \d+ s:(.*)$", re.MULTILINE)
_MOST_WORDS = 300
# What a vllm-hpc says that has no such verb, and words of what went wrong.
_OLDER = "usage: python -m vllm_hpc.in_job VERB"
_MISSING = re.compile(r"command not found|No module named")
# Slurm's words for a task that it ended because another failed, and for one whose program was not there.
_ENDED, _NO_COMMAND = re.compile(r": (Terminated|Killed)$"), "exit code 127"
_WRONG = re.compile(r"error|cannot|no such|not found|not joined|denied|failed", re.IGNORECASE)


def look_at_nodes(
    job: ResolvedJob, layout: Layout, model: HostPath | None, begin: Callable[[Path], None], change: Change
) -> list[Finding]:
    """Submit the job, wait for its end, and say what its nodes found.

    ``begin`` gets its folder once it is submitted, ``change`` each new state or reason. An exception or interrupt
    cancels the job. Raises RefusedError before anything was made.
    """
    prepared = prepare_untuned(_short(job, layout, model))
    try:
        submitted = prepared.submit(from_here=True)
    except SubmitError as error:
        return [Finding("job", "fail", str(error), "correct the profile or the options")]
    try:
        begin(submitted.path)
        status = _wait(submitted, change)
    except BaseException:
        submitted.cancel()
        raise
    return judge_job(submitted, status, expect(job, layout, model))


def _wait(job: Job, change: Change) -> Status:
    """Wait for its end, and tell each change; Slurm's expected start, recomputed every minute, is none."""
    told = ""
    for status, pause in job.statuses(_ASK_S):
        words = f"{status.state}: {status.reason.partition(', expected to start')[0]}"
        if words != told and not status.is_final:
            change(status)
            told = words
        if not status.is_final:
            time.sleep(pause)
    return status


def _short(job: ResolvedJob, layout: Layout, model: HostPath | None) -> ResolvedJob:
    """The job on these nodes, as one replica over all of them, for a few minutes."""
    container = job.site.container
    subject = Subject(
        model=model.path if model else "",
        image=(container.image or "") if container else "",
        runtime=program_of(container) if container else "",
        revision=revision_of(job.request.engine) or "",
    )
    own = {VARIABLE: msgspec.json.encode(subject).decode(), "VLLM_HPC_JOIN_TIMEOUT": _JOIN_S, "NCCL_DEBUG": "INFO"}
    request = job.request
    return job.asking(
        name=free_name(job),
        nodes=layout.nodes,
        gpus_per_node=layout.gpus_per_node,
        tp=layout.nodes * layout.procs_per_node,
        pp=1,
        dp=1,
        time=request.time if job.is_asked("time") or job.runs_here else _TIME,
        drain_lead=None,
        max_requeues=0,
        max_tokens=8,
        env={**own, **request.env, VARIABLE: own[VARIABLE]},
    )


def free_name(job: ResolvedJob) -> str:
    """doctor-<yyyymmdd-hhmmss>, with -2, -3 ... if that is taken. Raises RequestError for a bad --job-dir."""
    parent = as_path(job.request.job_dir, "--job-dir")
    base = f"doctor-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):
        name = base if number == 1 else f"{base}-{number}"
        if not (parent / name).exists():
            return name
    raise RequestError(f"{str(parent / base)!r} and a thousand more exist: choose another --job-dir")


def judge_job(job: Job, status: Status, expected: Expected) -> list[Finding]:
    """What the nodes and ranks of an ended job have written down, and how it ended."""
    log = job.logs()
    reports = _reports(job, expected, log)
    facts = [one for rank in range(expected.nodes * expected.procs_per_node) if (one := _facts(job, rank)) is not None]
    found = [*_absent(reports, facts, log, expected), *judge_nodes(reports, expected)]
    found += judge_ranks(facts, expected, job.logs(0) if facts else "")
    return [*found, _end(status, found)]


def _facts(job: Job, rank: int) -> RankFacts | None:
    return read_json(job.folder.doctor_rank(rank), RankFacts)


def _reports(job: Job, expected: Expected, log: str) -> list[NodeReport]:
    """The report of each node that has one: in the job folder, or from a node that does not have that, in the log."""
    attempt = job.folder.last_number()
    found = {one.node: one for one in _said(log)}
    for node in range(expected.nodes):
        report = read_json(job.folder.doctor_node(attempt, node), NodeReport)
        if report is not None:
            found[node] = report
    return [found[node] for node in sorted(found) if 0 <= node < expected.nodes]


def _said(log: str) -> Iterator[NodeReport]:
    for line in log.splitlines():
        _, mark, text = line.partition(MARK)
        if mark:
            try:
                yield msgspec.json.decode(text, type=NodeReport)
            except msgspec.DecodeError:  # cut off, or another's words
                continue


def _absent(reports: list[NodeReport], facts: list[RankFacts], log: str, expected: Expected) -> Iterator[Finding]:
    """A finding for each node without a report, by its name if the log has it, with the log's last words of it."""
    reported = {one.node for one in reports}
    if not reports and facts:
        words = 'the template\'s launch block does not run "${task[@]}": nodes were not looked at, only ranks'
        yield Finding("node", "skip", words, "see docs/templates.md")
        return
    joined = {int(number): name for name, number in _JOINED.findall(log)}
    missing = _NOT_JOINED.search(log)
    unnamed = iter(missing[1].split() if missing else [])
    for node in range(expected.nodes):
        if node in reported:
            continue
        name = joined.get(node) or next(unnamed, f"node {node}")
        why = _why_silent(log, name)
        if node in joined and _ENDED.search(why):
            yield Finding("node", "skip", f"it was ended before it could report: {why}", where=name)
            continue
        advice = "it needs the job folder and this Python at the same paths, and its launcher must start there"
        yield Finding("node", "fail", f"it did not report{f': {why}' if why else ''}", advice, name)


def _why_silent(log: str, name: str) -> str:
    """The log's last words about a node, or of any error, and what is missing there."""
    if _OLDER in log:
        return "the vllm-hpc that runs there is another one, which knows no doctor"
    wrong = [line for line in log.splitlines() if _WRONG.search(line)]
    lines = [line for line in wrong if name in line] or wrong
    missing = next((line for line in wrong if _MISSING.search(line)), "")
    said = (
        [lines[-1], *([missing] if missing not in ("", lines[-1]) and _NO_COMMAND in lines[-1] else [])]
        if lines
        else []
    )
    return " ".join("; ".join(said).split())[:_MOST_WORDS]


def _end(status: Status, found: list[Finding]) -> Finding:
    if status.state == "COMPLETED":
        return Finding("job", "ok", f"{status.job_id}: all ranks ran, and {status.rows.done} rows are done")
    causes = [one for one in found if one.status == "fail"]
    advice = "see what failed above" if causes else f"see 'vllm-hpc logs {status.job}'"
    return Finding("job", "fail", f"{status.job_id} ended {status.state}: {status.reason}"[:_MOST_WORDS], advice)
