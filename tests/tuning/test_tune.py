"""tune: which settings it tries and keeps, what is refused, and that the planner takes what it found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.marks import needs_torch
from tests.published_models import PUBLISHED
from tests.real_jobs import ENGINE
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.submit import prepare, prepare_untuned
from vllm_hpc.planner.make_plan import find_subject, make_plan
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.planner.resolve import resolve_at
from vllm_hpc.planner.tuned import Setting, Trial, TuneFinding
from vllm_hpc.spec.errors import JobFailedError, LayoutError, RefusedError, RequestError, SubmitError
from vllm_hpc.spec.job_definition import Given, make_request
from vllm_hpc.spec.profile import Profile
from vllm_hpc.tuning import tune as tuning
from vllm_hpc.tuning.sweep import SWEEPS, Change, search, warmed
from vllm_hpc.tuning.trials import Bench
from vllm_hpc.tuning.tune import tune

START = Setting(tp=1, pp=1, dp=4, engine={"max_num_seqs": 512, "max_num_batched_tokens": 16384})
TP2 = msgspec.structs.replace(START, tp=2, dp=2)
Rate = Callable[[Setting], float | None]


def sweep(rate: Rate, names: tuple[str, ...] = SWEEPS[:3], rows: int = 10**6) -> tuple[Setting, list[Setting]]:
    """The best of a sweep, and all that was tried."""
    tried: list[Setting] = []

    def measure(setting: Setting) -> Trial:
        tried.append(setting)
        return Trial(setting=setting, tokens_per_s=rate(setting), why="it broke")

    return search(START, names, measure, lambda start: [TP2], rows), tried


def changed(**engine: Any) -> Setting:
    return msgspec.structs.replace(START, engine={**START.engine, **engine})


def test_nothing_is_faster() -> None:
    best, tried = sweep(lambda setting: 100.0)
    assert best == START
    assert tried == [
        START, TP2, changed(max_num_seqs=256), changed(max_num_seqs=1024),
        changed(max_num_batched_tokens=8192), changed(max_num_batched_tokens=32768),
    ]  # fmt: skip


def test_what_is_faster_is_kept_and_gone_on_with() -> None:
    def rate(setting: Setting) -> float:
        seqs = int(setting.engine["max_num_seqs"])
        return setting.tp * 100.0 + seqs / 100 - (90 if seqs > 2048 else 0)

    best, tried = sweep(rate)
    assert best == msgspec.structs.replace(TP2, engine={**TP2.engine, "max_num_seqs": 2048})
    assert tried[-2:] == [START, best]  # both once more
    assert {setting.tp for setting in tried[2:-2]} == {2}


def test_what_is_faster_by_luck_alone_is_not_kept() -> None:
    rates = {1: [100.0, 104.0], 2: [105.0, 101.0]}
    best, tried = sweep(lambda setting: rates[setting.tp].pop(0), ("layout",))
    assert (best, len(tried)) == (START, 4)
    assert sweep(lambda setting: 101.9 if setting == TP2 else 100.0, ("layout",))[0] == START


def test_a_trial_that_fails_has_lost() -> None:
    best, _ = sweep(lambda setting: 100.0 if setting == START else None)
    assert best == START
    with pytest.raises(JobFailedError, match="planner's own choice failed: it broke"):
        sweep(lambda setting: None)


def test_no_more_sequences_than_rows_and_no_fewer_tokens_than_sequences() -> None:
    _, tried = sweep(lambda setting: 100.0, ("max_num_seqs",), rows=600)
    assert tried == [START, changed(max_num_seqs=128)]  # of 150 rows a replica; 256 or 1024 would change nothing
    tight = changed(max_num_batched_tokens=512)
    tried = []

    def measure(setting: Setting) -> Trial:
        tried.append(setting)
        return Trial(setting=setting, tokens_per_s=1.0)

    search(tight, ("max_num_batched_tokens",), measure, lambda start: [], 10**6)
    assert tried == [tight, changed(max_num_batched_tokens=1024)]


def test_what_compiles_first_is_run_twice() -> None:
    runs: list[Setting] = []

    def run(setting: Setting) -> Trial:
        runs.append(setting)
        rate = None if setting.tp == 4 else 10.0 * runs.count(setting)
        return Trial(setting=setting, tokens_per_s=rate)

    told: list[Trial] = []
    measure = warmed(run, told.append)
    one, two, four = (Setting(tp=tp, pp=1, dp=1, engine={"max_num_seqs": 8}) for tp in (1, 2, 4))
    fewer = Setting(tp=1, pp=1, dp=1, engine={"max_num_seqs": 4})
    longer = Setting(tp=1, pp=1, dp=1, engine={"max_num_batched_tokens": 64})
    rates = [measure(setting).tokens_per_s for setting in (one, fewer, two, longer, four, one)]
    assert rates == [20.0, 20.0, 20.0, 20.0, None, 30.0]
    assert runs == [one, one, fewer, fewer, two, two, longer, longer, four, one]
    assert [trial.setting for trial in told] == [one, fewer, two, longer]
    assert not any(trial.counts for trial in told)


def changing(*changes: Change) -> tuple[Setting, list[Setting]]:
    """The best, and all that was tried, where each engine argument makes it faster."""
    tried: list[Setting] = []

    def measure(setting: Setting) -> Trial:
        tried.append(setting)
        return Trial(setting=setting, tokens_per_s=float(len(setting.engine)))

    return search(START, (), measure, lambda start: [], 8, changes), tried


def test_what_changes_answers_is_kept_only_where_it_is_allowed() -> None:
    fp8, cache = {"quantization": "fp8"}, {"kv_cache_dtype": "fp8"}
    best, tried = changing(Change(fp8, False), Change(cache, False))
    assert (best, tried) == (START, [START, changed(**fp8), changed(**cache)])
    best, tried = changing(Change(fp8, True), Change(cache, False))
    assert best == changed(**fp8)
    assert tried == [START, best, changed(**fp8, **cache), START, best]  # the last two confirm it
    assert changing(Change(fp8, True), Change(cache, True))[0] == changed(**fp8, **cache)


@pytest.fixture
def found(desk: Path, model: Path) -> Path:
    """The file of a finding for ./model on two ranks of the local scheduler: TP=2."""
    del desk
    request = make_request({"model": str(model), "scheduler": "local", "gpus_per_node": 2})
    job = resolve_at(Given(request), Profile())
    plan = make_plan(job)
    assert (plan.layout.tp, plan.layout.dp) == (1, 2)
    subject = find_subject(job, plan)
    assert subject is not None
    best = Setting(tp=2, pp=1, dp=1, engine={"max_num_seqs": 8})
    own = Setting(tp=1, pp=1, dp=2)
    trials = tuple(Trial(setting=one, tokens_per_s=rate, seconds=20.0) for one, rate in ((own, 100.0), (best, 150.0)))
    finding = TuneFinding(model=subject.model, device=subject.device, best=best, trials=trials, made_at=time.time())
    subject.file.parent.mkdir(parents=True)
    subject.file.write_bytes(msgspec.json.encode(finding))
    return subject.file


@pytest.mark.parametrize(
    ("profile", "device"),
    [(Profile(gpu_flag="none"), "cpu"), (Profile(gpu_flag="none", mem="64G"), "cpu"), (Profile(), "unknown")],
)
def test_what_a_finding_is_about_without_a_gpu_that_is_known(model: Path, profile: Profile, device: str) -> None:
    request = make_request({"model": str(model), "scheduler": "slurm", "nodes": 1, "gpus_per_node": 1})
    job = resolve_at(Given(request), profile)
    plan = make_plan(job)
    subject = find_subject(job, plan)
    assert subject is not None
    assert subject.device == device


def cut(model: Path, **options: Any) -> tuple[int, int, Any]:
    plan = plan_only(str(model), **{"scheduler": "local", "gpus_per_node": 2, **options})
    return plan.layout.tp, plan.layout.dp, plan.engine.get("max_num_seqs")


def test_the_planner_takes_it(model: Path, found: Path) -> None:
    assert cut(model) == (2, 1, 8)
    reasons = plan_only(str(model), scheduler="local", gpus_per_node=2).reasons
    (reason,) = (reason for reason in reasons if "tuned on" in reason)
    assert "the fastest of 2 tried, in trials of 20 s or more, 1.50 times the planner's own choice" in reason
    assert str(found) in reason
    prepared = prepare(str(model), scheduler="local", gpus_per_node=2, name="a")
    assert prepared.plan.layout.tp == 2
    assert prepare_untuned(prepared.job).plan.layout.tp == 1


def test_numbers_that_were_the_planners_own_stay_its_own(model: Path, found: Path) -> None:
    """It looks at the rows of each input; the layout is what was found."""
    finding = msgspec.json.decode(found.read_bytes())
    finding["trials"][0]["setting"]["engine"] = finding["best"]["engine"]
    found.write_bytes(msgspec.json.encode(finding))
    assert cut(model) == (2, 1, None)


def test_rows_that_ask_for_another_layout_than_tunes_did_get_it(model: Path, found: Path) -> None:
    """For what the trials ran, the planner's own choice was the first of them; for this input it is another one."""
    finding = msgspec.json.decode(found.read_bytes())
    finding["trials"][0]["setting"].update({"tp": 1, "pp": 2, "dp": 1})
    found.write_bytes(msgspec.json.encode(finding))
    assert cut(model) == (2, 1, 8)  # of no rows at all it is the best there is to say
    rows = model.parent / "rows.txt"
    rows.write_text("A prompt.\n" * 100)
    assert cut(model, input=str(rows)) == (1, 2, None)
    assert cut(model, input=str(rows), tp=2) == (2, 1, None)
    reasons = plan_only(str(model), scheduler="local", gpus_per_node=2, input=str(rows)).reasons
    (reason,) = (reason for reason in reasons if "what tune found is not used" in reason)
    assert "chooses TP 1 × PP 2 × DP 1, but for this input TP 1 × PP 1 × DP 2" in reason


