"""What tune measures of the answers that a setting changes, what a finding keeps of it, and who may take it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.conftest import Cli
from vllm_hpc.api.errors import python_words
from vllm_hpc.cli.print_trials import following
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.planner.apply_finding import with_measured
from vllm_hpc.planner.effect import Effect
from vllm_hpc.planner.make_plan import find_subject, make_plan
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.planner.resolve import resolve_at
from vllm_hpc.planner.tuned import Setting, Trial, TuneFinding
from vllm_hpc.rows.row import PROMPT_IDS, Row, iter_jsonl
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.job_definition import Given, make_request
from vllm_hpc.spec.plan import EngineChoice, Plan
from vllm_hpc.spec.profile import Profile
from vllm_hpc.tuning.answers import Answer, Answers, effect_of
from vllm_hpc.tuning.trials import Bench as TrialBench
from vllm_hpc.tuning.trials import NotAnsweredError, RandomRows
from vllm_hpc.tuning.tune import tune

pytestmark = pytest.mark.throughput
START = Setting(tp=1, pp=1, dp=1, engine={"max_num_seqs": 8})
FP8 = {"quantization": "fp8"}
EFFECT = Effect(rows=32, equal_rows=0.25, equal_tokens=0.5, log_likelihood=-0.31, own_log_likelihood=-0.3)
NGRAM = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 4}}


def with_(**engine: Any) -> Setting:
    return msgspec.structs.replace(START, engine={**START.engine, **engine})


def row(name: str, tokens: list[int], logprob: float = -1.0) -> Row:
    judged = [{"token_id": token, "logprob": logprob} for token in tokens]
    return {"id": name, "text": "", "logprobs": judged, "prompt_token_ids": [1, 2]}


class Bench:
    """Answers rows as an engine would whose tokens are its setting's."""

    def __init__(self, folder: Path, rows: list[Row], tokens: dict[str | None, list[int]]) -> None:
        self.folder, self._rows, self._tokens = folder, rows, tokens
        self.asked: list[tuple[Setting, dict[str, Any], list[Row]]] = []

    def rows(self) -> Any:
        return iter(self._rows)

    def answers(self, setting: Setting, more: dict[str, Any], rows: Path) -> list[Row]:
        given = list(iter_jsonl(rows))
        self.asked.append((setting, more, given))
        found = []
        for one in given:
            if "prompt_logprobs" in one["sampling"]:
                places = [None, *({"token_id": token, "logprob": -2.0} for token in one["prompt"][1:])]
                found.append({"id": one["id"], "text": "", "prompt_logprobs": places})
            else:
                found.append(row(one["id"], self._tokens[setting.engine.get("quantization")]))
        return found


def test_a_setting_is_compared_with_the_plain_one_once(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "sampling": {"temperature": 1, "top_p": 0.5, "max_tokens": 4}, "index": 0, "other": "x"}]
    bench = Bench(tmp_path, rows, {None: [5, 6, 7, 8], "fp8": [5, 6, 9]})
    answers = Answers(bench)  # type: ignore[arg-type]
    plain = Trial(setting=START, tokens_per_s=1.0)
    assert answers.compared(plain) == plain and not bench.asked
    failed = Trial(setting=with_(**FP8), tokens_per_s=None, why="broke")
    assert answers.compared(failed) == failed and not bench.asked
    for _ in range(2):
        effect = answers.compared(Trial(setting=with_(**FP8), tokens_per_s=1.0)).effect
        assert effect == Effect(
            rows=1, equal_rows=0.0, equal_tokens=0.5, log_likelihood=-2.0, own_log_likelihood=-1.0
        )  # fmt: skip
    (first, more, greedy), (second, _, both) = bench.asked
    assert (first, second) == (START, with_(**FP8))
    assert more["max_num_seqs"] == 32
    sampling = {"temperature": 0, "n": 1, "max_tokens": 4, "logprobs": 0, "extra_args": {PROMPT_IDS: True}}
    assert greedy == [{"id": "row-0", "prompt": "a", "sampling": sampling}] == both[:1]
    assert both[1]["prompt"] == [1, 2, 5, 6, 7, 8]
    answers.compared(Trial(setting=with_(kv_cache_dtype="fp8", **FP8), tokens_per_s=1.0))
    assert len(bench.asked) == 3, "the plain answers are there"


