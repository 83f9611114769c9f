"""The command line: one-line refusals that leave nothing, exit codes, and the JSON that people script against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from tests.conftest import Cli, Outcome
from tests.crafted import make_array, make_job
from tests.published_models import SMALL_CONFIG
from vllm_hpc.cli import COMMANDS

INPUTS: dict[str, bytes] = {
    "good.jsonl": b'{"prompt": "a"}\n',
    "broken.jsonl": b'{"prompt": "a"}\n\n{"prompt": \n',
    "empty.jsonl": b"",
    "blank.txt": b"\n \r\n",
    "duplicate.jsonl": b'{"id": "x", "prompt": "a"}\n{"id": "x", "prompt": "b"}\n',
    "latin1.txt": b"one\ncaf\xe9\n",
    "fields.jsonl": b'{"question": "a"}\n',
    "two\nlines.jsonl": b"{",
    "red\x1b[31m.jsonl": b"{",
    "picture.png": b"\x89PNG\r\n",
    "vllm-hpc.toml": b"[profiles.good]\ngpus_per_node = 8\n[profiles.bad]\nnodes = 2\n[profiles.wrong]\nmem = 3\n"
    b'[profiles.two_lines]\npartition = "a\\nrm -rf x"\n[profiles.lost]\ntemplate_dir = "nowhere"\n',
}


class Case(NamedTuple):
    """Arguments of submit after the model (or all of them, with ``whole``), and what the one line must say."""

    args: tuple[str, ...]
    said: str
    whole: bool = False


def option(*args: str, said: str) -> Case:
    return Case(args, said)


def whole(*args: str, said: str) -> Case:
    return Case(args, said, whole=True)


REFUSED: dict[str, Case] = {
    # usage
    "unknown option": option("--nodez", "2", said="--nodez"),
    "unknown command": whole("sumbit", "model", said="sumbit"),
    "no model": whole("submit", said="MODEL"),
    "no job": whole("status", "nope", said="nope"),
    "no job to collect": whole("collect", "nope", said="nope"),
    "no job to cancel": whole("cancel", "nope", said="nope"),
    "no job for logs": whole("logs", "nope", said="nope"),
    "logs without a job": whole("logs", said="JOB"),
    "too many arguments": option("another", said="another"),
    "nodes of text": option("--nodes", "two", said="--nodes"),
    "half a node": option("--nodes", "1.5", said="--nodes"),
    "no nodes": option("--nodes", "0", said="--nodes"),
    "nodes without a value": option("--nodes", said="--nodes"),
    "empty number": option("--tp", "", said="--tp"),
    "negative tp": option("--tp", "-1", said="--tp"),
    "more nodes than atoms": option("--nodes", "9" * 30, said="--nodes"),
    "temperature of text": option("--temperature", "hot", said="--temperature"),
    "temperature nan": option("--temperature", "nan", said="--temperature"),
    "top-p above one": option("--top-p", "1.5", said="--top-p"),
    "negative seed": option("--seed", "-1", said="--seed"),
    "scheduler that is none": option("--scheduler", "lsf", said="--scheduler"),
    "sampling without =": option("--sampling", "temperature", said="K=V"),
    "sampling without a key": option("--sampling", "=1", said="K=V"),
    "sampling given twice": option("--sampling", "top_p=1", "--top-p", "1", said="--top-p"),
    "engine that is planned": option("--engine", "tensor_parallel_size=2", said="--tp"),
    "engine value nested too deep": option("--engine", "x=" + "[" * 50_000, said="--engine"),
    "sampling NaN": option("--sampling", "min_p=NaN", said="min_p"),
    "sampling below zero": option("--sampling", "temperature=-3", said="0 or more"),
    "env without =": option("--env", "A", said="K=V"),
    "env that is no name": option("--env", "1A=x", said="1A"),
    "env with a secret": option("--env", "HF_TOKEN=hunter2", said="HF_TOKEN"),
    "env that the script itself needs": option("--env", "job=/tmp/x", said="job cannot be set"),
    "env of the scheduler": option("--env", "SLURM_JOB_ID=7", said="SLURM_JOB_ID cannot be set"),
    "join timeout of text": option("--env", "VLLM_HPC_JOIN_TIMEOUT=abc", said="seconds"),
    "directive with a secret": option("--directive", "--export=API_KEY=hunter2", said="API_KEY=..."),
    "directive that makes an array": option("--directive", "--array=0-3", said="use --array"),
    "directive with its prefix": option("--directive", "#SBATCH --exclusive", said="what follows"),
    "env of two lines": option("--env", "A=x\ny", said="--env"),
    "partition of two lines": option("--partition", "a\nb", said="--partition"),
    "account with a tab": option("--account", "a\tb", said="--account"),
    "directive of two lines": option("--directive", "-A x\nrm -rf x", said="--directive"),
    "time in words": option("--time", "soon", said="--time"),
    "no time": option("--time", "0", said="--time"),
    "mem in words": option("--mem", "lots", said="--mem"),
    # input
    "missing input": option("--input", "nope.jsonl", said="nope.jsonl"),
    "broken JSON": option("--input", "broken.jsonl", said="broken.jsonl:3: "),
    "empty input": option("--input", "empty.jsonl", said="empty.jsonl"),
    "blank input": option("--input", "blank.txt", said="blank.txt"),
    "duplicate ids": option("--input", "duplicate.jsonl", said="duplicate.jsonl:2: "),
    "input in latin-1": option("--input", "latin1.txt", said="latin1.txt:2: "),
    "input with other fields": option("--input", "fields.jsonl", said="fields.jsonl:1: "),
    "input of another kind": option("--input", "picture.png", said="picture.png"),
    "input that is a folder": option("--input", "model", said="model"),
    "input without a name": option("--input", "", said="input"),
    "input with a name too long": option("--input", "x" * 300 + ".jsonl", said="input"),
    "input of nobody's home": option("--input", "~no-such-user/in.jsonl", said="no-such-user"),
    "broken JSON in a file of two lines": option("--input", "two\nlines.jsonl", said="lines.jsonl:1: "),
    "broken JSON in a file with an escape sequence": option("--input", "red\x1b[31m.jsonl", said=".jsonl:1: "),
    "input with a newline": option("--input", "a\nb.jsonl", said="input"),
    # model
    "no such model": whole("submit", "no-model", said="no-model"),
    "model folder without config": whole("submit", "bin", said="config.json"),
    "model that is a file": whole("submit", "good.jsonl", said="good.jsonl"),
    "model without a name": whole("submit", "", said="MODEL"),
    "model with a name too long": whole("submit", "x" * 300, said="model"),
    "model of nobody's home": whole("submit", "~no-such-user/model", said="no-such-user"),
    "model with a newline": whole("submit", "a\nb", said="model"),
    "model like a path into nothing": whole("submit", "a/b/c", said="a/b/c"),
    # layout
    "layout that does not fit": option("--nodes", "3", "--tp", "16", said="--nodes 4"),
    "layout over capacity": option("--profile", "good", "--nodes", "1", "--tp", "16", said="16"),
    "gpus over capacity": option("--profile", "good", "--gpus-per-node", "9", said="--gpus-per-node 8"),
    "local on two nodes": option("--scheduler", "local", "--nodes", "2", "--tp", "2", said="--nodes 1"),
    # profile and templates
    "no such profile": option("--profile", "nope", said="nope"),
    "profile with an unknown key": option("--profile", "bad", said="vllm-hpc.toml:4: "),
    "profile with a wrong type": option("--profile", "wrong", said="vllm-hpc.toml:6: "),
    "profile with a second line": option("--profile", "two_lines", said="vllm-hpc.toml:8: "),
    "profile with no template folder": option("--profile", "lost", said="vllm-hpc.toml:10: "),
    "template of another scheduler": option("--template", "local.sh.j2", said="--scheduler local"),
    "template of another, asked for": option(
        "--template", "slurm.sbatch.j2", "--scheduler", "local", said="for --scheduler slurm"
    ),
    "packaged template of another": option("--template", "packaged/local.sh.j2", said="--scheduler local"),
    "template of macros": option("--template", "_torchrun.sh.j2", said="not a script"),
    "no such template": option("--template", "nope.j2", said="nope.j2"),
    "no such template folder": option("--template-dir", "nope", said="nope"),
    "template that is no template": option("--template-dir", "odd", said="slurm.sbatch.j2:2: "),
    # job definition
    "bad job.toml": whole("submit", "bad-definition", said="job.toml"),
    "job.toml with an unknown key": whole("submit", "unknown-key", said="'gpus'"),
    "job.toml with a wrong type": whole("submit", "wrong-type", said="job.toml"),
    "job.toml whose input is missing": whole("submit", "lost-input", said="lost-input/nope.jsonl"),
    # names and folders
    "name that exists": option("--name", "taken", said="taken"),
    "name with a newline": option("--name", "a\nb", said="--name"),
    "name with a slash": option("--name", "a/b", said="--name"),
    "name that goes up": option("--name", "..", said="--name"),
    "name that is here": option("--name", ".", said="--name"),
    "hidden name": option("--name", ".x", said="--name"),
    "empty name": option("--name", "", said="--name must not be empty"),
    "file of a job definition": whole("submit", "job/job.toml", said="name its folder, 'job'"),
    "definition that is a file": whole("submit", "exp.toml", said="a job definition is a folder with a job.toml"),
    "empty folder": whole("submit", "void", said="a model has a config.json, a job definition a job.toml"),
    "blank name": option("--name", "  ", said="--name"),
    "name like a job id": option("--name", "197", said="job id"),
    "name with a space at its end": option("--name", "x ", said="--name"),
    "name that a shell expands": option("--name", "*", said="--name"),
    "name that is a home": option("--name", "~", said="--name"),
    "name that reads backwards": option("--name", "a\u202eb", said="--name"),
    "name with %j": option("--name", "run-%j", said="%j"),
    "name like an option": option("--name", "-x", said="--name"),
    "name of 300 bytes": option("--name", "x" * 300, said="--name"),
    "name that is not UTF-8": option("--name", "a\udcffb", said="--name"),
    "name with an escape sequence": option("--name", "a\x1b[31m", said="--name"),
    "job-dir that is a file": option("--job-dir", "good.jsonl", said="--job-dir"),
    "job-dir inside a file": option("--job-dir", "good.jsonl/runs", said="--job-dir"),
    "job-dir with a newline": option("--job-dir", "a\nb", said="--job-dir"),
    "job-dir with %A": option("--job-dir", "%A", said="%A"),
    "job-dir that nobody can make": option("--job-dir", "/proc/runs", said="--job-dir"),
    "job-dir with a name too long": option("--job-dir", "x" * 300, said="--job-dir"),
    "job-dir of nobody's home": option("--job-dir", "~no-such-user", said="no-such-user"),
    "empty job-dir": option("--job-dir", "", said="--job-dir"),
    "job with a name too long": whole("status", "x" * 300, said="job"),
    "job of nobody's home": whole("status", "~no-such-user/job", said="no-such-user"),
}


@pytest.fixture
def site(desk: Path, model: Path) -> Path:
    """A working directory with everything that people get wrong."""
    for name, content in INPUTS.items():
        (desk / name).write_bytes(content)
    (desk / "runs" / "taken").mkdir(parents=True)
    (desk / "odd").mkdir()
    (desk / "void").mkdir()
    (desk / "job").mkdir()
    for definition in ("job/job.toml", "exp.toml"):
        (desk / definition).write_text('model = "../model"\n')
    (desk / "odd" / "slurm.sbatch.j2").write_text("#!/bin/sh\n{% if %}\n")
    for name, text in {
        "bad-definition": "model = demo\n",
        "unknown-key": 'model = "../model"\ngpus = 2\n',
        "wrong-type": 'model = "../model"\nnodes = "two"\n',
        "lost-input": 'model = "../model"\ninput = "nope.jsonl"\n',
    }.items():
        (desk / name).mkdir()
        (desk / name / "job.toml").write_text(text)
    return desk


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def check_refused(outcome: Outcome, said: str) -> None:
    assert outcome.err.startswith("Error: "), outcome
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.isprintable() or outcome.err[:-1].isprintable(), "no control characters reach the terminal"
    assert said in outcome.err, outcome.err
    assert (outcome.code, outcome.out) == (2, "")


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_refusal_is_one_line_and_leaves_nothing(site: Path, run_cli: Cli, case: Case) -> None:
    before = snapshot(site)
    outcome = run_cli(*case.args) if case.whole else run_cli("submit", "model", *case.args)
    check_refused(outcome, case.said)
    assert snapshot(site) == before
    assert "hunter2" not in outcome.err


@pytest.mark.parametrize("command", ["plan", "render"])
@pytest.mark.parametrize("name", ["layout that does not fit", "bad job.toml", "no such model", "nodes of text"])
def test_plan_and_render_refuse_alike(site: Path, run_cli: Cli, command: str, name: str) -> None:
    case = REFUSED[name]
    before = snapshot(site)
    check_refused(run_cli(command, *(case.args[1:] if case.whole else ("model", *case.args))), case.said)
    assert snapshot(site) == before


def test_no_command_shows_the_help_and_exits_2(run_cli: Cli) -> None:
    outcome = run_cli()
    assert outcome.code == 2
    assert "Usage: " in outcome.out + outcome.err
    assert all(command in outcome.out + outcome.err for command in COMMANDS)


def test_a_generated_name_of_a_long_model_name_is_refused_or_works(desk: Path, run_cli: Cli) -> None:
    model = desk / ("m" * 250)
    model.mkdir()
    (model / "config.json").write_text(json.dumps(SMALL_CONFIG))
    outcome = run_cli("render", model)
    assert outcome.code == 0 or (outcome.code == 2 and outcome.err.count("\n") == 1 and "--name" in outcome.err)


@pytest.mark.parametrize("name", ["weights-%j", "a\nb"])
def test_a_model_folder_whose_name_makes_no_job_name_asks_for_one(desk: Path, run_cli: Cli, name: str) -> None:
    model = desk / name
    model.mkdir()
    (model / "config.json").write_text(json.dumps(SMALL_CONFIG))
    check_refused(run_cli("render", model), "--name")
    assert run_cli("render", model, "--name", "run").code == 0


def test_the_same_holds_for_a_process_and_bytes_that_are_no_text(desk: Path, model: Path) -> None:
    command: list[str | bytes] = [sys.executable, "-m", "vllm_hpc", "submit", "model", "--name", b"\xff", "--tp", "2"]
    done = subprocess.run(command, capture_output=True, cwd=desk)
    check_refused(Outcome(done.returncode, done.stdout.decode(), done.stderr.decode()), "--name")
    assert not (desk / "runs").exists()


def in_process_of_its_own(*args: str, stdout: Any = subprocess.PIPE, encoding: str = "utf-8") -> tuple[int, bytes, str]:
    """Exit code, stdout and stderr of ``python -m vllm_hpc ARGS``, with standard streams of that encoding."""
    done = subprocess.run(
        [sys.executable, "-m", "vllm_hpc", *args],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    return done.returncode, done.stdout, done.stderr.decode(encoding)


@pytest.mark.parametrize("command", [["render"], ["plan"], ["plan", "--json"]], ids=str)
def test_an_output_that_cannot_be_written_is_one_line(model: Path, command: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, err = in_process_of_its_own(*command, "model", stdout=full)
    assert code == 1
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "args", [["plan", "model"], ["plan", "model", "--json"], ["plan", "model", "--nodes", "0"]], ids=str
)
def test_a_terminal_without_unicode_shows_plans_too(model: Path, args: list[str]) -> None:
    code, out, err = in_process_of_its_own(*args, encoding="ascii")
    assert "Traceback" not in err
    assert bool(out) == (code == 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_render_gives_the_bytes_of_the_script_whatever_the_locale(model: Path, encoding: str) -> None:
    code, out, err = in_process_of_its_own("render", "model", "--name", "é", encoding=encoding)
    assert (code, err) == (0, "")
    assert '--job-name="é"'.encode() in out


def test_plan_json(model: Path, desk: Path, run_cli: Cli) -> None:
    before = snapshot(desk)
    outcome = run_cli("plan", "model", "--nodes", "2", "--tp", "16", "--engine", "max_model_len=4096", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    plan = json.loads(outcome.out)
    assert set(plan) == {
        "nodes", "gpus_per_node", "procs_per_node", "tp", "pp", "attention_dp", "dp", "world_size", "fits", "reasons",
        "memory", "engine", "kv_tokens", "concurrency", "runners_up", "choices", "order", "model", "cost",
    }  # fmt: skip
    assert set(plan["memory"]) == {"weights_gib", "kv_gib_per_gpu", "per_gpu_gib", "gpu_gib", "weights_gib_per_gpu"}
    assert (plan["nodes"], plan["procs_per_node"], plan["world_size"]) == (2, 8, 16)
    assert plan["engine"] == {"max_model_len": 4096}
    assert snapshot(desk) == before


def test_plan_for_people_says_layout_and_reasons(model: Path, run_cli: Cli) -> None:
    outcome = run_cli("plan", "model", "--nodes", "2", "--tp", "16")
    assert outcome.code == 0
    assert "TP 16 × PP 1 × DP 1 = 16" in outcome.out
    assert "sbatch" in outcome.out, "auto says which scheduler, and why"


def test_plan_for_people_counts_the_ranks_of_all_tasks(model: Path, run_cli: Cli) -> None:
    outcome = run_cli("plan", "model", "--tp", "2", "--dp", "2", "--array")
    assert "TP 2 × PP 1 × DP 2 = 4 ranks, as 2 tasks of 2" in outcome.out
    assert "1 node × 2 GPUs, 2 ranks on each, for each task" in outcome.out
    assert "task" not in run_cli("plan", "model", "--tp", "2", "--dp", "2").out


# What squeue says, look by look: each line is repeated once, and the expected start moves on.
SQUEUE = """#!/bin/sh
echo >> {0}/looks
case $(wc -l < {0}/looks) in
  1|2) echo "4711|PENDING|Priority|N/A" ;;
  *) echo "4711|PENDING|PartitionTimeLimit|2026-01-01T00:00:0$(wc -l < {0}/looks)" ;;
