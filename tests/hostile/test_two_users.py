"""Two users of one machine: each test first shows that the attacker can plant the file, then that it does nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hostile.accounts import Account
from tests.hostile.conftest import Neighbours
from tests.real_jobs import wait_for
from vllm_hpc.jobfolder.folder import SUBFOLDERS

pytestmark = pytest.mark.trust


# Whoever runs it leaves this file.
_RUN = "touch {mark}"
# A job that is still running when its submission has returned, and ends within seconds.
SLOW = ("--rehearse-set", "tokens_per_s=4", "--max-tokens", "4")


@pytest.fixture
def mark(neighbours: Neighbours) -> Path:
    """Where planted code says that it ran; both users may write there."""
    folder = neighbours.project.parent / "marks"
    folder.mkdir()
    folder.chmod(0o777)
    return folder / "ran"


def submit(neighbours: Neighbours, *options: str) -> Path:
    """A job of the victim in the project's folder, in which the attacker writes, too."""
    victim, _, project = neighbours
    (victim.home / "rows.jsonl").write_text('{"prompt": "a"}\n' * 5)
    done = victim.vllm_hpc(
        "submit", "--rehearse", "--scheduler", "local", "--input", victim.home / "rows.jsonl", "--job-dir", project,
        "--name", "shared", *options, umask=0o002,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return project / "shared"


def let_group_write(job: Path) -> None:
    """Make the job's folders as vllm-hpc 0.1 did with umask 002, and as its group can put in the place of any other."""
    for folder in (job, *(job / name for name in SUBFOLDERS)):
        folder.chmod(0o2775)


def state(user: Account, job: Path) -> str:
    return str(json.loads(user.vllm_hpc("status", job, "--json").stdout)["state"])


@pytest.mark.ranks
def test_job_in_project_folder_runs(neighbours: Neighbours) -> None:
    """A project's folder is setgid and its group may write; a job in it works as in any other."""
    job = submit(neighbours, "--wait")
    assert state(neighbours.victim, job) == "COMPLETED"
    assert job.stat().st_mode & 0o7777 == 0o2755
    own = [file for file in job.rglob("*") if file.suffix in (".json", ".sh")]
    assert own
    assert not [file for file in own if file.stat().st_mode & 0o022]
    assert neighbours.attacker.vllm_hpc("status", job).returncode == 0


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["1_submitted.pkl", "task.pkl"])
def test_planted_pickle_is_not_loaded(neighbours: Neighbours, mark: Path, name: str) -> None:
    """As vllm-hpc 0.1 and submitit's own ranks do: they load what is named like their job, when they start."""
    job = submit(neighbours, *SLOW)
    let_group_write(job)
    job_id = json.loads((job / "state" / "submitted.json").read_text())["job_id"]
    pickled = f"cos\nsystem\n(S'{_RUN.format(mark=mark)}'\ntR."
    neighbours.attacker.plant(job / "ranks" / name.replace("1", job_id), pickled)
    wait_for(lambda: state(neighbours.victim, job) not in ("PENDING", "RUNNING"), "end of the job")
    assert state(neighbours.victim, job) == "COMPLETED"
    assert not mark.exists()


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["script.sh", "job.json", "lifecycle.sh"])
def test_replaced_file_is_refused_by_resume(neighbours: Neighbours, mark: Path, name: str) -> None:
    job = submit(neighbours, *SLOW)
    let_group_write(job)
    neighbours.victim.vllm_hpc("cancel", job)
    text = (job / name).read_text()
    neighbours.attacker.plant(job / name, f"{_RUN.format(mark=mark)}\n{text}" if name.endswith(".sh") else text)
    done = neighbours.victim.vllm_hpc("resume", job, "--wait")
    assert done.returncode in (1, 2)
    said = done.stderr + "".join(file.read_text() for file in (job / "logs").iterdir())
    assert ("is a job of another user" if name == "job.json" else name) in said
    assert not mark.exists()


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["job.json", "script.sh"])
def test_another_file_of_the_victims_is_not_run_as_the_script(neighbours: Neighbours, mark: Path, name: str) -> None:
    """The attacker cannot write as the victim, but can move what another job has written, with a $(command)."""
    job, (victim, attacker, project) = submit(neighbours, *SLOW), neighbours
    victim.vllm_hpc("cancel", job)
    words = ("submit", "--rehearse", "--scheduler", "local", "--job-dir", project, "--name", "other")
    done = victim.vllm_hpc(*words, "--sampling", f'stop=["$({_RUN.format(mark=mark)})"]', umask=0o002)
    assert done.returncode == 0, done.stderr
    let_group_write(job)
    let_group_write(project / "other")
    moved = attacker.run(["mv", project / "other" / name, job / "script.sh"], Path("/"))
    assert moved.returncode == 0, moved.stderr
    done = victim.vllm_hpc("resume", job, "--wait")
    assert done.returncode in (1, 2)
    said = "submitted: submit a new job" if name == "job.json" else "is not the one that was submitted"
    assert said in done.stderr
    assert not mark.exists()


@pytest.mark.ranks
def test_script_replaced_while_the_job_runs_is_not_run_again(neighbours: Neighbours, mark: Path) -> None:
    """The local scheduler runs it again where rows are left: here the first attempt dies as it generates."""
    job = submit(neighbours, *SLOW, "--rehearse-set", "fault_s=2", "--rehearse-set", "fault=die")
    let_group_write(job)
    text = (job / "script.sh").read_text()
    neighbours.attacker.plant(job / "script.sh", f"{_RUN.format(mark=mark)}\n{text}", 0o777)
    wait_for(lambda: state(neighbours.victim, job) not in ("PENDING", "RUNNING"), "end of the job")
    assert len(list((job / "attempts").glob("*.json"))) > 1
    assert state(neighbours.victim, job) == "COMPLETED"
    assert not mark.exists()