def test_of_an_input_the_first_rows_that_generate_are_compared(tmp_path: Path) -> None:
    rows: list[Row] = [{"prompt": "bad", "error": "x"}, {"prompt": "e", "task": "embed"}]
    rows += [{"messages": [{"role": "user", "content": str(n)}], "tools": []} for n in range(100)]
    bench = Bench(tmp_path, rows, {None: [5], "fp8": [5]})
    Answers(bench).compared(Trial(setting=with_(**FP8), tokens_per_s=1.0))  # type: ignore[arg-type]
    (_, _, greedy), _ = bench.asked
    assert len(greedy) == 32
    assert greedy[0]["messages"][0]["content"] == "0" and greedy[0]["sampling"]["max_tokens"] == 128


def test_the_adapter_of_a_row_judges_its_answer_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [{"prompt": "a", "lora": "adapters/x"}, {"prompt": "b"}], {None: [5], "fp8": [5]})
    Answers(bench).compared(Trial(setting=with_(**FP8), tokens_per_s=1.0))  # type: ignore[arg-type]
    (_, _, greedy), (_, _, both) = bench.asked
    assert [one.get("lora") for one in greedy] == ["adapters/x", None]
    assert {one["id"]: one.get("lora") for one in both} == {
        "row-0": "adapters/x", "row-1": None, "scored-row-0": "adapters/x", "scored-row-1": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "why", "jobs"),
    [(None, "the job without it: no\nroom", 1), ("fp8", "no\nroom", 3), ("nobody", "no row was answered both", 3)],
)  # fmt: skip
def test_an_effect_that_cannot_be_measured_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str | None, why: str, jobs: int
) -> None:
    """And the plain rows, which are run for all settings, are not run again."""
    bench = Bench(tmp_path, [{"prompt": "a"}], {None: [5], "fp8": [5]})
    run = bench.answers

    def answers(setting: Setting, more: dict[str, Any], rows: Path) -> list[Row]:
        found = run(setting, more, rows)
        if broken == setting.engine.get("quantization"):
            raise NotAnsweredError("no\nroom")
        return found if setting == START else [one for one in found if broken != "nobody"]

    monkeypatch.setattr(bench, "answers", answers)
    compared = Answers(bench)  # type: ignore[arg-type]
    for setting in (with_(**FP8), with_(**FP8), with_(kv_cache_dtype="fp8", **FP8)):
        trial = compared.compared(Trial(setting=setting, tokens_per_s=1.0))
        assert trial.effect is None and trial.why.startswith(why)
        assert trial.answers == f"what it changes in the answers was not measured ({' '.join(trial.why.split())})"
    assert len(bench.asked) == jobs


def test_an_effect_counts_what_can_be_compared() -> None:
    one, two = Answer([1, 2], [-1.0, -1.0], [9]), Answer([3, 4], [-2.0, -2.0], [9])
    outputs: dict[str, Row] = {"scored-a": {"prompt_logprobs": [None, {"logprob": -3.0}, {"logprob": -5.0}]}}
    assert effect_of({}, {}, {}) is None
    assert effect_of({"a": one}, {"b": two}, {}) is None
    both = effect_of({"a": one, "b": two}, {"a": one, "b": Answer([3, 5])}, outputs)
    assert both == Effect(rows=2, equal_rows=0.5, equal_tokens=0.75, log_likelihood=-4.0, own_log_likelihood=-1.0)
    # An impossible token, an error row, and answers of nothing.
    impossible: dict[str, Row] = {
        "scored-a": {"prompt_logprobs": [{"logprob": None}, {"logprob": -5.0}]},
        "scored-b": {"error": {}},
    }
    found = effect_of({"a": one, "b": two}, {"a": one, "b": two}, impossible)
    assert found is not None and (found.equal_rows, found.log_likelihood) == (1.0, None)
    assert effect_of({"a": Answer([])}, {"a": Answer([])}, {}) == Effect(rows=1, equal_rows=1.0, equal_tokens=1.0)
    assert "log-likelihood" not in str(Effect(rows=1, equal_rows=1.0, equal_tokens=1.0))