esac
"""


def test_waiting_says_why_where_stderr_is_no_terminal(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "bin" / "squeue").write_text(SQUEUE.format(desk))
    (desk / "bin" / "squeue").chmod(0o755)
    pauses = iter(range(4))

    def sleep(seconds: float) -> None:
        if next(pauses, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("vllm_hpc.api.live.time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    outcome = run_cli("submit", "model", "--name", "run", "--wait")
    assert outcome.code == 130
    assert outcome.err.endswith("\nInterrupted: the job continues: vllm-hpc watch run\n")
    pending = [line for line in outcome.err.splitlines() if line.startswith("PENDING: ")]
    assert [line.split(",")[0].split()[2].strip(":") for line in pending] == ["Priority", "PartitionTimeLimit"]


def test_render_json(desk: Path, model: Path, run_cli: Cli) -> None:
    outcome = run_cli("render", "model", "--name", "run", "--json")
    shown = json.loads(outcome.out)
    assert set(shown) == {"job", "job_id", "scheduler", "script", "plan"}
    assert (shown["job"], shown["job_id"], shown["scheduler"]) == (str(desk / "runs" / "run"), None, "slurm")
    assert shown["script"] == run_cli("render", "model", "--name", "run").out
    assert not (desk / "runs").exists()


def test_a_template_of_the_sites_own_may_be_called_as_it_likes(desk: Path, model: Path, run_cli: Cli) -> None:
    (desk / "site").mkdir()
    for name in ("ours.j2", "local.j2", "pbs", "slurm.sh.j2"):
        (desk / "site" / name).write_text("#!/bin/sh\n# ours\n")
        options = ["--scheduler", "slurm", "--template-dir", "site", "--template", name]
        assert run_cli("render", "model", *options).out == "#!/bin/sh\n# ours\n"
    assert run_cli("render", "model", "--template", "slurm.sbatch.j2").code == 0


@pytest.mark.parametrize(
    ("scheduler", "name", "said"),
    [
        (
            "pbs",
            "slurm.sbatch.j2",
            "is for --scheduler slurm, but this job is for pbs: leave it out, rename the file, or",
        ),
        ("slurm", "local.sh.j2", "is for --scheduler local"),
        ("local", "pbs.sh.j2", "is for --scheduler pbs"),
        ("slurm", "_torchrun.sh.j2", "has shared macros, not a script"),
    ],
)
def test_a_packaged_templates_name_stays_its_schedulers_in_the_sites_folder(
    desk: Path, model: Path, run_cli: Cli, scheduler: str, name: str, said: str
) -> None:
    (desk / "site").mkdir()
    (desk / "site" / name).write_text("#!/bin/sh\n# ours\n")
    ran = run_cli("render", "model", "--scheduler", scheduler, "--template-dir", "site", "--template", name)
    assert (ran.code, ran.out, said in ran.err) == (2, "", True), ran.err


def test_submit_json_and_the_folder_that_it_makes(desk: Path, model: Path, run_cli: Cli) -> None:
    (desk / "in.jsonl").write_text('\ufeff{"prompt": "a"}\n\n{"id": "x", "prompt": "b", "tag": 1}\n', encoding="utf-8")
    options = ["--input", "in.jsonl", "--nodes", "2", "--tp", "16", "--temperature", "0", "--sampling", "n=2"]
    outcome = run_cli("submit", "model", *options, "--name", "run", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    shown = json.loads(outcome.out)
    assert set(shown) == {"job", "job_id", "scheduler", "script", "plan"}
    folder = desk / "runs" / "run"
    assert (shown["job"], shown["job_id"], shown["scheduler"]) == (str(folder), "4711", "slurm")
    assert (folder / "script.sbatch").read_text() == shown["script"]
    assert [json.loads(line) for line in (folder / "input.jsonl").read_text().splitlines()] == [
        {"index": 0, "id": "0", "prompt": "a"},
        {"index": 1, "id": "x", "prompt": "b", "tag": 1},
    ]
    record = json.loads((folder / "job.json").read_text())
    assert record["model"] == str(model)
    assert record["sampling"] == {"n": 2, "temperature": 0.0}
    assert record["rows"] == 2
    assert (record["version"], record["origins"]["name"]) == (2, "--name")


def test_no_secret_of_the_environment_reaches_the_folder(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hunter2hunter2")
    assert run_cli("submit", "model", "--name", "run").code == 0
    files = [path for path in (desk / "runs").rglob("*") if path.is_file()]
    assert len(files) > 3
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []


def test_a_job_definition_is_copied_and_runs_in_a_new_folder(desk: Path, model: Path, run_cli: Cli) -> None:
    definition = desk / "definition"
    definition.mkdir()
    (definition / "job.toml").write_text('model = "../model"\ninput = "in.txt"\ntp = 2\n')
    (definition / "in.txt").write_text("one\ntwo\n")
    before = snapshot(definition)
    shown = json.loads(run_cli("submit", "definition", "--tp", "4", "--json").out)
    assert snapshot(definition) == before
    folder = Path(shown["job"])
    assert folder.parent == desk / "runs"
    assert folder.name.startswith("model-")
    assert (folder / "job.toml").read_bytes() == (definition / "job.toml").read_bytes()
    assert shown["plan"]["tp"] == 4
    assert len((folder / "input.jsonl").read_text().splitlines()) == 2


def test_two_jobs_of_the_same_second_get_two_names(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_hpc.jobs.submit.time.strftime", lambda text: "20260101-000000")
    jobs = [Path(json.loads(run_cli("submit", "model", "--json").out)["job"]).name for _ in range(3)]
    assert jobs == ["model-20260101-000000", "model-20260101-000000-2", "model-20260101-000000-3"]


@pytest.mark.parametrize(
    ("sbatch", "said"),
    [
        ("echo 'sbatch: error: Invalid account' >&2; echo more >&2; exit 1", "Invalid account"),
        ("exit 3", "exit code 3"),
    ],
    ids=["refused", "silent"],
)
def test_a_scheduler_that_refuses_is_exit_code_1_and_no_folder(
    desk: Path, model: Path, run_cli: Cli, sbatch: str, said: str
) -> None:
    (desk / "bin" / "sbatch").write_text(f"#!/bin/sh\n{sbatch}\n")
    outcome = run_cli("submit", "model", "--name", "run", "--scheduler", "slurm")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("Error: ")
    assert outcome.err.count("\n") == 1
    assert said in outcome.err
    assert not (desk / "runs" / "run").exists()


def test_an_answer_without_an_id_keeps_the_folder(desk: Path, model: Path, run_cli: Cli) -> None:
    """The script was taken, so a job may come of it: its folder must be there, and nobody may think it never was."""
    (desk / "bin" / "sbatch").write_text("#!/bin/sh\necho hello\n")
    outcome = run_cli("submit", "model", "--name", "run", "--scheduler", "slurm")
    assert (outcome.code, outcome.out) == (1, "")
    assert "hello" in outcome.err
    assert "may or may not be submitted" in outcome.err
    assert json.loads(run_cli("status", "run", "--json").out)["state"] == "UNKNOWN"


@pytest.mark.parametrize(
    ("words", "may_be_submitted"),
    [
        ("Batch job submission failed: Socket timed out on send/recv operation", True),
        ("Batch job submission failed: Zero Bytes were transmitted or received", True),
        ("Batch job submission failed: Unexpected message received", True),
        ("Batch job submission failed: Unable to contact slurm controller (receive failure)", True),
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", False),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", False),
    ],
)
def test_a_lost_answer_is_no_refusal(desk: Path, model: Path, run_cli: Cli, words: str, may_be_submitted: bool) -> None:
    (desk / "bin" / "sbatch").write_text(f"#!/bin/sh\necho 'sbatch: error: {words}' >&2; exit 1\n")
    outcome = run_cli("submit", "model", "--name", "run", "--scheduler", "slurm")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert words in outcome.err
    assert ("may or may not be submitted" in outcome.err) == may_be_submitted
    assert (desk / "runs" / "run").exists() == may_be_submitted


def test_a_client_that_was_killed_may_have_submitted(desk: Path, model: Path, run_cli: Cli) -> None:
    (desk / "bin" / "sbatch").write_text("#!/bin/sh\nkill -9 $$\n")
    assert "may or may not be submitted" in run_cli("submit", "model", "--name", "run", "--scheduler", "slurm").err
    assert (desk / "runs" / "run").exists()


def test_no_scheduler_says_what_to_do(desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(desk / "nowhere"))
    outcome = run_cli("submit", "model", "--name", "run", "--scheduler", "slurm")
    assert outcome.code == 1
    assert "sbatch was not found" in outcome.err
    assert "--scheduler local" in outcome.err
    assert not (desk / "runs" / "run").exists()


def test_auto_takes_the_local_machine_where_no_sbatch_is(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(run_cli("render", "model", "--json").out)["scheduler"] == "slurm"
    monkeypatch.setenv("PATH", str(desk / "nowhere"))
    assert json.loads(run_cli("render", "model", "--json").out)["scheduler"] == "local"


def test_auto_does_not_take_the_login_node_where_sbatch_hangs(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a configless cluster even 'sbatch --version' waits for the controller."""
    monkeypatch.setattr("vllm_hpc.schedulers.client.QUERY_TIMEOUT_S", 0.2)
    (desk / "bin" / "sbatch").write_text("#!/bin/sh\nexec sleep 20\n")
    check_refused(run_cli("submit", "model"), "--scheduler local")
    (desk / "bin" / "sbatch").write_text("#!/bin/sh\necho 'no configuration' >&2\nexit 1\n")
    assert json.loads(run_cli("render", "model", "--json").out)["scheduler"] == "local"