def test_what_is_asked_comes_first(model: Path, found: Path) -> None:
    assert found.exists()
    assert cut(model, engine={"max_num_seqs": 4}) == (2, 1, 4)
    assert cut(model, tp=2) == (2, 1, 8)
    assert cut(model, tp=1) == (1, 2, None)
    assert cut(model, dp=2) == (1, 2, None)
    assert cut(model, gpus_per_node=4)[2] is None  # another number of ranks was not tuned
    assert cut(model, launcher="native")[2] is None
    assert cut(model, engine={"dtype": "bfloat16"})[2] is None
    assert cut(model, engine={"kv_cache_dtype": "fp8"})[2] is None
    # vLLM refuses fewer tokens a step than sequences: of the two, it gives both or neither.
    assert cut(model, engine={"max_num_batched_tokens": 4}) == (2, 1, None)


def test_another_model_at_the_same_place_is_not_tuned(model: Path, found: Path) -> None:
    assert found.exists()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] * 2}))
    assert cut(model) == (1, 2, None)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"best": 7}', b"\xff" * 100])
def test_a_file_that_is_no_finding_is_none(model: Path, found: Path, content: bytes) -> None:
    found.write_bytes(content)
    assert cut(model) == (1, 2, None)
    assert any(str(found) in reason for reason in plan_only(str(model), scheduler="local", gpus_per_node=2).reasons)
    found.unlink()
    assert not any("tune" in one for one in plan_only(str(model), scheduler="local", gpus_per_node=2).reasons)


