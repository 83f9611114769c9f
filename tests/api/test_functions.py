"""The functions of vllm_hpc: every option written out, with the command line's names and defaults."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

import vllm_hpc
from tests.conftest import Cli
from tests.crafted import make_folder
from tests.published_models import PUBLISHED
from vllm_hpc.api.errors import python_words
from vllm_hpc.api.options import Options
from vllm_hpc.api.signatures import help_lines
from vllm_hpc.cli.options import REQUEST_OPTIONS
from vllm_hpc.spec.errors import JobNotFoundError, RequestError
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.sampling import DEFAULT_MAX_TOKENS

pytestmark = pytest.mark.notebooks
FUNCTIONS: list[Callable[..., Any]] = [vllm_hpc.submit, vllm_hpc.plan, vllm_hpc.render, vllm_hpc.prepare, vllm_hpc.tune]
ONLY_PYTHON = {"prompt", "id", "keep", "sample", "queue", "pass_env"}
OF_SAMPLING = "it is a parameter of sampling: write it into sampling=, as {'top_k': ...}"
REHEARSED: dict[str, Any] = {"rehearse": True, "scheduler": "slurm", "nodes": 1, "tp": 1}


@pytest.fixture
def rows(desk: Path) -> str:
    (desk / "in.txt").write_text("a\nb\n")
    return "in.txt"


def of_command_line() -> set[str]:
    @click.command()
    def command() -> None: ...

    for option in REQUEST_OPTIONS:
        option(command)
    names = {str(parameter.name) for parameter in command.params}
    assert len(names) > 50
    return names - {"model"}


def test_no_option_is_forgotten() -> None:
    assert set(Options.__annotations__) == of_command_line() | ONLY_PYTHON
    assert set(Options.__annotations__) >= set(Request.__struct_fields__) - {"model"}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.__name__)
def test_a_signature_has_every_option(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    assert next(iter(parameters)) == "model"
    assert set(parameters) >= set(Options.__annotations__)
    for name in Options.__annotations__:
        assert (parameters[name].kind, parameters[name].default) == (inspect.Parameter.KEYWORD_ONLY, None)
        assert re.search(rf"^    {name}: \S", function.__doc__ or "", re.MULTILINE), name


def test_the_defaults_in_the_help_are_those_of_a_request() -> None:
    defaults = {field.name: field.default for field in msgspec.structs.fields(Request)} | {
        "max_tokens": DEFAULT_MAX_TOKENS
    }
    said = {name: found[1] for name, line in help_lines().items() if (found := re.search(r"Default: (\d+)\.", line))}
    assert said == {name: str(defaults[name]) for name in ("max_tokens", "seed", "max_requeues")}


def test_dir_is_what_is_public() -> None:
    assert dir(vllm_hpc) == sorted(vllm_hpc.__all__)
    assert all(getattr(vllm_hpc, name) is not None for name in vllm_hpc.__all__)


@pytest.mark.full  # mypy reads all that the annotations name
def test_a_type_checker_sees_a_wrong_option(tmp_path: Path) -> None:
    from mypy import api as mypy  # slow to import

    code = tmp_path / "code.py"
    code.write_text(
        'import vllm_hpc\nvllm_hpc.submit("demo", max_tokens=3)\nvllm_hpc.submit("demo", max_tokns=3)\n'
        'vllm_hpc.sweep("demo", max_tokens=[3])\nvllm_hpc.sweep("demo", max_tokns=[3])\n'
    )
    out, _, _ = mypy.run([str(code), "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"])
    assert [line.split(" ", 1)[1] for line in out.splitlines() if ": error: " in line] == [
        f'error: Unexpected keyword argument "max_tokns" for "{name}"; did you mean "max_tokens"?  [call-arg]'
        for name in ("submit", "sweep")
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_tokns": 3}, "max_tokns= is not an option: did you mean max_tokens=?"),
        ({"adapter": "x"}, "adapter= is not an option: use lora="),
        ({"top_k": 3}, f"top_k= is not an option: {OF_SAMPLING}"),
        ({"qqqqq": 3}, "qqqqq= is not an option"),
    ],
    ids=["near", "known", "sampling", "unknown"],
)
def test_an_option_that_is_none_is_named(options: dict[str, Any], said: str) -> None:
    for function in (vllm_hpc.submit, vllm_hpc.plan, vllm_hpc.render, vllm_hpc.prepare, vllm_hpc.tune):
        with pytest.raises(RequestError) as caught:
            function("demo", **options)
        assert str(caught.value) == said


def test_a_job_without_an_input_is_asked_for(desk: Path, model: Path) -> None:
    with pytest.raises(RequestError, match=r"^input= is missing: .* two sample prompts, which sample=True asks for$"):
        vllm_hpc.submit(str(model), scheduler="slurm", nodes=1, tp=1)
    assert not (desk / "runs").exists()
    with pytest.warns(UserWarning, match="two sample prompts"):
        vllm_hpc.prepare(str(model), scheduler="slurm", nodes=1, tp=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        vllm_hpc.plan(str(model), scheduler="slurm", nodes=1, tp=1)
        job = vllm_hpc.submit(model, scheduler="slurm", nodes=1, tp=1, sample=True)
    assert job.folder.job().rows == 2


def test_samples_and_an_input_contradict_each_other(rows: str) -> None:
    with pytest.raises(RequestError, match="sample=True is for a job without input="):
        vllm_hpc.prepare(**REHEARSED, input=rows, sample=True)


def test_the_command_line_says_that_it_runs_samples(desk: Path, model: Path, run_cli: Cli, rows: str) -> None:
    at = ("submit", model, "--scheduler", "slurm", "--nodes", "1", "--tp", "1")
    assert "Note: without --input, two sample prompts are run" in run_cli(*at).err
    assert "sample" not in run_cli(*at, "--input", rows).err


def test_notes_reach_whoever_plans_and_renders(rows: str) -> None:
    options: dict[str, Any] = {**REHEARSED, "scheduler": "local", "input": rows, "partition": "gpu"}
    for function in (vllm_hpc.plan, vllm_hpc.render, vllm_hpc.prepare):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            function(**options)
        assert [str(one.message) for one in told] == ["partition: not used by the local scheduler"]
        assert Path(told[0].filename).name == Path(__file__).name


def test_a_script_is_the_text_that_is_submitted(rows: str) -> None:
    options: dict[str, Any] = {**REHEARSED, "input": rows, "name": "first"}
    script = vllm_hpc.render(**options)
    assert str(script) == script.text == vllm_hpc.prepare(**options).script
    assert script.name == "script.sbatch"


def test_a_plan_is_that_of_the_command_line(run_cli: Cli, rows: str) -> None:
    plan = vllm_hpc.plan(**{**REHEARSED, "input": rows, "nodes": 2, "tp": 16})
    told = run_cli(
        "plan", "--rehearse", "--scheduler", "slurm", "--nodes", "2", "--tp", "16", "--input", rows, "--json"
    )
    said = json.loads(told.out)
    said["reasons"] = [python_words(reason) for reason in said["reasons"]]
    assert said == json.loads(msgspec.json.encode(plan.to_json()))


def test_jobs_are_listed(rows: str) -> None:
    vllm_hpc.submit(**REHEARSED, input=rows, name="first")
    assert [job.path.name for job in vllm_hpc.list_jobs()] == ["first"]
    assert vllm_hpc.find_job("first", job_dir=Path("runs")).path == vllm_hpc.list_jobs(Path("runs"))[0].path


def test_a_plan_speaks_python(desk: Path, rows: str) -> None:
    (big,) = (model for model in PUBLISHED if model.name == "Llama-3.1-70B")
    make_folder(desk / "big", big.config)
    misfit = vllm_hpc.plan("big", scheduler="slurm", input=rows, tp=1, pp=1, gpu="a100-40").misfit
    assert misfit is not None
    assert re.search(r": try nodes=\d gpus_per_node=\d tp=\d pp=\d dp=1$", misfit)
    native: dict[str, Any] = {"scheduler": "slurm", "input": rows, "launcher": "native", "gpu": "h100-80", "nodes": 2}
    for plan in (vllm_hpc.plan("big", **native), vllm_hpc.prepare("big", **native, name="first").plan):
        assert any(reason.startswith("launcher='native': vLLM's mp back-end") for reason in plan.reasons), plan.reasons
        assert not any(re.search(r"(^| )--[a-z]", reason) for reason in plan.reasons)


@pytest.mark.parametrize(
    ("job", "what"), [(None, "None"), (b"first", "a bytes"), (1.5, "a float"), (True, "a bool"), (["first"], "a list")]
)
def test_what_is_no_job_is_named(desk: Path, job: Any, what: str) -> None:
    for function in (vllm_hpc.find_job, vllm_hpc.attach):
        with pytest.raises(JobNotFoundError, match=f"^a job must be .* its name or its id, not by {what}$"):
            function(job)