@pytest.mark.parametrize("find", [lambda folder: folder, lambda folder: folder.name, lambda folder: "77"])
def test_a_job_is_found_by_folder_name_and_id(desk: Path, run_cli: Cli, find: Callable[[Path], Any]) -> None:
    folder = make_job(desk / "runs" / "run", scheduler="slurm")
    outcome = run_cli("status", find(folder.path), "--json")
    assert outcome.code == 0
    status = json.loads(outcome.out)
    assert status["job"] == str(folder.path)
    assert set(status) == {
        "job", "job_id", "scheduler", "state", "reason", "rows", "tokens_per_s", "eta_s", "attempts",
        "rehearsal", "awaits_resubmission", "program", "has_rows", "created_at", "model", "tokens", "replicas",
        "ends_at",
    }  # fmt: skip
    assert set(status["rows"]) == {"total", "done", "failed"}
    assert status["state"] == "UNKNOWN"


def test_list_and_status_without_a_job_show_all(desk: Path, run_cli: Cli) -> None:
    for name in ("one", "two"):
        make_job(desk / "runs" / name, scheduler="slurm")
    listed = run_cli("list", "--json")
    assert sorted(Path(job["job"]).name for job in json.loads(listed.out)) == ["one", "two"]
    assert run_cli("status", "--json") == listed
    shown = run_cli("list").out
    assert "one" in shown
    assert "two" in shown


