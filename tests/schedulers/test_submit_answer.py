"""The job's id in what sbatch, or a site's wrapper around it, prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.crafted import make_job
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.schedulers.client import as_text, plain
from vllm_hpc.schedulers.slurm import SCHEDULER, Cluster

pytestmark = pytest.mark.inputs

# The wrapper of Lonestar 5, as nipy/nipype#1330 quotes it, and that of Stampede3 (llnl/maestrowf#441).
_LONESTAR = """
-----------------------------------------------------------------
          Welcome to the Lonestar 5 Supercomputer
-----------------------------------------------------------------

No reservation for this job
--> Verifying valid submit host (login1)...OK
--> Verifying availability of your home dir (/home1/03872/wtriplet)...OK
Submitted batch job 55473
"""
_STAMPEDE = """
          Welcome to the Stampede3 Supercomputer
--> Verifying that quota for filesystem /work2/02661/bwibking/stampede3 is at  0.00% allocated...OK
Submitted batch job 519605
"""
ANSWERS: dict[str, tuple[str | None, str | None]] = {
    # slurm-wlm 22.05.8: --parsable, --parsable --clusters=, --clusters=, neither
    "2811727\n": ("2811727", None),
    "2811728;vllmhpc\n": ("2811728", "vllmhpc"),
    "Submitted batch job 2811729 on cluster vllmhpc\n": ("2811729", "vllmhpc"),
    "Submitted batch job 55473\n": ("55473", None),
    _LONESTAR: ("55473", None),
    _STAMPEDE: ("519605", None),
    # chapel-lang/chapel#14402, mlr-org/batchtools#314, mlr-org/batchtools#243, Parsl/parsl#2636
    "sbatch: If desired, run with --verify to request node verification.\n\nSubmitted batch job 125953\n": (
        "125953",
        None,
    ),
    "sbatch: INFO: Note that 128 GB per node will require a node with more than 128 GB memory\n"
    "Submitted batch job 38139957\n": ("38139957", None),
    'sbatch: charged to the account "liu". Base Allocation:500,000.00 hours, Current Balance:497,218.77\n'
    "Submitted batch job 1556425\n": ("1556425", None),
    "Submitted batch job 60060368 on cluster slaking\n": ("60060368", "slaking"),
    # A year, a quota, an earlier job's id, before and after
    "2024\n55473\n": ("55473", None),
    "12345 of 20000\n55473\n": ("55473", None),
    "55473\n12345 of 20000 hours are left\n": ("55473", None),
    "55473;alpha\nHave a nice day, 2024!\n": ("55473", "alpha"),
    "2024\nSubmitted batch job 55473\n12345 of 20000\n2025\n": ("55473", None),
    "Submitted batch job 17\nSubmitted batch job 55473\n": ("55473", None),
    "you have 3 jobs, job limit 4000\n55473\n": ("55473", None),
    "  55473  \r\n": ("55473", None),
    "\x1b[32mSubmitted batch job 55473\x1b[0m\n": ("55473", None),
    "\x1b]0;title\x07\x1b[1m55473\x1b[0m\n": (None, None),
    "\x1b[1;31m55473\x1b[0m\r\n": ("55473", None),
    # A wrapper's own words
    "Your job 55473 has been submitted\n": ("55473", None),
    "Job ID: 55473\n": ("55473", None),
    "jobid=55473\n": ("55473", None),
    "Job <55473> is submitted to queue <gpu>.\n": ("55473", None),
    # No id
    "": (None, None),
    "hello\n": (None, None),
    "job 12 of 20000\n": (None, None),
    "this job: 17.5 GPU hours\n": (None, None),
    "you have 3 jobs\n": (None, None),
    "12.5\n": (None, None),
    "-12\n": (None, None),
    "55473 55474\n": (None, None),
    "x" * 100_000: (None, None),
    "9" * 5000: (None, None),
    "Submitted batch job " + "9" * 5000: (None, None),
}


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: repr(answer.strip())[:40])
def test_the_id_is_the_last_word_that_looks_like_one(tmp_path: Path, answer: str) -> None:
    text, (job_id, cluster) = as_text(answer), ANSWERS[answer]
    assert SCHEDULER.read_id(text) == job_id
    folder = make_job(tmp_path / "job", scheduler="slurm")
    SCHEDULER.remember(folder, text)
    assert read_json(folder.cluster, Cluster) == (Cluster(cluster) if cluster else None)


@pytest.mark.parametrize("answer", [_STAMPEDE, "2024\n519605\n"], ids=["a wrapper's", "a banner's"])
def test_a_submission_takes_it(desk: Path, model: Path, run_cli: Cli, answer: str) -> None:
    (desk / "bin" / "sbatch").write_text(f"#!/bin/sh\ncat << 'END'\n{answer}END\n")
    ran = run_cli("submit", "model", "--scheduler", "slurm", "--name", "run", "--json")
    assert (ran.code, json.loads(ran.out)["job_id"]) == (0, "519605")


def test_of_a_long_refusal_slurms_own_words_are_kept() -> None:
    said = plain("Welcome!\n" * 500 + "sbatch: error: Batch job submission failed: Invalid qos specification\n")
    assert said.startswith("Welcome!") and said.endswith("Invalid qos specification")
    assert len(said) < 1010


def test_an_id_beside_a_failure_may_be_a_job(desk: Path, model: Path, run_cli: Cli) -> None:
    """As where a site's hook fails after the job was queued: its folder was removed under it."""
    (desk / "bin" / "sbatch").write_text("#!/bin/sh\necho 4711; echo 'hook: no quota file' >&2; exit 1\n")
    ran = run_cli("submit", model, "--scheduler", "slurm", "--name", "run")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "its client printed the id 4711, and failed: sbatch refused: hook: no quota file" in ran.err
    assert "may or may not be submitted" in ran.err
    ran = run_cli("status", "run", "--json")
    found = json.loads(ran.out)
    assert found["state"] == "UNKNOWN"
    assert "printed the id 4711" in found["reason"]