@pytest.fixture
def keep(desk: Path, model: Path) -> Any:
    """Stores a finding of these trials for ./model on one rank; a setting and its rate, with an effect or not."""
    del desk
    job = resolve_at(Given(make_request({"model": str(model), "scheduler": "local", "gpus_per_node": 1})), Profile())
    subject = find_subject(job, make_plan(job))
    assert subject is not None
    subject.file.parent.mkdir(parents=True)

    def store(best: Setting, *rates: tuple[Setting, float], effect: Effect | None = EFFECT) -> Path:
        trials = tuple(
            Trial(setting=one, tokens_per_s=rate, seconds=20.0, effect=effect if one.changes else None)
            for one, rate in rates
        )
        found = TuneFinding(model=subject.model, device=subject.device, best=best, trials=trials, made_at=time.time())
        subject.file.write_bytes(msgspec.json.encode(found))
        return subject.file

    return store


def planned(model: Path, *allow: str, **options: Any) -> tuple[dict[str, Any], str]:
    """What a plan takes of what changes answers, and its reasons."""
    given = {"allow": list(allow)} if allow else {}
    plan: Plan = plan_only(str(model), scheduler="local", gpus_per_node=1, **given, **options)
    names = ("quantization", "kv_cache_dtype", "speculative_config")
    return {name: plan.engine[name] for name in names if name in plan.engine}, "\n".join(plan.reasons)


def test_a_finding_that_changes_answers_is_taken_only_where_it_is_allowed(model: Path, keep: Any) -> None:
    both = with_(**FP8, **NGRAM)
    # Whether tune was allowed to keep it (best) or not.
    for best in (START, with_(**FP8)):
        keep(best, (START, 100.0), (with_(**FP8), 130.0), (with_(**NGRAM), 101.0), (both, 150.0))
        engine, said = planned(model)
        assert engine == {}
        assert (
            "--allow quantization would take quantization fp8: 1.30 times the tokens/s; of 32 greedy answers 25% are "
            "equal, and 50% of their tokens stand before a difference; log-likelihood a token of the answers without "
            "it -0.310, their own -0.300"
        ) in said
        assert "--allow quantization,speculation would take quantization fp8, speculative_config ngram: 1.50" in said
        assert "--allow speculation would" not in said, "that is no faster"
        engine, said = planned(model, "quantization")
        assert engine == FP8
        assert "tuned on" in said and "--allow quantization would" not in said
        assert planned(model, "quantization", "speculation")[0] == {**FP8, **NGRAM}
        engine, said = planned(model, "speculation")
        assert engine == {}
        assert "--allow speculation: no finding of tune that is faster with it: 'vllm-hpc tune --sweep spec" in said


def test_what_is_given_is_no_finding(model: Path, keep: Any) -> None:
    keep(START, (START, 100.0), (with_(**FP8), 130.0))
    assert planned(model, "quantization", engine={"quantization": "fp8"})[0] == FP8
    said = planned(model, "quantization", "speculation", engine={"quantization": "fp8"})[1]
    assert "tuned on" not in said
    assert "--allow quantization: nothing to take, since --engine quantization is given" in said
    assert "--allow speculation: no finding of tune that is faster with it" in said, "and that can still be tried"
    assert "--allow quantization: no finding" in planned(model, "quantization", tp=1, engine={"dtype": "float16"})[1]


def test_a_finding_for_other_rows_needs_no_other_advice(model: Path, desk: Path, keep: Any) -> None:
    """That tune found nothing faster would be wrong."""
    file = keep(START, (START, 100.0), (with_(**FP8), 130.0))
    finding = json.loads(file.read_bytes())
    file.write_text(json.dumps({**finding, "layout": {"tp": 2, "pp": 1, "dp": 1}}))
    (desk / "rows.jsonl").write_text('{"prompt": "a"}\n')
    engine, said = planned(model, "quantization", input="rows.jsonl")
    assert engine == {} and "what tune found is not used: for the rows that it ran" in said
    assert "--allow quantization" not in said


