"""Gathers the facts of a job from its folder, whatever state it is in; nothing is written there."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import JobRecord, RankRecord, Run
from vllm_hpc.jobs.failure import first_error
from vllm_hpc.jobs.progress import read_progress
from vllm_hpc.jobs.stage import read_ranks
from vllm_hpc.jobs.status import Status, read_status
from vllm_hpc.jobs.summary import Summary
from vllm_hpc.report.attempts import is_moment, made_at, read_attempts
from vllm_hpc.report.facts import Energy, Facts, HostFacts, RowFacts, Samples
from vllm_hpc.report.rows import read_rows
from vllm_hpc.report.series import read_samples
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.rehearsal import named_model

_SCRIPTS = ("script.sbatch", "script.pbs", "script.sh", "manifest.yaml")
# Of the script and of a traceback: a page shows no more.
_MOST_OF_A_SCRIPT, _MOST_OF_A_TRACE = 1 << 18, 1 << 14
_NO_SETTING = frozenset({"input", "name", "job_dir", "scheduler", "model", "sampling", "engine", "rehearse_set"})


def gather(folder: JobFolder) -> Facts:
    """All facts of a job. Raises JobNotFoundError."""
    record, now = folder.job(), time.time()
    status = read_status(folder)
    progress = read_progress(folder, record) if record.has_rows else []
    ranks = read_ranks(folder, record)
    until = now if not status.is_final else _last_seen(record, ranks, [one.updated_at for one in progress])
    attempts = read_attempts(folder, record, progress, ranks, until)
    samples, energy = read_samples(folder, record, attempts)
    runs = [run for replica in progress for run in replica.runs]
    rows = read_rows(folder, record) if record.has_rows else None
    script_name, script = _script(folder)
    error = first_error(folder)
    return Facts(
        name=folder.path.name,
        status=status,
        model=named_model(record.request.model) or "no model",
        layout=record.plan.layout,
        made_at=made_at(record),
        found_at=now,
        queue=record.queue or record.request.partition,
        settings=settings_of(record),
        speeds=_speeds(folder, status, runs, rows, samples, energy),
        attempts=attempts,
        samples=samples,
        energy=energy,
        rows=rows,
        hosts=tuple(_hosts(ranks)),
        versions={**record.versions, **_merged([rank.versions for rank in ranks])},
        patches=_merged([rank.patches for rank in ranks]),
        notes=record.plan.reasons,
        first_error=(error[0], error[1][-_MOST_OF_A_TRACE:]) if error else None,
        script_name=script_name,
        script=script,
    )


def settings_of(record: JobRecord) -> dict[str, Any]:
    """What was asked for, without what was left out; a setting of vLLM's or of sampling by its own name."""
    asked = {name: getattr(record.request, name) for name in record.origins if name in record.request.__struct_fields__}
    shown = {
        name: value
        for name, value in asked.items()
        if name not in _NO_SETTING and value not in (None, "", (), [], {}, False)
    }
    layout = record.plan.layout
    return {
        **({"model": model} if (model := named_model(record.request.model)) else {}),
        "scheduler": record.scheduler,
        "tp": layout.tp,
        "pp": layout.pp,
        **({"attention_dp": layout.attention_dp} if layout.attention_dp > 1 else {}),
        "dp": layout.dp,
        "nodes": layout.nodes,
        **{name: value for name, value in shown.items() if name not in ("tp", "pp", "attention_dp", "dp", "nodes")},
        **{f"sampling {name}": value for name, value in record.sampling.items()},
        **{f"engine {name}": value for name, value in record.plan.engine.items()},
    }


def _last_seen(record: JobRecord, ranks: list[RankRecord], moments: list[float]) -> float:
    """When an attempt that left no record of its end was last heard of."""
    seen = [made_at(record), *moments, *(rank.updated_at for rank in ranks)]
    return max(filter(is_moment, seen))


def _speeds(
    folder: JobFolder,
    status: Status,
    runs: list[Run],
    rows: RowFacts | None,
    samples: Samples | None,
    energy: Energy | None,
) -> dict[str, float | int | None]:
    summary = read_json(folder.summary, Summary)
    worked = sum(run.seconds.get("generate", 0.0) + run.seconds.get("drain", 0.0) for run in runs)
    idle = sum(run.seconds.get("idle", 0.0) for run in runs)
    occupied = sum(run.occupancy * (run.seconds.get("generate", 0.0) + run.seconds.get("drain", 0.0)) for run in runs)
    totals = [sum(one for one in at if one is not None) for at in zip(*_rates(samples), strict=True)]
    return {
        "tokens_per_s": status.tokens_per_s,
        "most_tokens_per_s": round(max(totals), 1) if totals else None,
        "seconds": summary.seconds if summary else None,
        "output_tokens": rows.completion_tokens if rows else None,
        "prompt_tokens": rows.prompt_tokens if rows else None,
        "occupancy": round(occupied / worked, 4) if worked else None,
        "idle": round(idle / worked, 4) if worked else None,
        "kwh": energy.kwh if energy else None,
        "joules_per_token": energy.joules_per_token if energy else None,
    }


def _rates(samples: Samples | None) -> list[tuple[float | None, ...]]:
    return [one.tokens_per_s for one in samples.replicas] if samples else []


def _hosts(ranks: list[RankRecord]) -> Iterator[HostFacts]:
    by_host = defaultdict[str, list[RankRecord]](list)
    for rank in ranks:
        by_host[rank.host].append(rank)
    for host, those in by_host.items():
        devices = Counter(_device(rank) for rank in those)
        outcomes = Counter(rank.outcome for rank in those)
        yield HostFacts(host, tuple(rank.rank for rank in those), dict(devices), dict(outcomes))


def _device(rank: RankRecord) -> str:
    size = f", {rank.device_gib:.3g} GiB" if rank.device_gib else ""
    return f"{rank.device_name or rank.device}{size}"


def _merged(tables: list[dict[str, str]]) -> dict[str, str]:
    """Each name with its value, or with all that there are if the ranks' differ."""
    found = defaultdict[str, dict[str, None]](dict)
    for table in tables:
        for name, value in table.items():
            found[name][value] = None
    return {name: " | ".join(values) for name, values in found.items()}


def _script(folder: JobFolder) -> tuple[str, str]:
    """The name of what was submitted, and its text; empty if it is not there."""
    for name in _SCRIPTS:
        path = folder.path / name
        try:
            return name, read_regular(path, _MOST_OF_A_SCRIPT, follow_links=False).decode(errors="replace")
        except OSError:
            continue
    return "", ""
