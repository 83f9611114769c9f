"""metrics.prom: text that a parser of OpenMetrics takes, with the numbers of the job."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from tests.crafted import layout, make_job, result, start, write_lines
from tests.report.crafted_runs import make_run
from vllm_hpc.engine.health.shard_writer import ShardWriter
from vllm_hpc.jobfolder import metrics
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.metrics import keep_metrics, metrics_text, write_metrics
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import Progress, Run, Sample
from vllm_hpc.jobfolder.shards import Tally
from vllm_hpc.jobs.collect import collect
from vllm_hpc.jobs.job import Job
from vllm_hpc.report.gather import gather
from vllm_hpc.spec.rehearsal import NO_MODEL

pytestmark = pytest.mark.notebooks
_SAMPLE = re.compile(r'(vllm_hpc_[a-z0-9_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\n"])*",?)+)\} (-?[0-9.]+(?:e[+-]?[0-9]+)?)')
_TYPE = re.compile(r"# TYPE (vllm_hpc_[a-z0-9_]+) (gauge|counter|info)")
_ENDINGS = {"gauge": "", "counter": "_total", "info": "_info"}


def parse(text: str) -> dict[str, float]:
    """Its samples: every line after the TYPE of its metric, none twice, no time stamps, # EOF last."""
    assert text.endswith("\n# EOF\n")
    found: dict[str, float] = {}
    seen: set[str] = set()
    name = kind = ""
    for line in text.removesuffix("# EOF\n").splitlines():
        if match := _TYPE.fullmatch(line):
            name, kind = match.groups()
            assert name not in seen
            seen.add(name)
        elif line.startswith("# HELP "):
            assert line.startswith(f"# HELP {name} ")
        else:
            sample = _SAMPLE.fullmatch(line)
            assert sample, line
            assert sample[1] == name + _ENDINGS[kind]
            key = f"{sample[1]}{{{sample[2]}}}"
            assert key not in found
            found[key] = float(sample[3])
    return found


def text_of(folder: JobFolder) -> str:
    return (folder.path / "metrics.prom").read_text(encoding="utf-8")


def test_the_numbers_are_those_of_the_job(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job")
    collect(folder)
    found = parse(text_of(folder))
    assert (
        found['vllm_hpc_state{job="job",state="COMPLETED"}'] + found['vllm_hpc_state{job="job",state="PARTIAL"}'] == 1
    )
    assert found['vllm_hpc_rows_total{job="job",state="done"}'] == 36
    assert found['vllm_hpc_rows_total{job="job",state="failed"}'] == 4
    assert found['vllm_hpc_output_tokens_total{job="job"}'] == 200_000
    assert found['vllm_hpc_tokens_per_second{job="job"}'] == 200
    assert found['vllm_hpc_replica_rows_done{job="job",replica="1"}'] == 16


def test_what_a_replica_says_now(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job", replicas=1)
    before = read_json(folder.progress(0), Progress)
    assert before is not None
    now = Sample(at=2000.0, tokens=150_000, running=12, waiting=3, kv=0.75, watts=350.5)
    write_json(folder.progress(0), Progress(replica=0, attempt=1, runs=before.runs, now=now))
    write_metrics(folder, "RUNNING")
    found = parse(text_of(folder))
    assert found['vllm_hpc_replica_running{job="job",replica="0"}'] == 12
    assert found['vllm_hpc_replica_kv_cache_ratio{job="job",replica="0"}'] == 0.75
    assert found['vllm_hpc_replica_power_watts{job="job",replica="0"}'] == 350.5
    assert found['vllm_hpc_replica_tokens_per_second{job="job",replica="0"}'] == 150, "rows in flight count"


@pytest.mark.parametrize("name", ['a "b"', "back\\slash", "new\nline", "naïve 日本", "\x1b[31m\x00", "{x=1} 2"])
def test_names_are_escaped(tmp_path: Path, name: str) -> None:
    record = make_job(tmp_path / "job").job()
    found = parse(metrics_text(record, [], name, "PENDING"))
    shown = name.replace("\x1b", "\ufffd").replace("\x00", "\ufffd")
    escaped = shown.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert found[f'vllm_hpc_rows_missing{{job="{escaped}"}}'] == 3


def test_a_published_parser_takes_it(tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    folder = make_run(tmp_path / "job")
    write_metrics(folder, "RUNNING")
    families = list(parser.text_string_to_metric_families(text_of(folder)))
    assert {"vllm_hpc_rows", "vllm_hpc_tokens_per_second"} <= {family.name for family in families}


def test_while_a_job_runs_replica_0_writes_it_now_and_then(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job")
    start(folder)
    keep_metrics(folder, 1)
    path = folder.path / metrics.NAME
    assert not path.exists()
    keep_metrics(folder, 0)
    assert 'state="RUNNING"} 1' in text_of(folder)
    path.write_text("as it was")
    keep_metrics(folder, 0)
    assert path.read_text() == "as it was", "not every second"
    os.utime(path, (1, 1))
    keep_metrics(folder, 0)
    assert parse(text_of(folder))


def test_the_writer_of_rows_keeps_it(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", shape=layout(dp=2))
    start(folder)
    for replica in (1, 0):
        assert not (folder.path / metrics.NAME).exists()
        writer = ShardWriter(folder, replica, 1, Tally(), lambda *counts: Run(attempt=1), 1.0)
        writer.close()
    assert parse(text_of(folder))['vllm_hpc_rows_missing{job="job"}'] == 3


def test_no_error_in_it_ends_a_job(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job")
    folder.job_json.unlink()
    keep_metrics(folder, 0)
    (folder.path / metrics.NAME).mkdir()
    keep_metrics(folder, 0)


def test_collect_into_another_folder_leaves_the_jobs_as_it_is(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=1)
    write_lines(folder.shard(0, 1), [result(0)])
    collect(folder, tmp_path / "elsewhere")
    assert not (folder.path / metrics.NAME).exists()
    assert not (tmp_path / "elsewhere" / metrics.NAME).exists()


@pytest.mark.throughput
@pytest.mark.parametrize("of", ["mine", "another's", "none"])
def test_whoever_asks_for_the_status_of_a_killed_job_has_it_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    folder = make_job(tmp_path / "job")
    start(folder)
    if of != "none":
        write_metrics(folder, "RUNNING")
    monkeypatch.setattr(JobFolder, "is_mine", of != "another's")
    assert Job(folder.path).status().state == "FAILED"
    if of == "none":
        assert not (folder.path / "metrics.prom").exists()
        return
    found = parse(text_of(folder))
    assert found[f'vllm_hpc_state{{job="job",state="{"FAILED" if of == "mine" else "RUNNING"}"}}'] == 1


@pytest.mark.throughput
def test_a_rehearsal_without_a_model_names_none(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job")
    request = msgspec.structs.replace(folder.job().request, model=NO_MODEL, rehearse=True)
    write_json(folder.job_json, msgspec.structs.replace(folder.job(), request=request))
    write_metrics(folder, "RUNNING")
    assert 'model=""' in text_of(folder)
    assert Job(folder.path).status().model is None
    assert (gather(folder).model, gather(folder).settings.get("model")) == ("no model", None)
