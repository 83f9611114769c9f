"""metrics.prom: a job's counts as OpenMetrics text, for the textfile collector of node_exporter.

No line has a time stamp, which that collector refuses. The file is replaced in one step, so that no reader sees half.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.private import is_private
from vllm_hpc.jobfolder.records import JobRecord, Progress
from vllm_hpc.spec.errors import VllmHpcError
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.rehearsal import named_model
from vllm_hpc.spec.write_file import replacing

NAME = "metrics.prom"
STATES = ("PENDING", "RUNNING", "COMPLETED", "PARTIAL", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "UNKNOWN")
# Seconds between two writes while a job runs: a collector looks every fifteen to sixty.
_EVERY_S = 15.0
# The end of the line by which it says that the job runs.
_RUNNING = b',state="RUNNING"} 1\n'
_Sample = tuple[dict[str, str], float | None]


def write_metrics(folder: JobFolder, state: str) -> None:
    """Write metrics.prom into a job folder of the user's own. Raises OSError."""
    record = folder.job()
    progress = folder.progress_of(range(record.plan.layout.lanes)) if record.has_rows else []
    with replacing(folder.path / NAME, 0o600 if is_private(folder.path) else 0o644) as file:
        file.write(metrics_text(record, progress, folder.path.name, state).encode(errors="replace"))


def keep_metrics(folder: JobFolder, replica: int) -> None:
    """While a job runs: called each time that a replica counts, it writes the file now and then, by replica 0 alone.

    No error in it ends a job.
    """
    path = folder.path / NAME
    if replica != 0:
        return
    with suppress(OSError, VllmHpcError):
        age = time.time() - path.lstat().st_mtime if path.exists() else math.inf
        if not 0 <= age < _EVERY_S:
            write_metrics(folder, "RUNNING")


def settle_metrics(folder: JobFolder, state: str) -> None:
    """Once a job has ended: have the file say so, where its ranks were killed and left it as it was.

    Nothing is written where there is none, nor into another user's folder. No error in it matters to who asks.
    """
    with suppress(OSError, VllmHpcError):
        if folder.is_mine and _RUNNING in read_regular(folder.path / NAME, follow_links=False):
            write_metrics(folder, state)


def metrics_text(record: JobRecord, progress: Sequence[Progress], name: str, state: str) -> str:
    """The file's text: whole job first, then each replica."""
    return "".join(_lines(record, progress, {"job": name}, state)) + "# EOF\n"


def _lines(record: JobRecord, progress: Sequence[Progress], job: dict[str, str], state: str) -> Iterator[str]:
    about = {**job, "model": named_model(record.request.model) or "", "scheduler": record.scheduler}
    yield from _family("job", "info", "What runs where.", [(about, 1)])
    states = [({**job, "state": one}, float(one == state)) for one in STATES]
    yield from _family("state", "gauge", "1 for the state that the job is in.", states)
    yield from _family("created_timestamp_seconds", "gauge", "When the job was made.", [(job, record.created_at)])
    if not record.has_rows:
        return
    done, failed = sum(one.done for one in progress), sum(one.failed for one in progress)
    counts: list[_Sample] = [({**job, "state": "done"}, done), ({**job, "state": "failed"}, failed)]
    yield from _family("rows", "counter", "Rows with a result, and with an error.", counts)
    missing = max(0, record.rows - done - failed)
    yield from _family("rows_missing", "gauge", "Rows without a result or an error yet.", [(job, missing)])
    for key, said, all_of in (
        ("prompt_tokens", "Prompt tokens of finished rows.", sum(one.prompt_tokens for one in progress)),
        ("output_tokens", "Output tokens of finished rows.", sum(one.completion_tokens for one in progress)),
    ):
        yield from _family(key, "counter", said, [(job, all_of)])
    yield from _replicas(progress, job)


def _replicas(progress: Sequence[Progress], job: dict[str, str]) -> Iterator[str]:
    labelled = [({**job, "replica": str(one.replica)}, one) for one in progress]
    now = [(labels, one.now) for labels, one in labelled if one.now is not None and one.now.at > 0]
    gauges: dict[str, tuple[str, list[_Sample]]] = {
        "replica_rows_done": ("Rows with a result.", [(labels, one.done) for labels, one in labelled]),
        "replica_updated_timestamp_seconds": (
            "When the replica last counted.",
            [(labels, one.updated_at) for labels, one in labelled],
        ),
        "replica_running": ("Rows that the engine runs.", [(labels, one.running) for labels, one in now]),
        "replica_waiting": ("Rows that wait in the engine.", [(labels, one.waiting) for labels, one in now]),
        "replica_kv_cache_ratio": ("Share of the KV cache in use.", [(labels, one.kv) for labels, one in now]),
        "replica_power_watts": ("Power of its GPUs.", [(labels, one.watts) for labels, one in now]),
    }
    for key, (said, samples) in gauges.items():
        yield from _family(key, "gauge", said, samples)
    speeds = [(labels, _speed(one)) for labels, one in labelled]
    yield from _family("replica_tokens_per_second", "gauge", "Output tokens per second of the attempt.", speeds)
    known = [speed for _, speed in speeds if speed is not None]
    if known:
        yield from _family("tokens_per_second", "gauge", "The same of all replicas.", [(job, sum(known))])


def _speed(one: Progress) -> float | None:
    """Over the last attempt's generation, rows in flight counted where that is known."""
    run = one.runs[-1] if one.runs else None
    if run is None or run.attempt != one.attempt:
        return None
    generated = run.seconds.get("generate", 0.0) + run.seconds.get("drain", 0.0)
    tokens = max(run.completion_tokens, one.now.tokens if one.now else 0)
    return round(tokens / generated, 3) if generated > 0 else None


def _family(name: str, kind: str, said: str, samples: Iterable[_Sample]) -> Iterator[str]:
    """The lines of one metric; none of one that nothing is known of."""
    known = [(labels, value) for labels, value in samples if value is not None and math.isfinite(value)]
    if not known:
        return
    yield f"# TYPE vllm_hpc_{name} {kind}\n"
    yield f"# HELP vllm_hpc_{name} {said}\n"
    ending = {"counter": "_total", "info": "_info"}.get(kind, "")
    for labels, value in known:
        inner = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        yield f"vllm_hpc_{name}{ending}{{{inner}}} {value:.15g}\n"


def _escape(text: str) -> str:
    text = "".join(one if one >= " " or one == "\n" else "\ufffd" for one in text)
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
