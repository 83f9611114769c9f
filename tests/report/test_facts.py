"""What a report says of a job: each number against the folder that it was made from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.crafted import SUBMITTED_AT, error, layout, make_array, make_job, rank, result, start, write_lines
from tests.report.crafted_runs import BEGINS, begin, finish, make_run, progress_of, row_out, write_samples
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.collect import collect
from vllm_hpc.jobs.error_groups import group_errors
from vllm_hpc.report.facts import Part
from vllm_hpc.report.gather import gather
from vllm_hpc.report.rows import read_rows

pytestmark = pytest.mark.notebooks


def test_the_timeline_has_each_part_from_the_moment_that_the_job_was_made(tmp_path: Path) -> None:
    (one,) = gather(make_run(tmp_path / "job")).attempts
    assert one.parts == (
        Part("queue", 0.0, 100.0),
        Part("launch", 100.0, 110.0),
        Part("import", 110.0, 130.0),
        Part("load", 130.0, 180.0),
        Part("warm-up", 180.0, 200.0),
        Part("generate", 200.0, 1200.0),
        Part("ending", 1200.0, 1210.0),
    )
    assert (one.cause, one.exit_code) == ("exit", 0)


def test_attempts_follow_each_other_with_the_wait_between_them(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job", replicas=1)
    finish(folder, 1, BEGINS + 1110, cause="requeue")
    begin(folder, 2, BEGINS + 2000)
    write_samples(folder, 0, 2, BEGINS + 2100, 50)
    write_json(folder.progress(0), progress_of(0, 2, range(40)))
    finish(folder, 2, BEGINS + 3110)
    collect(folder)
    facts = gather(folder)
    assert [one.parts[0] for one in facts.attempts] == [Part("queue", 0.0, 100.0), Part("queue", 1210.0, 2100.0)]
    assert facts.attempts[1].parts[-1].name == "collect"
    assert facts.samples is not None
    (cut,) = facts.samples.cuts
    assert facts.samples.starts[cut] == 2100, "no bin lies in the gap"
    assert sum(facts.samples.widths) == pytest.approx(2 * 1110, abs=1)


def test_the_bins_have_the_speed_of_every_replica(tmp_path: Path) -> None:
    samples = gather(make_run(tmp_path / "job", replicas=3)).samples
    assert samples is not None
    assert [one.replica for one in samples.replicas] == [0, 1, 2]
    for one in samples.replicas:
        known = [value for value in one.tokens_per_s if value is not None]
        assert known == pytest.approx([100.0] * len(known), rel=0.02)
        assert {*one.occupancy} == {None, 0.5}
        tokens = sum(
            value * width for value, width in zip(one.tokens_per_s, samples.widths, strict=True) if value is not None
        )
        assert tokens == pytest.approx(100_000, rel=0.03)


def test_energy_is_the_integral_of_the_watts(tmp_path: Path) -> None:
    energy = gather(make_run(tmp_path / "job", replicas=2, watts=500.0)).energy
    assert energy is not None
    assert energy.kwh == pytest.approx(2 * 500 * 1000 / 3.6e6)
    assert energy.joules_per_token == pytest.approx(5.0, rel=1e-3)
    assert energy.replicas == 2


def test_without_watts_there_is_no_energy(tmp_path: Path) -> None:
    assert gather(make_run(tmp_path / "job", watts=None)).energy is None


def test_a_gap_between_samples_counts_no_energy(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job", replicas=1, samples=3)  # 500 s apart
    facts = gather(folder)
    assert facts.samples is not None
    assert facts.energy is None


def test_rows_are_counted_as_collect_does(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job", rows=40)
    # A later attempt: row 5 has a result now, and row 0 was written again.
    write_lines(folder.shard(0, 2), [result(5, completion_tokens=300), result(0, completion_tokens=7)])
    rows = gather(folder).rows
    summary = collect(folder)
    assert rows is not None
    assert (rows.done, rows.failed, rows.missing) == (37, 3, 0)
    assert (rows.prompt_tokens, rows.completion_tokens) == (summary.prompt_tokens, summary.completion_tokens)
    assert rows.finish == {"stop": 21, "length": 16}
    assert rows.completion is not None
    assert sum(rows.completion.counts) == 37
    assert (rows.completion.most, rows.completion.median) == (300, 100)
    (group,) = rows.errors
    assert (group.type, group.count, group.first_id) == ("ValueError", 3, "15")
    assert group.message == "the prompt has 9015 tokens, of at most 8192"


def test_after_the_shards_are_gone_the_outputs_say_the_same(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job")
    before = gather(folder).rows
    collect(folder)
    for shard in folder.shard_files():
        shard.unlink()
    assert gather(folder).rows == before


def test_lines_of_openai_batches(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    body = {"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}], "usage": {"prompt_tokens": 2}}
    lines: list[dict[str, Any]] = [
        {**result(0), "line": {"custom_id": "a", "response": {"body": body}}},
        {"index": 1, "id": "1", "error": {"type": "X", "message": "m"}, "line": {"custom_id": "b"}},
    ]
    del lines[0]["finish_reason"]
    write_lines(folder.shard(0, 1), lines)
    rows = gather(folder).rows
    assert rows is not None
    assert rows.finish == {"stop": 1, "length": 1}
    assert [group.type for group in rows.errors] == ["X"]


@pytest.mark.throughput
def test_errors_are_grouped_as_the_command_errors_groups_them(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", 4)
    messages = ["no 'a' at 0x7f01", "no 'b' at 0x7f02", "5 tokens", "6 tokens"]
    write_lines(
        folder.shard(0, 1),
        [{"index": n, "id": str(n), "error": {"type": "E", "message": one}} for n, one in enumerate(messages)],
    )
    assert [group.count for group in read_rows(folder, folder.job()).errors] == [2, 2]
    assert [group.count for group in group_errors(folder).groups] == [2, 2]


def test_many_kinds_of_errors_are_bounded(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=600)
    kinds = [
        {"index": n, "id": str(n), "error": {"type": "E", "message": "m" + chr(0x4E00 + n) * 900}} for n in range(600)
    ]
    write_lines(folder.shard(0, 1), kinds)
    rows = gather(folder).rows
    assert rows is not None
    assert len(rows.errors) == 201
    assert sum(group.count for group in rows.errors) == 600
    assert max(len(group.message) for group in rows.errors) == 400


def test_a_job_that_has_not_started(tmp_path: Path) -> None:
    facts = gather(make_job(tmp_path / "job"))
    assert (facts.attempts, facts.samples, facts.hosts) == ((), None, ())
    assert facts.rows is not None
    assert facts.rows.missing == 3


def test_the_first_error_and_the_hosts_of_a_job_that_failed(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", shape=layout(tp=2))
    start(folder)
    rank(folder, 0, "error", error=error("out of memory"), device_name="H100", timings={"launch": 2.0, "load": 3.0})
    rank(folder, 1, "terminated", device_name="H100")
    finish(folder, 1, SUBMITTED_AT + 65, exit_code=1)
    facts = gather(folder)
    assert facts.status.state == "FAILED"
    assert facts.first_error is not None
    assert "out of memory" in facts.first_error[0]
    assert facts.hosts[0].devices == {"H100": 2}
    assert facts.hosts[0].outcomes == {"error": 1, "terminated": 1}
    assert [part.name for part in facts.attempts[0].parts] == ["queue", "launch", "load", "other"]


def test_tasks_of_an_array_are_beside_each_other(tmp_path: Path) -> None:
    folder = make_array(tmp_path / "job", 2)
    start(folder, 1, 0)
    start(folder, 2, 1)
    for attempt in (1, 2):
        finish(folder, attempt, SUBMITTED_AT + 1200)
        write_samples(folder, attempt - 1, attempt, SUBMITTED_AT + 105, 20)
    facts = gather(folder)
    assert [one.task for one in facts.attempts] == [0, 1]
    assert facts.samples is not None
    assert facts.samples.cuts == ()
    assert [one.replica for one in facts.samples.replicas] == [0, 1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 4096,
        b"{}\n",
        b'{"at": 1e300, "tokens": 5}\n{"at": 2e300, "tokens": 7}\n',
        b'{"at": -5}\n{"at": 5, "tokens": -3}\n',
        b'{"at": 1200, "tokens": ' + b"9" * 400 + b"}\n",
        b"[" * 100_000 + b"\n",
        b'{"at": 1300, "watts": 1e308}\n' * 2,
        b"x" * 200_000,
    ],
    ids=["empty", "zeros", "nothing", "late", "negative", "long-number", "deep", "many-watts", "long-line"],
)
def test_samples_that_are_none(tmp_path: Path, content: bytes) -> None:
    folder = make_run(tmp_path / "job", replicas=1)
    folder.samples(0, 1).write_bytes(content)
    assert gather(folder).samples is None


def test_one_bad_line_among_samples_is_passed_over(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job", replicas=1)
    whole = gather(folder).samples
    lines = folder.samples(0, 1).read_bytes().splitlines(keepends=True)
    folder.samples(0, 1).write_bytes(b"".join([*lines[:9], b'{"at": \n', b"\xff\n", *lines[9:], b'{"at": 12']))
    assert gather(folder).samples == whole


def test_what_lies_under_the_names_is_not_followed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job")
    secret = tmp_path / "secret"
    secret.write_text("hidden words")
    folder.samples(0, 1).unlink()
    folder.samples(0, 1).symlink_to(secret)
    os.mkfifo(folder.path / "script.sbatch")
    (folder.path / "script.sh").unlink()
    (folder.path / "script.sh").symlink_to(secret)
    facts = gather(folder)
    assert facts.script == ""
    assert facts.samples is not None
    assert facts.samples.unreadable == 1
    assert b"hidden words" not in msgspec.json.encode(facts)


def test_settings_are_what_was_asked(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job")
    record = folder.job()
    asked = msgspec.structs.replace(record.request, partition="fast")
    changed = msgspec.structs.replace(
        record, request=asked, origins={"partition": "--partition"}, sampling={"temperature": 0.5}
    )
    write_json(folder.job_json, changed)
    settings = gather(folder).settings
    assert settings["partition"] == "fast"
    assert settings["sampling temperature"] == 0.5
    assert (settings["tp"], settings["dp"]) == (2, 2)
    assert "account" not in settings


def test_a_row_out_is_one_of_collects(tmp_path: Path) -> None:
    """The crafted rows are rows: else the tests above would count nothing."""
    folder = make_run(tmp_path / "job", rows=20)
    collect(folder)
    lines = folder.outputs.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [row_out(index) for index in range(20)]
