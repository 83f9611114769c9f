"""What sbatch sees of the environment: people's defaults, but nothing that changes what a script says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli
from vllm_hpc.schedulers.client import clean_environment
from vllm_hpc.schedulers.slurm.environment import stated_options, submit_environment

HEAD = "#!/bin/bash\n# a comment -p x\n\n#SBATCH --nodes=1 --ntasks-per-node=1\n"


@pytest.mark.parametrize(
    ("variable", "directive", "handed_on"),
    [
        # whose job it is and where it runs: the script's word first, else the default that the user has set
        ("SBATCH_ACCOUNT", "", True),
        ("SBATCH_ACCOUNT", "--account=me", False),
        ("SBATCH_ACCOUNT", "-A me", False),
        ("SBATCH_ACCOUNT", "-Ame", False),
        ("SBATCH_PARTITION", "", True),
        ("SBATCH_PARTITION", "--partition gpu", False),
        ("SBATCH_PARTITION", "--part=gpu", False),
        ("SBATCH_PARTITION", '--comment="-p and --partition=x"', True),
        ("SBATCH_TIMELIMIT", "", True),
        ("SBATCH_TIMELIMIT", "--time=10", False),
        ("SBATCH_MEM_PER_NODE", "", True),
        ("SBATCH_MEM_PER_NODE", "--mem-per-cpu=1G", False),
        ("SBATCH_MEM_PER_CPU", "--mem=1G", False),
        ("SBATCH_CLUSTERS", "", True),
        ("SBATCH_EXPORT", "", True),
        ("SBATCH_EXPORT", "--exclusive", True),
        ("SBATCH_EXPORT", "--export=NONE", False),
        # what a script is: never
        ("SBATCH_ARRAY_INX", "", False),
        ("SBATCH_REQUEUE", "", False),
        ("SBATCH_NO_REQUEUE", "", False),
        ("SBATCH_OPEN_MODE", "", False),
        ("SBATCH_OUTPUT", "", False),
        ("SBATCH_ERROR", "", False),
        ("SBATCH_JOB_NAME", "", False),
        ("SBATCH_WAIT", "", False),
        ("SBATCH_SIGNAL", "", False),
        ("SBATCH_GPUS_PER_TASK", "", False),
        ("SBATCH_NO_SUCH_OPTION_YET", "", False),
        ("A_VARIABLE", "", True),
    ],
)
def test_what_is_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, directive: str, handed_on: bool
) -> None:
    script = tmp_path / "script.sbatch"
    script.write_text(f"{HEAD}#SBATCH {directive}\nexport X=1\n#SBATCH --account=late --partition=late --time=1\n")
    monkeypatch.setenv(variable, "1")
    assert (variable in submit_environment(script)) == handed_on


def test_a_lone_quote_hides_nothing() -> None:
    assert stated_options("#SBATCH --comment=it's -A me --qos=q\n") == ["--comment", "--qos", "-A"]


@pytest.mark.parametrize("variable", ["SRUN_DEBUG", "SLURM_NTASKS", "TMPDIR", "RANK", "CUDA_VISIBLE_DEVICES"])
def test_what_an_enclosing_job_set_stays_there(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv(variable, "1")
    assert variable in clean_environment()
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert variable not in clean_environment()


def test_submit_hands_on_nothing_that_the_script_states(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PARTITION", "ACCOUNT", "ARRAY_INX"):
        monkeypatch.setenv(f"SBATCH_{name}", "from-the-environment")
    (desk / "bin" / "sbatch").write_text("#!/bin/sh\nenv > seen\necho 7\n")
    outcome = run_cli("submit", "model", "--scheduler", "slurm", "--partition", "gpu", "--json")
    assert json.loads(outcome.out)["job_id"] == "7"
    seen = [line for line in (desk / "seen").read_text().splitlines() if line.startswith("SBATCH_")]
    assert seen == ["SBATCH_ACCOUNT=from-the-environment"]
