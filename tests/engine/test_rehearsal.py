"""Rehearsals: what may be asked, what the engine answers without torch, and that nobody takes it for a model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Cli
from tests.crafted import layout, make_job
from tests.marks import needs_torch
from vllm_hpc.engine.rehearsal.engine import RehearsalEngine, text_of, tokens_of
from vllm_hpc.engine.rehearsal.faults import FaultPlan
from vllm_hpc.engine.rehearsal.rows import RehearsalRows, prompt_tokens
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import JobRecord, RankRecord
from vllm_hpc.jobfolder.shards import finished
from vllm_hpc.jobs.collect import collect
from vllm_hpc.jobs.status import read_status
from vllm_hpc.planner.history import measured_rate
from vllm_hpc.rows.row import Row
from vllm_hpc.spec import plan as plans
from vllm_hpc.spec.errors import CollectError, RequestError
from vllm_hpc.spec.job_definition import make_request
from vllm_hpc.spec.layout import Place
from vllm_hpc.spec.rehearsal import Rehearsal, read_rehearsal
from vllm_hpc.spec.request import Request


def record(rows: int = 3, **engine: Any) -> JobRecord:
    return JobRecord(
        request=Request(model="rehearsal", rehearse=True), plan=plans.Plan(layout=layout(1), engine=engine),
        scheduler="local", model="rehearsal", sampling={}, rows=rows, created_at=1.0,
    )  # fmt: skip


def rehearsed(path: Path, rows: list[Row], **options: Any) -> JobFolder:
    """A crafted job that is a rehearsal."""
    folder = make_job(path, rows)
    job = folder.job()
    request = msgspec.structs.replace(job.request, rehearse=True, **options)
    write_json(folder.job_json, msgspec.structs.replace(job, request=request))
    return folder


def write_shard(folder: JobFolder, *lines: Row) -> None:
    folder.shard(0, 1).parent.mkdir(exist_ok=True)
    folder.shard(0, 1).write_text("".join(json.dumps(line) + "\n" for line in lines))


def answer(index: int, **more: Any) -> Row:
    return {"index": index, "id": str(index), "text": "a", "prompt_tokens": 1, "completion_tokens": 1, **more}


# -- what may be asked ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"load": 1}, "--rehearse-set load is not known: did you mean load_s?"),
        ({"tokens_per_s": 0}, "tokens_per_s must be a number above 0, not 0"),
        ({"tokens_per_s": float("nan")}, "tokens_per_s must be a number"),
        ({"load_s": 10**20}, "load_s must be at most 1000000000"),
        ({"fault": "die", "fault_row": 10**20}, "fault_row must be at most 1000000000"),
        ({"load_s": -1}, "load_s must be a number, 0 or more, not -1"),
        ({"load_s": True}, "load_s must be a number"),
        ({"load_s": "5"}, "load_s must be a number"),
        ({"fault": "explode", "fault_row": 1}, "fault must be one of die, hang, diverge, oom, step, not 'explode'"),
        ({"fault": "die"}, "needs either fault_row"),
        (
            {"fault": "step", "fault_row": 1},
            "fault=step happens in the first step of every attempt: leave fault_row out",
        ),
        ({"fault": "step", "fault_s": 0}, "fault=step happens in the first step of every attempt: leave fault_s out"),
        ({"fault": "die", "fault_row": 1, "fault_s": 2}, "needs either fault_row"),
        ({"fault_rank": 1}, "fault_rank says where a fault happens: add fault="),
        ({"fault": "die", "fault_row": 1.5}, "fault_row must be a whole number"),
        ({"fault": "die", "fault_row": -1}, "fault_row must be a whole number, 0 or more"),
        ([], "must be a table"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words.replace("?", r"\?")):
        read_rehearsal(given)


def test_settings_that_can() -> None:
    assert read_rehearsal({"load_s": 0, "tokens_per_s": 0.5}) == Rehearsal(load_s=0, tokens_per_s=0.5)
    assert read_rehearsal({"load_s": None}) == Rehearsal()
    assert read_rehearsal({"fault": "hang", "fault_s": 0, "fault_rank": 3}).fault_rank == 3
    assert read_rehearsal({"fault": "step", "fault_rank": 3}) == Rehearsal(fault="step", fault_rank=3)


@pytest.mark.parametrize(
    ("settings", "rows", "words"),
    [
        (Rehearsal(fault="die", fault_s=1, fault_rank=4), None, "fault_rank must be from 0 to 3, not 4"),
        (Rehearsal(fault="die", fault_row=10), 10, "fault_row must be from 0 to 9, not 10"),
        (Rehearsal(fault="diverge", fault_row=0), 10, "needs replicas of two or more ranks"),
        (Rehearsal(fault="die", fault_row=0, fault_rank=1), 10, "which replica will run a row is not known in advance"),
    ],
)
def test_a_fault_that_cannot_happen_is_refused(settings: Rehearsal, rows: int | None, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        settings.check_place(4, 1, rows)


def test_the_last_rank_and_row_can_have_a_fault() -> None:
    Rehearsal(fault="die", fault_row=9).check_place(4, 1, 10)
    Rehearsal(fault="die", fault_s=1, fault_rank=3).check_place(4, 1, 10)
    Rehearsal(fault="die", fault_row=9, fault_rank=3).check_place(4, 4, 10)
    Rehearsal(fault="diverge", fault_row=0).check_place(2, 2, 10)


def test_python_says_it_in_one_word_or_in_a_table() -> None:
    assert make_request({"rehearse": True}).rehearse_set == Rehearsal()
    request = make_request({"rehearse": {"load_s": 2}})
    assert (request.rehearse, request.rehearse_set.load_s, request.model) == (True, 2, "(none)")
    with pytest.raises(RequestError, match="MODEL is missing"):
        make_request({})
    with pytest.raises(RequestError, match="--rehearse must be true or false"):
        make_request({"rehearse": "yes"})
    for model in ({"model": "m"}, {}):
        with pytest.raises(RequestError, match="for rehearsals only"):
            make_request({**model, "rehearse_set": {"load_s": 1}})


def test_a_job_definition_may_hold_its_rehearsal(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text("tp = 2\n[rehearse]\nload_s = 3\n")
    request = make_request({"model": str(tmp_path), "rehearse_set": {"tokens_per_s": 5}})
    assert request.rehearse_set == Rehearsal(load_s=3, tokens_per_s=5)
    with pytest.raises(RequestError, match="names no model"):
        make_request({"model": str(tmp_path), "rehearse": False})
    file.write_text('model = "demo"\n[rehearse]\nload_s = 3\n')
    earnest = make_request({"model": str(tmp_path), "rehearse": False})
    assert (earnest.rehearse, earnest.rehearse_set, earnest.model) == (False, Rehearsal(), "demo")
    file.write_text("rehearse = true\ntp = 2\n")
    assert make_request({"model": str(tmp_path)}).rehearse
    file.write_text("tp = 2\n")
    assert make_request({"model": str(tmp_path), "rehearse": True}).tp == 2
    file.write_text("rehearse_set = 5\n[rehearse]\nload_s = 3\n")
    with pytest.raises(RequestError, match="must be a table"):
        make_request({"model": str(tmp_path)})
    file.write_text("tp = 2\n[rehearse]\nload = 3\n")
    with pytest.raises(RequestError, match=r"job.toml: --rehearse-set load is not known"):
        make_request({"model": str(tmp_path)})


@pytest.mark.parametrize(
    ("table", "options"),
    [
        ('[rehearse]\nfault = "die"\n', {"rehearse_set": {"fault_s": 3}}),
        ('[rehearse_set]\nfault = "die"\nfault_s = 3\n', {"rehearse": True}),
        ("[rehearse]\nfault_s = 3\n", {"rehearse_set": {"fault": "die"}}),
    ],
)
def test_what_a_job_definition_leaves_open_may_be_added(table: str, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(table)
    assert make_request({"model": str(tmp_path), **options}).rehearse_set == Rehearsal(fault="die", fault_s=3)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('[rehearse]\nfault = "die"\n', "needs either fault_row"),
        ('model = "demo"\n[rehearse_set]\nload_s = 3\n', "for rehearsals only"),
        ('[rehearse]\nfault = "explode"\n', "job.toml: --rehearse-set fault must be one of"),
    ],
)
def test_what_it_leaves_open_and_nobody_adds_is_refused(table: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(table)
    with pytest.raises(RequestError, match=words):
        make_request({"model": str(tmp_path)})


def test_the_plan_says_what_it_is(run_cli: Cli) -> None:
    outcome = run_cli("plan", "--rehearse", "--nodes", "64", "--tp", "8", "--gpus-per-node", "8", "--json",
                      "--scheduler", "slurm")  # fmt: skip
    plan = json.loads(outcome.out)
    assert (outcome.code, plan["world_size"], plan["fits"]) == (0, 512, None)
    assert any(reason.startswith("rehearsal: ") for reason in plan["reasons"])
    assert "no MODEL: every layout is possible, and memory is not checked" in plan["reasons"]


def test_a_rehearsed_script_is_the_jobs_own(run_cli: Cli, model: Path) -> None:
    options = ("--nodes", "2", "--tp", "2", "--scheduler", "slurm", "--name", "a")
    own, ours = run_cli("render", model, *options), run_cli("render", model, *options, "--rehearse")
    assert ours.code == 0
    assert own.out == ours.out


def test_a_rehearsal_needs_torch(run_cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.schedulers.submitit_executor.find_spec", lambda name: None)
    outcome = run_cli("submit", "--rehearse", "--scheduler", "slurm")
    assert outcome.code == 2
    assert outcome.err.startswith("Error: --rehearse needs torch")
    assert not (desk / "runs").exists()


def test_a_rehearsed_sweep_needs_torch(run_cli: Cli, model: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.schedulers.submitit_executor.find_spec", lambda name: None)
    outcome = run_cli("tune", model, "--rehearse", "--scheduler", "local", "--tp", "1")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("Error: --rehearse needs torch")
    assert not (desk / "runs").exists()


@needs_torch
def test_tune_rehearses_models_only(run_cli: Cli) -> None:
    outcome = run_cli("tune", "--rehearse")
    assert outcome.code == 2
    assert "tune --rehearse needs a MODEL" in outcome.err


# -- the engine ----------------------------------------------------------------------------------------------------
def run_engine(rows: list[Row], faults: FaultPlan | None = None, **engine: Any) -> tuple[list[Row], list[int]]:
    """The rows out in the order in which they end, and how many ended in each step."""
    job = record(len(rows), **engine)
    made = RehearsalEngine(job, Rehearsal(), faults or FaultPlan(None, None, None))
    make = made.request_maker(job, writes=True)
    ready = {str(row["index"]): make(row) for row in rows}
    out: list[Row] = []
    ended: list[int] = []
    with made:
        for key, one in ready.items():
            made.add_request(key, one)
        while len(out) < len(rows):
            outputs, is_work_done = made.step(lambda: None)
            assert not is_work_done
            out += [made.answer(ready[one.request_id], one, 0) for one in outputs]
            ended.append(len(outputs))
    return out, ended


def rows_in(count: int, **sampling: Any) -> list[Row]:
    return [{"index": n, "id": f"row-{n}", "prompt": f"prompt {n}", "sampling": sampling} for n in range(count)]


def test_a_row_is_answered_from_its_own_text() -> None:
    rows: list[Row] = [
        *rows_in(2, max_tokens=3), {"index": 2, "id": "again", "prompt": "prompt 0", "sampling": {"max_tokens": 3}},
    ]  # fmt: skip
    out, _ = run_engine(rows)
    assert out[0]["text"] == out[2]["text"] == "582d bdbf b77c"
    assert out[1]["text"] != out[0]["text"]
    assert all(row["rehearsal"] is True and row["completion_tokens"] == 3 for row in out)
    assert (out[0]["finish_reason"], out[0]["prompt_tokens"]) == ("length", 2)


def test_a_sequence_gets_a_token_a_step_and_so_many_run_at_once() -> None:
    _, ended = run_engine(rows_in(5, max_tokens=3), max_num_seqs=2)
    assert ended == [0, 0, 2, 0, 0, 2, 0, 0, 1]


def test_a_slow_pace_has_several_short_steps_for_a_token() -> None:
    for rate, steps in ((None, 1), (1e6, 1), (64, 16)):
        made = RehearsalEngine(record(), Rehearsal(tokens_per_s=rate), FaultPlan(None, None, None))
        assert made._steps_a_token == steps


def test_a_folder_called_rehearsal_is_not_taken_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rehearsal").mkdir()
    (tmp_path / "rehearsal" / "job.toml").write_text('model = "demo"\n')
    monkeypatch.chdir(tmp_path)
    assert make_request({"rehearse": True}).model == "(none)"
    assert make_request({"rehearse": True, "model": "rehearsal"}).model == "demo"


def test_several_outputs_are_several_sequences() -> None:
    out, ended = run_engine(rows_in(2, max_tokens=2, n=3), max_num_seqs=4)
    assert ended == [0, 1, 0, 1]
    assert len({one["text"] for one in out[0]["outputs"]}) == 3
    assert out[0]["completion_tokens"] == 6


def test_an_embedding_is_numbers() -> None:
    row: Row = {"index": 0, "id": "a", "prompt": "x", "task": "embed"}
    (out,), _ = run_engine([row], runner="pooling")
    assert len(out["embedding"]) == 8
    assert all(0 <= number < 1 for number in out["embedding"])


def test_an_openai_batch_line_is_marked_inside_too() -> None:
    row: Row = {
        "index": 0, "id": "a", "messages": [{"role": "user", "content": "hi"}], "sampling": {"max_tokens": 2},
        "batch": {"custom_id": "a", "url": "/v1/chat/completions", "model": "m"},
    }  # fmt: skip
    (out,), _ = run_engine([row])
    body = out["line"]["response"]["body"]
    assert (out["rehearsal"], out["line"]["rehearsal"], body["rehearsal"]) == (True, True, True)
    assert out["line"]["response"]["body"]["choices"][0]["message"]["content"] == text_of(tokens_of(row, 0, 2))


def test_the_context_ends_an_answer() -> None:
    out, _ = run_engine([{"index": 0, "id": "a", "prompt": "x" * 36, "sampling": {"max_tokens": 50}}], max_model_len=12)
    assert (out[0]["prompt_tokens"], out[0]["completion_tokens"]) == (9, 3)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": "x" * 48}, "about 12 tokens"),
        ({"prompt": list(range(12))}, "about 12 tokens"),
        ({"prompt": "a", "task": "embed"}, "can only generate"),
        ({"prompt": "a", "lora": "sql"}, "no adapter 'sql'"),
        ({"prompt": "a", "sampling": {"temperature": -1}}, "temperature"),
        ({"prompt": "a", "sampling": {"max_tokens": 0}}, "max_tokens"),
        ({"prompt": "a", "sampling": {"n": 0}}, r"\.n`"),
        ({"prompt": "a", "sampling": {"n": 10**7}}, "n must be at most 16384"),
        ({"prompt": "a", "sampling": {"n": 2, "temperature": 0}}, "n must be 1 when sampling is greedy"),
        ({"prompt": "a", "sampling": {"logprobs": 21}}, "logprobs must be at most max_logprobs=20"),
        ({"prompt": [5, -1]}, "token id -1 is below 0"),
        ({"prompt": "a", "sampling": {"structured_outputs": {"choice": []}}}, "choice is empty"),
        ({"prompt": "a", "sampling": {"structured_outputs": {"json": "{", "regex": "a"}}}, "must have one of"),
        ({"prompt": "x" * 99, "sampling": {"truncate_prompt_tokens": -1}}, "about 12 tokens"),
        ({"prompt": "a", "sampling": {"min_tokens": 9, "max_tokens": 5}}, "min_tokens must be at most max_tokens=5"),
        ({"prompt": "a", "sampling": {"stop": ["a", ""]}}, "stop cannot contain an empty string"),
        ({"prompt": "a", "sampling": {"response_format": {"type": "xml"}}}, "response_format type 'xml'"),
        ({"prompt": "a", "sampling": {"truncate_prompt_tokens": 0}}, "truncate_prompt_tokens must be"),
    ],
)
def test_a_row_fails_by_our_own_checks_and_by_its_length(row: Row, words: str) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError), match=words):
        RehearsalRows(record(max_model_len=12))({"index": 0, "id": "a", **row})


def test_values_are_read_as_vllm_reads_them() -> None:
    ready = RehearsalRows(record())({"index": 0, "id": "a", "prompt": "a", "sampling": {"max_tokens": "7", "n": 1.0}})
    assert ready.params.max_tokens == 7
    assert RehearsalRows(record(max_model_len=12))({"index": 0, "id": "a", "prompt": "a" * 44}).prompt == 11


def test_the_length_of_a_chat_is_that_of_its_texts() -> None:
    assert prompt_tokens({"messages": [{"role": "user", "content": ""}]}) == 1  # the template's own
    parts = [{"type": "text", "text": "x" * 9}, {"type": "image_url"}]
    chat = [{"role": "system", "content": "x" * 7}, {"role": "user", "content": parts}, {"role": "assistant"}]
    assert prompt_tokens({"messages": chat}) == 4


# -- faults --------------------------------------------------------------------------------------------------------
def fault_of(rank: int, place: tuple[int, int], is_first: bool = True, **settings: Any) -> str | None:
    where = Place(place[0], place[1], 0, place[1], place[0], place[1])
    return FaultPlan.of(Rehearsal(**{"fault": "die", **settings}), rank, where, is_first)._fault


def test_whom_a_fault_hits() -> None:
    assert fault_of(0, (0, 0), fault_s=1) == "die"
    assert fault_of(1, (0, 1), fault_s=1) is None
    assert fault_of(1, (0, 1), fault_s=1, fault_rank=1) == "die"
    assert fault_of(0, (0, 0), fault_s=1, is_first=False) is None
    assert fault_of(2, (1, 0), fault_row=5) == "die"  # the first rank of whichever replica runs the row
    assert fault_of(3, (1, 1), fault_row=5) is None
    assert fault_of(2, (1, 0), fault_row=5, is_first=False) == "die"
    assert fault_of(2, (1, 0), fault_row=5, fault_rank=3) is None
    assert fault_of(0, (0, 0), is_first=False, fault="step") == "step"
    assert fault_of(1, (0, 1), is_first=True, fault="step") is None


@pytest.mark.inputs
def test_the_first_step_fails_whatever_is_in_it() -> None:
    with pytest.raises(RuntimeError, match="rehearsed fault: CUDA error: unspecified launch failure"):
        run_engine(rows_in(3, max_tokens=2), FaultPlan("step", None, None))


def test_a_rank_that_is_to_diverge_has_another_token() -> None:
    plain, _ = run_engine(rows_in(3, max_tokens=2))
    other, _ = run_engine(rows_in(3, max_tokens=2), FaultPlan("diverge", "1", None))
    assert [a["text"] == b["text"] for a, b in zip(plain, other, strict=True)] == [True, False, True]
    other, _ = run_engine(rows_in(3, max_tokens=2), FaultPlan("diverge", None, 0.0))
    assert sum(a["text"] != b["text"] for a, b in zip(plain, other, strict=True)) >= 1


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (FaultPlan("die", "7", None), "did not happen: row 7 generated nothing on this rank"),
        (FaultPlan("die", None, 60.0), "did not happen: the rows finished first"),
        (FaultPlan("diverge", "1", None), ""),
        (FaultPlan(None, None, None), ""),
    ],
)
def test_a_fault_that_does_not_happen_is_told_of(
    faults: FaultPlan, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_engine(rows_in(3, max_tokens=2), faults)
    said = capsys.readouterr().out
    assert words in said and bool(words) == ("did not happen" in said)


# -- nobody takes it for a model's ---------------------------------------------------------------------------------
def test_collect_of_a_real_job_refuses_rehearsed_rows(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "real", [{"prompt": "a"}, {"prompt": "b"}])
    write_shard(folder, answer(0), answer(1, rehearsal=True))
    assert list(finished(folder, 2).rows) == [1, 0]
    with pytest.raises(CollectError, match="row 1, which is from a rehearsal"):
        collect(folder)


def test_a_rehearsal_collects_its_own_rows_only(tmp_path: Path) -> None:
    folder = rehearsed(tmp_path / "job", [{"prompt": "a"}, {"prompt": "b"}])
    write_shard(folder, answer(0, rehearsal=True))
    summary = collect(folder)
    assert (summary.rehearsal, summary.rows["done"], summary.rows["missing"]) == (True, 1, 1)
    rows = [json.loads(line) for line in folder.outputs.read_text().splitlines()]
    assert [row["rehearsal"] for row in rows] == [True, True]
    assert rows[1]["error"]["type"] == "missing"
    assert read_status(folder).rehearsal
    write_shard(folder, answer(0))
    with pytest.raises(CollectError, match="row 0, which is not from a rehearsal"):
        collect(folder)


def test_an_input_cannot_call_itself_a_rehearsal(run_cli: Cli, model: Path, desk: Path) -> None:
    (desk / "in.jsonl").write_text('{"prompt": "a", "rehearsal": true}\n')
    outcome = run_cli("plan", model, "--input", "in.jsonl", "--scheduler", "local")
    assert outcome.code == 0
    assert "'rehearsal' as 'in_rehearsal'" in outcome.out


def test_people_see_that_it_is_one(run_cli: Cli, desk: Path) -> None:
    folder = rehearsed(desk / "runs" / "try", [{"prompt": "a"}])
    write_shard(folder, answer(0, rehearsal=True))
    assert "a rehearsal: the answers are not from a model" in run_cli("status", "try").out
    assert "try (rehearsal)" in run_cli("list").out
    assert [one["rehearsal"] for one in json.loads(run_cli("list", "--json").out)] == [True]
    assert "rehearsed tokens" in run_cli("collect", "try").out


@pytest.mark.parametrize("is_rehearsal", [False, True])
def test_a_rehearsal_is_no_history(tmp_path: Path, is_rehearsal: bool) -> None:
    folder = make_job(tmp_path / "job", 1)
    rank = RankRecord(
        rank=0, replica=0, attempt=1, host="n", pid=1, device="cuda:0", device_name="NVIDIA H100 80GB HBM3",
        device_gib=79.18, outcome="ok", updated_at=1.0,
    )  # fmt: skip
    write_json(folder.rank_record(0), rank)
    told = {"state": "COMPLETED", "completion_tokens": 1000, "timings": {"generate": 100.0}}
    write_json(folder.summary, {**told, "rehearsal": is_rehearsal})
    found = measured_rate(tmp_path, "/models/model", "h100-80", layout())
    assert (found is None) is is_rehearsal