@pytest.mark.parametrize(
    "odd", [{"trials": []}, {"made_at": 1e300}, {"made_at": -1}, {"best": {"tp": -1, "pp": 1, "dp": -2}}]
)
def test_neither_is_what_tune_does_not_write(model: Path, found: Path, odd: dict[str, Any]) -> None:
    found.write_bytes(msgspec.json.encode({**msgspec.json.decode(found.read_bytes()), **odd}))
    assert cut(model) == (1, 2, None)


def test_a_finding_that_the_model_cannot_take_is_passed_over(model: Path, found: Path) -> None:
    finding = msgspec.json.decode(found.read_bytes())
    for best in ({"tp": 7, "pp": 1, "dp": 1}, {"tp": 1, "pp": 1, "dp": 2, "engine": {"max_num_seqs": "x"}}):
        found.write_bytes(msgspec.json.encode({**finding, "best": best}))
        assert cut(model) == (1, 2, None)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown sweep": ({"sweep": ("layouts",)}, "--sweep layouts is not known: use layout, max_num_seqs"),
    "none": ({"sweep": ("",)}, "--sweep '' is not known"),
    "an array": ({"array": True, "dp": 2, "scheduler": "slurm"}, "--array"),
    "a contradiction": ({"engine": {"max_num_seqs": 4}}, "contradict each other"),
    "no such model": ({"model": "./nothing"}, "nothing"),
    "an input that is not there": ({"input": "none.jsonl"}, "none.jsonl"),
    "rows beside an input": ({"rows": 8, "input": "some.txt"}, "--rows and --input contradict"),
    "more rows than anybody waits for": ({"rows": 10**14}, "too many for a short trial"),
    "more sequences, and so rows": (
        {"engine": {"max_num_seqs": 100_000}, "gpu": "h200", "nodes": 1, "gpus_per_node": 2, "sweep": ("layout",)},
        "too many for a short trial",
    ),
    "rows longer than was asked for": ({"engine": {"max_model_len": 64}}, "than --engine max_model_len allows"),
    "tokens beside an input": ({"prompt_tokens": 8, "input": "some.txt"}, "--prompt-tokens and --input contradict"),
    "no folder for it": ({"job_dir": "/proc/none"}, "choose another --job-dir"),
    "rows longer than the model takes": ({"prompt_tokens": 10**6}, "longer than the model allows"),
    "a folder that is there": ({"name": "model", "job_dir": "."}, "choose another --name"),
    "a secret": ({"env": {"HF_TOKEN": "hf_x"}}, "HF_TOKEN"),
    "a template that is not there": ({"template": "none.j2"}, "none.j2"),
    "what does not fit": ({"gpu": "8G", "engine": {"max_model_len": 2048}, "nodes": 3, "tp": 7}, "7"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_made(desk: Path, model: Path, case: str) -> None:
    options, words = REFUSED[case]
    before = sorted(desk.iterdir())
    with pytest.raises(RefusedError, match=words):
        tune(**{"model": str(model), "scheduler": "local", **options})
    assert sorted(desk.iterdir()) == before


def test_without_the_schedulers_client_nothing_is_made(
    desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(desk))
    before = sorted(desk.iterdir())
    with pytest.raises(SubmitError, match="qsub was not found"):
        tune(str(model), scheduler="pbs")
    assert sorted(desk.iterdir()) == before


def test_its_own_options_are_read_by_the_command(run_cli: Any, model: Path) -> None:
    for words in (["--rows", "0"], ["--prompt-tokens", "-1"], ["--rows", "many"], ["--sweep", "all"], ["--sweep", ""]):
        outcome = run_cli("tune", model, "--scheduler", "local", *words)
        assert outcome.code == 2, words
        assert len(outcome.err.splitlines()) == 1


@pytest.fixture
def runs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """What was run, without the jobs: none could run on an H100 here. All are as fast as each other."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(desk))
    settings: list[Setting] = []

    def run(bench: object, setting: Setting) -> Trial:
        settings.append(setting)
        return Trial(setting=setting, tokens_per_s=100.0)

    monkeypatch.setattr(Bench, "run", run)
    return settings


def test_where_a_finding_cannot_be_kept_nothing_is_run(desk: Path, model: Path, runs: list[Setting]) -> None:
    (desk / "vllm-hpc").write_text("in the way")
    with pytest.raises(RequestError, match="XDG_CACHE_HOME"):
        tuning.tune(str(model), scheduler="local", nodes=1, gpus_per_node=1, rows=4, job_dir=str(desk / "runs"))
    assert not runs
    assert not (desk / "runs").exists()


def test_without_a_home_directory_nothing_is_run(desk: Path, model: Path, runs: list[Setting], homeless: None) -> None:
    with pytest.raises(RequestError, match="XDG_CACHE_HOME"):
        tuning.tune(str(model), scheduler="local", nodes=1, gpus_per_node=1, rows=4, job_dir=str(desk / "runs"))
    assert not runs


@pytest.mark.parametrize(("device", "runs_of_each"), [({"gpu": "h100-80"}, 2), ({"scheduler": "local"}, 1)])
def test_only_gpus_are_warmed_up(
    desk: Path, model: Path, runs: list[Setting], device: dict[str, Any], runs_of_each: int
) -> None:
    told: list[Trial] = []
    options = {"scheduler": "local", "nodes": 1, "gpus_per_node": 1, "rows": 4, "job_dir": str(desk / "runs"), **device}
    done = tuning.tune(str(model), sweep=("max_num_seqs",), tell=told.append, **options)
    found = done.finding.trials
    assert len(runs) == runs_of_each * len(found)
    assert all(trial.counts for trial in found)
    assert [trial.counts for trial in told] == ([False, True] if runs_of_each == 2 else [True]) * len(found)


@pytest.mark.parametrize(
    ("given", "sweep", "first"),
    [
        ({"kv_cache_dtype": "fp8"}, "max_num_seqs", {}),
        ({"max_num_seqs": "4"}, "max_num_batched_tokens", {"max_num_seqs": 4}),
        ({"max_num_seqs": None}, "max_num_batched_tokens", {}),
    ],
)
def test_what_was_asked_of_tune_is_not_asked_of_later_jobs(
    desk: Path, model: Path, runs: list[Setting], given: dict[str, Any], sweep: str, first: dict[str, Any]
) -> None:
    done = tuning.tune(
        str(model), sweep=(sweep,), rows=64, scheduler="local", nodes=1, gpus_per_node=1, engine=given,
        job_dir=str(desk / "runs"),
    )  # fmt: skip
    assert runs[0].engine == first
    assert not set(given) & {name for trial in done.finding.trials for name in trial.setting.engine}
    assert done.finding.gain == 1.0
    assert not set(given) & set(plan_only(str(model), scheduler="local", nodes=1, gpus_per_node=1).engine)


def test_a_sweep_begins_with_what_the_planner_has_for_its_rows(desk: Path, runs: list[Setting]) -> None:
    """One H100 holds 32B, and KV cache for some 90 rows: enough for two sample prompts, not for a trial's thousands."""
    shape = next(one.config for one in PUBLISHED if one.name == "Qwen2.5-32B")
    (desk / "32b").mkdir()
    (desk / "32b" / "config.json").write_text(json.dumps(shape | {"max_position_embeddings": 131_072}))
    options: dict[str, Any] = {"scheduler": "local", "nodes": 1, "gpus_per_node": 4, "gpu": "h100-80"}
    done = tuning.tune("./32b", sweep=("layout",), rows=512, job_dir=str(desk / "runs"), **options)
    assert runs[0] == done.finding.trials[0].setting
    assert (runs[0].tp, runs[0].dp) == (2, 2)
    with pytest.raises(LayoutError, match="less than one sequence"):
        options_of_one = {**options, "gpus_per_node": 1, "name": "long"}
        tuning.tune("./32b", rows=4, prompt_tokens=100_000, job_dir=str(desk / "runs"), **options_of_one)
    assert not (desk / "runs" / "long").exists()
    rows = [json.dumps({"prompt": [number] * 256}) + "\n" for number in range(2048)]  # which share nothing
    (desk / "rows.jsonl").write_text("".join(rows))
    reasons = plan_only("./32b", input="rows.jsonl", **options).reasons
    assert any("tuned on" in reason for reason in reasons)
    (desk / "few.jsonl").write_text((json.dumps({"prompt": [7], "sampling": {"max_tokens": 8000}}) + "\n") * 4)
    reasons = plan_only("./32b", input="few.jsonl", **options).reasons
    assert any("what tune found is not used" in reason for reason in reasons)


@needs_torch
def test_a_rehearsed_sweep_tries_what_the_real_one_would(desk: Path, runs: list[Setting]) -> None:
    """32B does not fit on one H100 of these rows' length: no layout of TP=1, although a rehearsal would run it."""
    shape = next(one.config for one in PUBLISHED if one.name == "Qwen2.5-32B")
    (desk / "32b").mkdir()
    (desk / "32b" / "config.json").write_text(json.dumps(shape | {"max_position_embeddings": 131_072}))
    options: dict[str, Any] = {"scheduler": "local", "nodes": 1, "gpus_per_node": 4, "gpu": "a100-40"}
    for rehearse in (None, True):
        name = "rehearsed" if rehearse else "real"
        tuning.tune("./32b", sweep=("layout",), rows=512, job_dir="runs", rehearse=rehearse, name=name, **options)
    half = len(runs) // 2
    assert runs[:half] == runs[half:] and half > 0


def test_a_layout_that_was_asked_of_tune_is_found_by_who_asks_for_it(desk: Path, runs: list[Setting]) -> None:
    shape = next(one.config for one in PUBLISHED if one.name == "Llama-3.1-8B")
    (desk / "8b").mkdir()
    (desk / "8b" / "config.json").write_text(json.dumps(shape))
    options: dict[str, Any] = {"scheduler": "local", "nodes": 1, "gpu": "h100-80"}
    done = tuning.tune(
        "./8b", sweep=("max_num_seqs",), rows=512, job_dir=str(desk / "runs"), gpus_per_node=4, tp=2, **options
    )
    assert (runs[0].tp, runs[0].dp) == (2, 2)
    assert done.finding.own == Setting(tp=1, pp=1, dp=4)
    (desk / "rows.jsonl").write_text((json.dumps({"prompt": [7] * 256}) + "\n") * 512)
    for asked in ({"tp": 2, "gpus_per_node": 4}, {"tp": 2, "dp": 2}):
        reasons = plan_only("./8b", input="rows.jsonl", **options, **asked).reasons
        assert any("tuned on" in reason for reason in reasons), reasons


@pytest.mark.vllm
@pytest.mark.full
def test_a_real_sweep(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    told: list[Trial] = []
    done = tune(
        str(tiny), sweep=("max_num_seqs",), rows=16, prompt_tokens=8, tell=told.append, scheduler="local", tp=1,
        job_dir=str(tmp_path), max_tokens=16, engine={"dtype": ENGINE["dtype"]},
    )  # fmt: skip
    assert [trial.setting.engine.get("max_num_seqs") for trial in told[:2]] == [None, 8]
    assert all((trial.tokens_per_s or 0) > 0 and Path(trial.job, "summary.json").exists() for trial in told)
    assert done.file is not None
    assert done.finding == msgspec.json.decode(done.file.read_bytes(), type=TuneFinding)
    assert done.finding.trials == tuple(told)
    plan = plan_only(str(tiny), scheduler="local", tp=1, engine={"dtype": ENGINE["dtype"]})
    assert any("tuned on" in reason for reason in plan.reasons)


@pytest.mark.ranks
def test_a_rehearsed_sweep(model: Path, tmp_path: Path) -> None:
    """Each trial is a job that runs, and is told of; what a rehearsal finds is kept nowhere."""
    told: list[Trial] = []
    done = tune(
        str(model), sweep=("max_num_seqs",), rows=16, prompt_tokens=8, tell=told.append, scheduler="local", tp=1,
        job_dir=str(tmp_path), max_tokens=16, rehearse=True,
    )  # fmt: skip
    assert [trial.setting.engine.get("max_num_seqs") for trial in told[:2]] == [None, 8]
    assert all((trial.tokens_per_s or 0) > 0 and Path(trial.job, "summary.json").exists() for trial in told)
    assert (done.file, done.finding.trials) == (None, tuple(told))
    assert not any("tuned on" in reason for reason in plan_only(str(model), scheduler="local", tp=1).reasons)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_ends_tune_ends_its_trial(
    subject: Path | None, model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """A rehearsal's trial is slow enough that it cannot have ended before."""
    how = ["--engine", "dtype=float32"] if subject else ["--rehearse", "--rehearse-set", "tokens_per_s=100"]
    words = [sys.executable, "-m", "vllm_hpc", "tune", str(subject or model), *how, "--scheduler", "local"]
    words += ["--name", "sweep", "--rows", "1000", "--prompt-tokens", "8", "--job-dir", str(tmp_path)]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    # Under nohup a hangup is ignored, by what nohup has started too.
    default = partial(signal.signal, number, signal.SIG_DFL)
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=default) as process:
        assert process.stderr is not None
        assert process.stderr.readline().endswith(f"runs as {tmp_path / 'sweep' / 'trial-1'}\n")
        process.send_signal(number)
        assert process.wait(120) == 128 + number
    assert Job(tmp_path / "sweep" / "trial-1").status().state == "CANCELLED"
