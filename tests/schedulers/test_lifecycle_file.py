"""How a script comes by lifecycle.sh: it runs exactly the text that it was submitted with, or says why not."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_hpc.jobs.submit import prepare, submit
from vllm_hpc.schedulers.lifecycle import lifecycle_text

ROOT = Path(__file__).parents[2]
LIFECYCLE = ROOT / "templates" / "lifecycle.sh"
Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(60)


def _make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.fixture
def run_script(desk: Path, model: Path) -> Run:
    """Run a submitted script, its lifecycle.sh changed before."""

    def run(change: Callable[[Path], object]) -> subprocess.CompletedProcess[str]:
        job = submit(str(model), scheduler="slurm", job_dir="runs", name="job", max_requeues=0)
        assert job.folder.lifecycle.read_text() == LIFECYCLE.read_text()
        change(job.folder.lifecycle)
        return subprocess.run(
            ["bash", str(job.path / "script.sbatch")], text=True, capture_output=True, timeout=40,
            env={**os.environ, "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n1", "DESK": str(desk)},
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text(""),
        lambda path: path.write_text('touch "$DESK/run"\n' + path.read_text()),
        lambda path: path.write_text(path.read_text() + 'touch "$DESK/run"\n'),
    ],
    ids=["empty", "longer at its head", "longer at its end"],
)
def test_another_text_than_that_of_the_submission_is_not_run(
    run_script: Run, desk: Path, change: Callable[[Path], object]
) -> None:
    ran = run_script(change)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        f"vllm-hpc: {desk}/runs/job/lifecycle.sh is not the one that this job was submitted with: submit it again\n"
    )
    assert not (desk / "run").exists()
    assert not list((desk / "runs" / "job" / "attempts").iterdir())


@pytest.mark.parametrize(
    ("change", "why"),
    [(Path.unlink, "No such file"), (_make_a_folder, "Is a directory")],
    ids=["missing", "unreadable"],
)
def test_a_text_that_cannot_be_read_is_said_with_the_reason(
    run_script: Run, desk: Path, change: Callable[[Path], object], why: str
) -> None:
    ran = run_script(change)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert why in ran.stderr.splitlines()[0]
    assert ran.stderr.splitlines()[1:] == [f"vllm-hpc: cannot read {desk}/runs/job/lifecycle.sh"]


def test_a_missing_sha256sum_is_said(run_script: Run, desk: Path) -> None:
    missing = desk / "bin" / "sha256sum"
    missing.write_text("#!/bin/bash\nexec no-such-program\n")
    missing.chmod(0o755)
    ran = run_script(lambda path: path)
    assert (ran.returncode, ran.stderr.splitlines()[-1]) == (1, "vllm-hpc: sha256sum is not found in PATH")


def test_neither_the_text_nor_a_script_needs_room_in_tmp(model: Path) -> None:
    """bash before 5.1 makes a file there of what follows <<< or <<."""
    script = prepare(str(model), scheduler="slurm", nodes=2).script
    code = [line for text in (lifecycle_text(), script) for line in text.splitlines() if "<<" in line.partition("#")[0]]
    assert code == []


def test_the_text_that_was_checked_is_the_one_that_runs(
    run_script: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody changes the file while the digest is compared."""
    sha256sum = desk / "bin" / "sha256sum"
    sha256sum.write_text(
        f'#!/bin/bash\n{shutil.which("sha256sum")} "$@"\necho \'touch "$DESK/run"\' > {desk}/runs/job/lifecycle.sh\n'
    )
    sha256sum.chmod(0o755)
    ran = run_script(lambda path: path)
    assert "lifecycle.sh" not in ran.stderr
    assert (desk / "runs" / "job" / "attempts" / "1.json").exists()
    assert not (desk / "run").exists()


def test_the_wheel_has_it(tmp_path: Path) -> None:
    """vllm_hpc/templates is a link in the checkout."""
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling")
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        assert archive.read("vllm_hpc/templates/lifecycle.sh") == LIFECYCLE.read_bytes()
