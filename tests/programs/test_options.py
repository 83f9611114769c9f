"""Which options go with --script and --program; what their plan and script say."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.crafted import make_folder

pytestmark = pytest.mark.programs

PROGRAM = """
class Rows:
    def on_output(self, ctx, row): ...
class Hooks(Rows):
    needs_hooks = True
def drive(ctx): ...
"""
ITS_OWN = "a script has its own model, rows and engine: leave it out"


@pytest.fixture
def code(desk: Path) -> None:
    """A model, a script and a program in the working directory."""
    make_folder(desk / "model")
    (desk / "train.py").write_text("print(1)\n")
    (desk / "p.py").write_text(PROGRAM)
    (desk / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("model --script train.py", "--script and MODEL 'model': a script has its own model"),
        ("--script train.py --script-args --steps 3", "own arguments are one text: --script-args '--steps 3'"),
        ("--script train.py --steps 3", "'--steps': if it is for the script, it goes into --script-args"),
        ("--script=train.py a b", "unexpected extra argument (b): if it is for the script, it goes into --script-args"),
        ("model b", "unexpected extra argument (b): see 'vllm-hpc submit --help'"),
        ("train.py --tp 2", "is a file, not a model folder: --script FILE runs it on every rank, and --program"),
        ("--script train.py --input in.jsonl", f"--script and --input: {ITS_OWN}"),
        ("--script train.py --max-tokens 3", f"--script and --max-tokens: {ITS_OWN}"),
        ("--script train.py --temperature 0", f"--script and --temperature: {ITS_OWN}"),
        ("--script train.py --engine dtype=float32", f"--script and --engine: {ITS_OWN}"),
        ("--script train.py --sampling n=2", f"--script and --sampling: {ITS_OWN}"),
        ("--script train.py --lora a=b", f"--script and --lora: {ITS_OWN}"),
        ("--script train.py --rehearse", f"--script and --rehearse: {ITS_OWN}"),
        ("--script train.py --array --dp 2", f"--script and --array: {ITS_OWN}"),
        ("--script train.py --drain-lead 60", f"--script and --drain-lead: {ITS_OWN}"),
        ("--script train.py --verify 4", f"--script and --verify: {ITS_OWN}"),
        ("--script train.py --launcher native", "--script and --launcher native: every rank runs the script"),
        ("--script train.py --program p.py:Rows", "--program and --script are both given: keep one"),
        ("--script train.py --nodes 3 --tp 2 --gpus-per-node 1", "does not fill 3 nodes of 1 GPU"),
        ("--script train.py --script-args '--password hunter2hunter2'", "--script-args password ... looks like a"),
        ("--script train.py --script-args '\"a'", "--script-args '\"a': No closing quotation: close the quote"),
        ("--script train.py --max-requeues 3", "--max-requeues 3: the script train.py is run again only with"),
        ("model --program p.py:drive --max-requeues 1", "--max-requeues 1: the program drive is run again only with"),
        ("model --script-args a", "--script-args is for --script: add --script FILE, or leave it out"),
        ("model --requeue-script", "--requeue-script is for --script, and for a --program with run: leave it out"),
        ("model --program p.py:Rows --requeue-script", "--requeue-script is for what drives the engine, and Rows"),
        ("model --program p.py:drive --array --dp 2", "--program drive, which has run, and --array: it is one run of"),
        ("model --program p.py:drive --rehearse", "--program drive, which has run, and --rehearse: it needs"),
        ("model --program p.py:Rows --launcher native", "--program with the launcher native (--launcher): the ranks"),
        ("model --program p.py:Hooks --engine enforce_eager=false", "--engine enforce_eager: Hooks needs"),
        ("model --program p.py:Hooks --engine compilation_config=3", "needs hooks, which are called only in eager"),
        ("model --program p.py:Hooks --pp 2 --scheduler local", "PP 2 on the CPU: Hooks needs hooks, but there vLLM"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(code: None, run_cli: Cli, args: str, said: str) -> None:
    where = [] if "--scheduler" in args else ["--scheduler", "slurm"]
    outcome = run_cli("submit", *shlex.split(args), *where)
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.err.startswith("Error: ") and outcome.err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("args", [["--script", "train.py"], ["model", "--program", "p.py:Rows"]])
def test_neither_is_tuned(code: None, run_cli: Cli, args: list[str]) -> None:
    outcome = run_cli("tune", *args, "--scheduler", "slurm")
    assert (outcome.code, outcome.err) == (
        2, f"Error: {args[-2]} cannot be tuned: a trial runs rows, and no code of yours; leave it out\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], (1, 1, 1)),
        (["--nodes", "2"], (2, 1, 2)),
        (["--gpus-per-node", "4"], (1, 4, 4)),
        (["--nodes", "2", "--gpus-per-node", "8"], (2, 8, 16)),
        (["--tp", "2", "--pp", "2"], (1, 4, 4)),
        (["--nodes", "2", "--tp", "4"], (2, 2, 4)),
        (["--tp", "2", "--dp", "2"], (1, 4, 4)),
    ],
)  # fmt: skip
def test_the_layout_of_a_script(code: None, run_cli: Cli, args: list[str], expected: tuple[int, int, int]) -> None:
    plan = json.loads(run_cli("plan", "--script", "train.py", "--scheduler", "slurm", "--json", *args).out)
    assert (plan["nodes"], plan["procs_per_node"], plan["world_size"]) == expected
    assert plan["fits"] is None and plan["engine"] == {} and plan["model"] is None
    words = f"a script: {expected[2]} rank{'s' * (expected[2] > 1)} of one torch.distributed world"
    assert any(reason.startswith(words) for reason in plan["reasons"])


def test_a_profile_gives_a_scripts_nodes_their_gpus(code: None, desk: Path, run_cli: Cli) -> None:
    (desk / "vllm-hpc.toml").write_text(
        '[profiles.site]\nscheduler = "slurm"\ngpus_per_node = 4\nlauncher = "native"\n'
        'engine = { dtype = "float16" }\nsampling = { top_k = 3 }\noffline = true\n'
    )
    common = ["plan", "--script", "train.py", "--profile", "site", "--json"]
    assert json.loads(run_cli(*common).out)["world_size"] == 1
    plan = json.loads(run_cli(*common, "--nodes", "2").out)
    assert (plan["world_size"], plan["engine"]) == (8, {})


def test_its_job_is_named_after_the_script_and_is_not_requeued(code: None, run_cli: Cli) -> None:
    script = run_cli("render", "--script", "train.py", "--scheduler", "slurm", "--nodes", "2").out
    assert script.splitlines()[1].endswith(": a script on 2 ranks.")
    assert "#SBATCH --job-name=train-" in script and "#SBATCH --no-requeue\n" in script
    again = run_cli("render", "--script", "train.py", "--scheduler", "slurm", "--requeue-script").out
    assert "#SBATCH --requeue\n" in again


def test_hooks_are_said_in_the_plan_and_nothing_else_changes(code: None, run_cli: Cli) -> None:
    common = ["plan", "model", "--scheduler", "slurm", "--gpu", "h100-80", "--input", "in.jsonl", "--json"]
    without = json.loads(run_cli(*common).out)
    rows = json.loads(run_cli(*common, "--program", "p.py:Rows").out)
    assert {**rows, "reasons": without["reasons"]} == without
    hooks = json.loads(run_cli(*common, "--program", "p.py:Hooks").out)
    assert hooks["engine"] == {**without["engine"], "enforce_eager": True}
    assert "eager mode, without CUDA graphs or compiled code: Hooks needs hooks" in hooks["reasons"]


def test_what_drives_the_engine_is_not_planned_for_the_rows(code: None, run_cli: Cli) -> None:
    common = ["plan", "model", "--scheduler", "slurm", "--gpu", "h100-80", "--program", "p.py:drive", "--json"]
    plan = json.loads(run_cli(*common, "--input", "in.jsonl").out)
    assert plan["cost"] is None and "max_model_len" not in plan["engine"]
    assert any(reason.endswith("drives the engine: no rows out") for reason in plan["reasons"])


def test_paths_in_job_toml_are_beside_it(code: None, desk: Path, run_cli: Cli) -> None:
    (desk / "one").mkdir()
    (desk / "one" / "job.toml").write_text('script = "s.py"\nscript_args = ["--a", "b c"]\ntp = 2\n')
    (desk / "one" / "s.py").write_text("import sys\n")
    assert json.loads(run_cli("submit", "one", "--scheduler", "slurm", "--name", "a", "--json").out)["plan"]["tp"] == 2
    program = json.loads((desk / "runs" / "a" / "job.json").read_text())["program"]
    assert (program["source"], program["arguments"]) == (str(desk / "one" / "s.py"), ["--a", "b c"])
    assert (desk / "runs" / "a" / "program.py").read_text() == "import sys\n"
    (desk / "one" / "job.toml").write_text('model = "../model"\nprogram = "s.py:go"\ngpus_per_node = 1\n')
    (desk / "one" / "s.py").write_text("def go(ctx): ...\n")
    assert run_cli("submit", "one", "--scheduler", "slurm", "--name", "b").code == 0
    record = json.loads((desk / "runs" / "b" / "job.json").read_text())
    assert (record["program"]["source"], record["rows"]) == (str(desk / "one" / "s.py"), 0)


def test_a_driving_program_gets_the_rows_that_it_was_given(code: None, desk: Path, run_cli: Cli) -> None:
    common = ["submit", "model", "--scheduler", "slurm", "--gpus-per-node", "1", "--program", "p.py:drive"]
    assert run_cli(*common, "--input", "in.jsonl", "--name", "a").code == 0
    assert json.loads((desk / "runs" / "a" / "job.json").read_text())["rows"] == 2
    assert (desk / "runs" / "a" / "input.jsonl").read_text().count("\n") == 2


def test_who_else_may_have_written_the_code_is_told(code: None, desk: Path, run_cli: Cli) -> None:
    (desk / "train.py").chmod(0o666)
    outcome = run_cli("submit", "--script", "train.py", "--scheduler", "slurm")
    assert (outcome.code, f"Note: --script: others can write to '{desk}/train.py'" in outcome.err) == (0, True)


def test_the_rows_of_a_job_with_a_program_run_with_it_again(code: None, desk: Path, run_cli: Cli) -> None:
    common = ["--scheduler", "slurm", "--gpus-per-node", "1"]
    run_cli("submit", "model", *common, "--program", "p.py:Rows", "--input", "in.jsonl", "--name", "a")
    (desk / "sub").mkdir()
    assert run_cli("submit", "--rows-missing-from", "a", "--name", "b").code == 0
    record = json.loads((desk / "runs" / "b" / "job.json").read_text())
    assert (record["program"]["source"], record["rows"]) == (str(desk / "p.py"), 2)
    assert run_cli("submit", "--rows-missing-from", "a", "--program", "", "--name", "c").code == 0
    assert json.loads((desk / "runs" / "c" / "job.json").read_text())["program"] is None
    run_cli("submit", "--script", "train.py", "--scheduler", "slurm", "--name", "s")
    outcome = run_cli("submit", "--rows-missing-from", "s")
    assert (outcome.code, "that job runs no rows: name another one" in outcome.err) == (2, True)