def test_no_jobs_is_no_error(run_cli: Cli) -> None:
    assert json.loads(run_cli("list", "--json").out) == []
    assert run_cli("list").code == 0


def test_a_broken_job_folder_is_refused_by_name(desk: Path, run_cli: Cli) -> None:
    folder = make_job(desk / "runs" / "run")
    folder.job_json.write_text("{")
    check_refused(run_cli("status", "run"), "job.json")


@pytest.mark.parametrize("rank", ["1", "-1", "x"])
def test_logs_of_a_rank_that_is_not_there_are_refused(desk: Path, run_cli: Cli, rank: str) -> None:
    make_job(desk / "runs" / "run", scheduler="slurm")
    check_refused(run_cli("logs", "run", "--rank", rank), "--rank")


def test_logs_print_what_was_logged(desk: Path, run_cli: Cli) -> None:
    folder = make_job(desk / "runs" / "run", scheduler="slurm")
    folder.scheduler_log.write_bytes(b"hello\nbroken \xff\n")
    folder.rank_log(0).write_text("rank zero\n")
    assert run_cli("logs", "run").out == "hello\nbroken \ufffd\n"
    assert run_cli("logs", "run", "--rank", "0").out == "rank zero\n"


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("args", [["--help"], ["--version"], *[[command, "--help"] for command in COMMANDS]], ids=str)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['vllm-hpc', *{args!r}]\n"
        "from vllm_hpc.cli import main\n"
        "try:\n    main()\nexcept SystemExit as error:\n    assert not error.code\n"
        "print('HEAVY', sorted({'torch', 'vllm', 'submitit', 'jinja2', 'rich', 'psutil'} & set(sys.modules)))"
    )
    out = python(code)
    assert "Usage: vllm-hpc" in out or out.startswith("vllm-hpc ")
    assert out.rstrip().endswith("HEAVY []")


