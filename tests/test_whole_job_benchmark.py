"""The comparison of whole jobs, as far as it goes without vLLM: its file, its turns, its table, and what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.whole_job import __main__ as command
from benchmarks.whole_job.chats import Chats, find_model
from benchmarks.whole_job.jobs import Done, run
from benchmarks.whole_job.ways import WAYS, Answers, Way, Work, batch_answers, flags, plain
from vllm_hpc import prepare

pytestmark = pytest.mark.throughput


def done(way: str, number: int, seconds: float, **more: Any) -> Done:
    return Done(way, number, number == 0, seconds, seconds + 1, rows=8, answered=8, same=7, load=0.5, **more)


def python(code: str, output: str = "out.jsonl") -> Way:
    """A way that runs a line of Python in its folder, which it knows as `here`."""
    head = "import sys, pathlib; here = pathlib.Path(sys.argv[1]); "
    return Way("run-batch", lambda work, folder: [sys.executable, "-c", head + code, str(folder)], output, answers)


def answers(file: Path) -> Answers:
    return batch_answers(file.read_bytes().splitlines())


def batch_line(name: str, text: str) -> str:
    body = {"choices": [{"message": {"content": text}}]}
    return json.dumps({"custom_id": name, "response": {"status_code": 200, "body": body}, "error": None})


def test_the_chats_are_the_same_for_a_seed_and_share_no_prefix() -> None:
    chats = Chats(rows=50, letters=40, output=8, seed=3)
    lines = chats.lines("a model")
    assert lines == chats.lines("a model") != Chats(50, 40, 8, 4).lines("a model")
    texts = [json.loads(line)["body"]["messages"][0]["content"] for line in lines]
    assert {len(text) for text in texts} == {40}
    assert len({text.partition(":")[0] for text in texts}) == 50
    assert json.loads(lines[0])["body"]["temperature"] == 0.0


def test_vllm_hpc_takes_the_chats(tmp_path: Path) -> None:
    file = Chats(5, 30, 4).write(tmp_path / "chats.jsonl", Path("model"))
    prepared = prepare(input=str(file), rehearse=True, scheduler="local", job_dir=str(tmp_path))
    assert [row["id"] for row in prepared.intake.rows()] == [f"chat-{number}" for number in range(5)]


def test_rows_in_error_are_not_answered() -> None:
    wrong = json.dumps({"custom_id": "b", "response": {"status_code": 400, "body": {}}, "error": {"message": "no"}})
    assert batch_answers([batch_line("a", "x").encode(), wrong.encode()]) == {"a": "x", "b": None}


def test_the_peers_own_files_are_read(tmp_path: Path) -> None:
    row = {"custom_id": "a", "body": {}}
    flux = [
        {"input": row, "output": {"choices": [{"message": {"content": "x"}}]}},
        {"input": {**row, "custom_id": "b"}},
    ]
    (tmp_path / "flux").write_text(json.dumps({"results": flux}))
    assert WAYS["llmflux"].read(tmp_path / "flux") == {"a": "x", "b": None}
    (tmp_path / "ray").write_text('{"custom_id": "a", "text": "x"}\n')
    assert WAYS["ray"].read(tmp_path / "ray") == {"a": "x"}


def test_engine_arguments_are_written_as_each_way_has_them() -> None:
    given = {"max_num_seqs": "64", "enforce_eager": "true", "enable_prefix_caching": "false"}
    assert flags(given) == ["--max-num-seqs", "64", "--enforce-eager", "--no-enable-prefix-caching"]
    assert [plain(value) for value in (*given.values(), "float32")] == [64, True, False, "float32"]


def test_a_job_is_timed_and_its_rows_are_counted(tmp_path: Path) -> None:
    work = Work(tmp_path, tmp_path / "chats.jsonl", 1)
    way = python(f"(here / 'out.jsonl').write_text({batch_line('a', 'x')!r})")
    (first, texts), (later, _) = (run(way, work, number, tmp_path, 60) for number in (0, 1))
    assert (first.first, later.first, first.answered, first.failed, texts) == (True, False, 1, "", {"a": "x"})
    assert 0 <= first.seconds <= first.whole + 0.1


@pytest.mark.parametrize(
    ("code", "limit", "told"),
    [
        ("sys.exit(3)", 60, "exit code 3; "),
        ("import threading; threading.Event().wait()", 1, "ended after 1 s, its limit"),
        (f"(here / 'out.jsonl').write_text({batch_line('a', 'x')!r})", 60, "1 of 2 rows have no answer"),
        ("pass", 60, "2 of 2 rows have no answer"),
        ("(here / 'out.jsonl').write_text('{')", 60, "out.jsonl cannot be read"),
    ],
)
def test_a_job_that_fails_is_told_as_such(tmp_path: Path, code: str, limit: float, told: str) -> None:
    found, _ = run(python(code), Work(tmp_path, tmp_path / "chats.jsonl", 2), 0, tmp_path, limit)
    assert told in found.failed


def test_a_ratio_is_of_one_round_and_failures_stay_in_the_table() -> None:
    jobs = [done("vllm-hpc", 0, 10.0), done("run-batch", 0, 20.0), done("vllm-hpc", 1, 5.0), done("vllm-hpc", 2, 8.0)]
    jobs += [done("run-batch", 1, 15.0), done("run-batch", 2, 16.0), done("llmflux", 0, 1.0, failed="exit code 1")]
    lines = command.table(jobs, {"ray": "not told of: --peer ray=PYTHON"}).splitlines()
    assert lines[2].startswith("| vllm-hpc | 1 first | 10.0 (10.0 - 10.0) | 11.0 (11.0 - 11.0) | 1.00 (1.00 - 1.00) |")
    assert (
        "| run-batch | 2 later | 15.5 (15.0 - 16.0) | 16.5 (16.0 - 17.0) | 2.50 (2.00 - 3.00) | 8 of 8 | 7 of 8 |"
        in lines
    )
    assert "| llmflux | first; failed: exit code 1 | | | | | |" in lines
    assert lines[-1] == "| ray | not run: not told of: --peer ray=PYTHON | | | | | |"
    assert {line.count("|") for line in lines} == {8}


def test_who_begins_changes_and_no_job_starts_after_the_last_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fake(way: Way, work: Work, number: int, folder: Path, limit: float) -> tuple[Done, Answers]:
        return done(way.name, number, 1.0), {"a": way.name, "b": "same"}

    monkeypatch.setattr(command, "run", fake)
    ways, work = [WAYS["vllm-hpc"], WAYS["run-batch"]], Work(tmp_path, tmp_path, 2)
    command.interleave(ways, work, tmp_path, command.parse(["--times", "2"]))
    command.interleave(ways, work, tmp_path, command.parse(["--times", "1"]))
    jobs = command.read(tmp_path)
    assert [(one.way, one.round) for one in jobs[:4]] == [
        ("vllm-hpc", 0), ("run-batch", 0), ("run-batch", 1), ("vllm-hpc", 1),
    ]  # fmt: skip
    assert (jobs[4].round, [one.same for one in jobs[:3]]) == (2, [2, 1, 1])
    command.interleave(ways, work, tmp_path, command.parse(["--seconds", "0"]))
    assert "vllm-hpc is not run: --seconds 0 are over" in capsys.readouterr().out
    assert len(command.read(tmp_path)) == 6


def test_a_peer_that_is_not_there_is_said_and_why(tmp_path: Path) -> None:
    assert command.missing(WAYS["ray"], {}) == "not told of: --peer ray=PYTHON"
    assert "cannot be run ([Errno 2] No such file" in command.missing(WAYS["ray"], {"ray": tmp_path / "python"})
    told = command.missing(WAYS["llmflux"], {"llmflux": Path(sys.executable)})
    assert "cannot import llmflux: ModuleNotFoundError" in told
    assert command.missing(WAYS["run-batch"], {}) == ""


@pytest.mark.parametrize(
    "words",
    [["--only", "nothing"], ["--peer", "ray"], ["--peer", "other=/python"], ["--engine", "=1"], ["--rows", "0"],
     ["--rows", "٣"], ["--times", "-1"], ["--model", "nowhere"], ["--seconds", "nan"], ["--seconds", "-1"],
     ["--only", ","], ["--output", "1e9"]],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    given = ["--model", str(tmp_path), "--work", str(tmp_path / "work")]
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["whole_job", *given, *words])
    with pytest.raises(SystemExit) as refused:
        command.main()
    assert refused.value.code not in (0, None)
    assert not (tmp_path / "work" / "jobs.jsonl").exists()


def test_what_a_failed_first_job_compiled_is_deleted(tmp_path: Path) -> None:
    work = Work(tmp_path, tmp_path / "chats.jsonl", 1)
    (tmp_path / "home-run-batch").mkdir()
    (tmp_path / "home-run-batch" / "half").touch()
    failed, _ = run(python("sys.exit(1)"), work, 0, tmp_path, 60)
    found, _ = run(python(f"(here / 'out.jsonl').write_text({batch_line('a', 'x')!r})"), work, 0, tmp_path, 60)
    assert (failed.first, found.first, found.failed) == (True, True, "")
    assert not (tmp_path / "home-run-batch" / "half").exists()


@pytest.mark.parametrize("file", ["work", "work/jobs.jsonl"])
def test_a_folder_of_something_else_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{")
    given = ["--model", str(tmp_path), "--work", str(tmp_path / "work"), "--only", "ray"]
    monkeypatch.setattr(sys, "argv", ["whole_job", *given])
    with pytest.raises(SystemExit, match="the folder of --work must be writable"):
        command.main()


def test_figures_of_other_work_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    few, more = (command.parse(["--model", str(tmp_path), "--rows", rows]) for rows in ("2", "3"))
    command.prepare(few, tmp_path, {})
    command.prepare(few, tmp_path, {})
    with pytest.raises(SystemExit, match="has figures of other rows"):
        command.prepare(more, tmp_path, {})


def test_a_model_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--model 'nowhere' must be demo, .*llama-8b.* or a model's folder"):
        find_model("nowhere", tmp_path)