def test_an_effect_that_was_not_measured_is_said_to_be(model: Path, keep: Any) -> None:
    keep(START, (START, 100.0), (with_(**FP8), 130.0), effect=None)
    assert "1.30 times the tokens/s; what it changes in the answers was not measured" in planned(model)[1]


def test_an_fp8_cache_that_an_earlier_version_found_needs_to_be_allowed_too(model: Path, keep: Any) -> None:
    """It was kept as any other setting, on top of a number that no trial of its own has."""
    own = msgspec.structs.replace(START, engine={"max_num_seqs": 256})
    keep(with_(kv_cache_dtype="fp8"), (own, 100.0), (with_(kv_cache_dtype="fp8"), 130.0), effect=None)
    assert planned(model)[0] == {}
    assert planned(model, "kv_cache_dtype")[0] == {"kv_cache_dtype": "fp8"}


@pytest.mark.parametrize(
    "effect",
    [{}, {"rows": "many"}, {"equal_rows": 7.0}, {"equal_tokens": -1}, {"log_likelihood": 1e300}, {"rows": None},
     {"log_likelihood": "x"}, [], 3],
)  # fmt: skip
def test_an_effect_that_tune_does_not_write_makes_no_finding(model: Path, keep: Any, effect: Any) -> None:
    file = keep(START, (START, 100.0), (with_(**FP8), 130.0))
    finding = json.loads(file.read_bytes())
    kept = finding["trials"][1]["effect"]
    finding["trials"][1]["effect"] = {**kept, **effect} if effect and isinstance(effect, dict) else effect
    file.write_text(json.dumps(finding))
    assert "is not a valid finding of tune" in planned(model, "quantization")[1]