def test_help_says_that_packages_add_schedulers_and_launchers(run_cli: Cli) -> None:
    words = " ".join(run_cli("submit", "--help").out.split())
    for what in ("Scheduler", "How ranks start"):
        assert f"{what} (one of these, or of an installed package)." in words


def test_a_plan_needs_neither_torch_nor_vllm(model: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, vllm=None, transformers=None)\n"
        f"sys.argv = ['vllm-hpc', 'render', {str(model)!r}, '--name', 'run']\n"
        "from vllm_hpc.cli import main; main()"
    )
    assert "torchrun" in python(code)


def test_importing_the_package_costs_nothing() -> None:
    code = "import sys; old = set(sys.modules); import vllm_hpc; print(*sorted(set(sys.modules) - old))"
    roots = {name.split(".")[0] for name in python(code).split()}
    assert roots - sys.stdlib_module_names == {"vllm_hpc"}


def test_a_task_of_an_array_is_found_by_the_id_that_squeue_shows(desk: Path, run_cli: Cli) -> None:
    make_array(desk / "runs" / "array", tasks=2)
    assert run_cli("logs", "77_1").code == 0
    check_refused(run_cli("logs", "77_2"), "77_2")


def test_logs_of_a_job_that_waits_say_so(desk: Path, run_cli: Cli) -> None:
    make_job(desk / "runs" / "run")
    outcome = run_cli("logs", "run")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("No log yet: the job is ")