@pytest.mark.parametrize(
    "engine", [{"quantization": 7}, {"quantization": None}, {"speculative_config": "x"}, {"a": {}}]
)
def test_a_finding_with_odd_arguments_stops_no_plan(model: Path, keep: Any, engine: dict[str, Any]) -> None:
    keep(START, (START, 100.0), (with_(**engine), 130.0))
    assert planned(model)[0] == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [({"allow": ["quantization"]}, "--allow quantization is for what is tried: add it to --sweep"),
     ({"sweep": ("speculation",), "engine": NGRAM}, "--engine speculative_config and --sweep speculation contradict"),
     ({"sweep": ("quantization",), "engine": FP8}, "--engine quantization and --sweep quantization contradict"),
     ({"sweep": ("speculation", "suffix")}, "--sweep suffix is not known")],
)  # fmt: skip
def test_what_is_not_tried_is_refused(model: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        tune(str(model), scheduler="local", **options)


def test_trials_say_what_they_change(capsys: pytest.CaptureFixture[str]) -> None:
    with following() as told:
        told.end(Trial(setting=with_(**FP8), tokens_per_s=9.0, effect=EFFECT))
        told.end(Trial(setting=START, tokens_per_s=9.0))
    changing, plain = capsys.readouterr().err.splitlines()
    assert changing.endswith(f"9.0 output tokens/s; {EFFECT}") and plain.endswith("tokens/s")


@pytest.fixture
def faked(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that run nothing: fp8 weights are faster, and their answers another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(desk / "cache"))

    def run(bench: object, setting: Setting) -> Trial:
        return Trial(setting=setting, tokens_per_s=130.0 if "quantization" in setting.engine else 100.0, seconds=20.0)

    def answers(bench: object, setting: Setting, more: dict[str, Any], rows: Path) -> list[Row]:
        token = 7 if "quantization" in setting.engine else 5
        return [row(one["id"], [5, token], -0.5) for one in iter_jsonl(rows)]

    monkeypatch.setattr(TrialBench, "run", run)
    monkeypatch.setattr(TrialBench, "answers", answers)


TUNE = ("tune", "./model", "--scheduler", "local", "--nodes", "1", "--gpus-per-node", "1", "--rows", "4")


@pytest.mark.usefixtures("faked")
@pytest.mark.parametrize("allow", [(), ("--allow", "quantization")])
def test_tune_stores_what_a_change_does_and_plan_says_it(model: Path, run_cli: Cli, allow: tuple[str, ...]) -> None:
    swept = (*TUNE, "--job-dir", model.parent / "runs", "--sweep", "quantization,speculation", *allow)
    outcome = run_cli(*swept)
    assert outcome.code == 0, outcome.err
    would = "1.30 times as fast with quantization fp8; of 4 greedy answers 0% are equal, and 50% of their tokens stand"
    assert (would in outcome.out) == (not allow)
    assert ("quantization fp8: 1.30 times the planner's own choice" in outcome.out) == bool(allow)
    plan = ("plan", "./model", "--scheduler", "local", "--gpus-per-node", "1", "--json")
    assert "quantization" not in json.loads(run_cli(*plan).out)["engine"]
    assert "--allow quantization would take" in run_cli(*plan).out
    assert json.loads(run_cli(*plan, "--allow", "quantization").out)["engine"]["quantization"] == "fp8"
    prepared = prepare("./model", scheduler="local", gpus_per_node=1)
    assert any(note.startswith("--allow quantization would take quantization fp8: 1.30") for note in prepared.notes)
    prepared = prepare("./model", scheduler="local", gpus_per_node=1, allow=["quantization"])
    assert (prepared.plan.engine["quantization"], prepared.notes) == ("fp8", ())


@pytest.mark.parametrize(
    ("line", "words"),
    [("--allow quantization would take fp8", "allow='quantization' would take fp8"),
     ("--allow quantization,speculation: no", "allow='quantization,speculation': no"),
     ("--allow speculation: nothing to take, since --engine speculative_config is given",
      "allow='speculation': nothing to take, since engine['speculative_config'] is given"),
     ("--sweep speculation contradict", "sweep='speculation' contradict")],
)  # fmt: skip
def test_python_says_it_in_its_words(line: str, words: str) -> None:
    assert python_words(line) == words


def test_a_measured_choice_takes_the_estimates_place() -> None:
    estimate = EngineChoice(
        key="quantization", allow="quantization", engine=FP8, gain_low=1.2, gain_high=1.5, basis="estimate", answers=""
    )  # fmt: skip
    trials = tuple(
        Trial(setting=one, tokens_per_s=rate, effect=EFFECT) for one, rate in ((START, 100.0), (with_(**FP8), 140.0))
    )
    finding = TuneFinding(model="m", device="h200", best=START, trials=trials, made_at=0.0)
    (found,) = with_measured([estimate], finding, START)
    assert (found.gain_low, found.gain_high, found.answers) == (1.4, 1.4, str(EFFECT))
    assert found.basis.startswith("measured by tune on 19")
    other = msgspec.structs.replace(estimate, engine=NGRAM)
    assert with_measured([other], finding, START) == (other,)


def test_rows_to_compare_are_run_as_they_are(model: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the options that made prompts of them, and in a job of their file's name."""
    (desk / "in.jsonl").write_text('{"question": "a"}\n')
    given = make_request({
        "model": str(model), "scheduler": "local", "gpus_per_node": 1, "input": "in.jsonl", "prompt_column": "question",
        "job_dir": str(desk / "runs"), "max_tokens": 4, "engine": {"max_num_seqs": 64, "max_num_batched_tokens": 8192},
    })  # fmt: skip
    job = resolve_at(Given(given), Profile())
    subject = find_subject(job, make_plan(job))
    assert subject is not None
    bench = TrialBench(job, subject, START, RandomRows(), lambda *_: None, lambda _: None)
    assert [one["prompt"] for one in bench.rows()] == ["a"]
    asked: list[Any] = []

    def finished(bench: object, resolved: Any, setting: Setting) -> Any:
        asked.append(resolved.request)
        folder = desk / "done"
        folder.mkdir(exist_ok=True)
        (folder / "outputs.jsonl").write_text(json.dumps(outputs) + "\n")
        return SimpleNamespace(path=folder, collect=lambda: None), SimpleNamespace(state="FAILED", reason="")

    monkeypatch.setattr(TrialBench, "_finished", finished)
    outputs: Row = {"id": "row-0"}
    assert bench.answers(with_(**FP8), {"max_num_seqs": 32}, desk / "answers-1.jsonl") == [outputs]
    (request,) = asked
    assert (request.prompt_column, request.name, Path(request.input).name) == (None, "answers-1", "answers-1.jsonl")
    # The comparison's own limits hold: prompt_logprobs take memory by the tokens of a step.
    assert request.engine == {"max_num_seqs": 32, "max_num_batched_tokens": 8192, **FP8}
    outputs = {"id": "row-0", "error": {"message": "too long"}}
    with pytest.raises(NotAnsweredError, match=r"^done ended FAILED without an answer, the first: too long$"):
        bench.answers(with_(**FP8), {}, desk / "answers-2.jsonl")


def test_a_comparison_that_cannot_be_submitted_says_why(model: Path, desk: Path) -> None:
    given = {"model": str(model), "scheduler": "local", "gpus_per_node": 1, "job_dir": str(desk / "runs")}
    job = resolve_at(Given(make_request(given)), Profile())
    subject = find_subject(job, make_plan(job))
    assert subject is not None
    bench = TrialBench(job, subject, START, RandomRows(4), lambda *_: None, lambda _: None)
    with pytest.raises(NotAnsweredError, match=r"answers-1\.jsonl"):
        bench.answers(with_(**FP8), {}, desk / "answers-1.jsonl")


@pytest.mark.ranks
@pytest.mark.full
def test_a_rehearsed_sweep_of_what_changes_answers(model: Path, tmp_path: Path, run_cli: Cli) -> None:
    """A rehearsal's answers are those of its rows, whatever the setting; it tells no log probabilities."""
    outcome = run_cli(
        "tune", model, "--sweep", "quantization", "--allow", "quantization", "--rows", "8", "--prompt-tokens", "8",
        "--max-tokens", "8", "--rehearse", "--scheduler", "local", "--tp", "1", "--job-dir", tmp_path, "--name", "t",
        "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    trials = json.loads(outcome.out)["trials"]
    assert trials[1]["setting"]["engine"]["quantization"] == "fp8"
    assert trials[1]["effect"] == {
        "rows": 8, "equal_rows": 1.0, "equal_tokens": 1.0, "log_likelihood": None, "own_log_likelihood": None,
    }  # fmt: skip
    jobs = {"answers-1", "answers-2", "trial-1", "trial-2"}
    assert jobs <= {one.name for one in (tmp_path / "t").iterdir()}
    out = list(iter_jsonl(tmp_path / "t" / "answers-1" / "outputs.jsonl"))
    assert out[0]["prompt_token_ids"] == list(range(8))


@pytest.mark.vllm
@pytest.mark.full
def test_speculation_and_an_fp8_cache_on_the_cpu(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On real vLLM: n-gram speculation gives the same greedy answers, and finds them as likely; fp8 does not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = tune(
        str(tiny), sweep=("kv_cache_dtype", "speculation"), rows=8, prompt_tokens=8, scheduler="local", tp=1,
        job_dir=str(tmp_path), max_tokens=16, engine={"dtype": "float32"},
    )  # fmt: skip
    effects = {tuple(one.setting.changes): one.effect for one in done.finding.trials if one.setting.changes}
    ngram, cache = effects["speculation",], effects["kv_cache_dtype",]
    assert ngram is not None and cache is not None
    assert (ngram.equal_rows, ngram.equal_tokens) == (1.0, 1.0)
    assert ngram.log_likelihood is not None
    assert ngram.log_likelihood == pytest.approx(ngram.own_log_likelihood, abs=1e-3)
    assert cache.log_likelihood is not None and cache.own_log_likelihood is not None
    assert cache.log_likelihood < cache.own_log_likelihood
    assert not done.finding.best.changes, "nothing was allowed"
