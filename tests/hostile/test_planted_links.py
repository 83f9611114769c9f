"""Links that lie under the names of a job's files: what the job writes reaches none of its owner's other files.

The job's folder is one in which the group may write, as 0.1 made them with umask 002, and as a member of the group can
put in the place of a newer one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.hostile.accounts import Account
from tests.hostile.conftest import Neighbours
from tests.hostile.test_foreign_jobs import make
from tests.hostile.test_two_users import SLOW, let_group_write, state, submit
from vllm_hpc.jobfolder.folder import SUBFOLDERS, JobFolder
from vllm_hpc.schedulers.lifecycle import lifecycle_text

pytestmark = pytest.mark.trust

THESIS = "three years of work\n"
# What parts of a job do, as whoever submitted it: Python that has the JobFolder ``job``.
PARTS = {
    "shards/replica-0.1.jsonl": """
from vllm_hpc.engine.health.shard_writer import ShardWriter
from vllm_hpc.jobfolder.records import Run
from vllm_hpc.jobfolder.shards import Tally
for replica in range(4):
    try:
        writer = ShardWriter(job, replica, 1, Tally(), lambda rows, prompt, completion: Run(attempt=1), 5.0)
        writer.put(lambda: {"index": 0, "id": "0", "text": "a row"})
        writer.close()
    except OSError as error:
        print(error)""",
    "logs/rank-0.log": """
from vllm_hpc.engine.rank import _redirect_output
_redirect_output(job, 0)""",
    "state/claimed-0.1.jsonl": """
from types import SimpleNamespace
from vllm_hpc.engine.loop.leader import Chief, ReplicaRun
Chief(ReplicaRun(job, 0, 1, 60.0), None, None, SimpleNamespace()).begin_probe()""",
    "logs/scheduler.out": """
from vllm_hpc.schedulers.local.supervisor import start
start(job.path / "script.sh")""",
    "state/.reserve-8": """
from vllm_hpc.engine.health.disk_reserve import Reserve
Reserve(job.reserve(8)).take()""",
    "state/.reserve-9": """
from vllm_hpc.engine.health.disk_reserve import Reserve
Reserve(job.reserve(9)).give_back()""",
    "state/claims": """
from vllm_hpc.jobfolder.chunks import EvenChunks as Chunks
from vllm_hpc.engine.loop.chunk_claims import Lease, LeaseClaims
LeaseClaims(job, Chunks(3, 3), Lease(1, 0, 0), 1, None)""",
    "state/failed-1": """
from vllm_hpc.engine.health.rank_record import RankReport
RankReport(job, 0, 0, 1).failed(RuntimeError("broken"))""",
    "state/joined-1-0": """
import os
from vllm_hpc.schedulers.in_script.rank import _note_joined
os.environ |= {"VLLM_HPC_ATTEMPT": "1", "GROUP_RANK": "0", "VLLM_HPC_WATCHED": "1"}
_note_joined(job)""",
}
MARKS = ("state/failed-1", "state/joined-1-0")
# Those that are appended to; others are replaced.
REFUSED = tuple(PARTS)[:4]
# All that the script itself writes, and the drafts that it wrote in 0.1.
OF_THE_SCRIPT = (
    "control/drain-1", "state/exit-1.json", "state/.exit-1.json", "state/joined-1-0", "state/failed-1",
    "state/left-1-0", "state/node-1-0", "state/.node-1-0",
)  # fmt: skip
SHELL = """
lead_s=60 time_limit_s= max_requeues=0 begin_attempt
nodes=(n0)
kill -USR2 $$
rank_environment
run_ranks() { return 7; }
make_task_file 0 && node=0 && (_vh_work= _vh_group= _vh_time_limit= _vh_looked= run_node)
note_left 0
hosts_file
exit 3
"""


def plant(attacker: Account, link: Path, target: Path) -> None:
    """Put a link there, in place of what has the name; shows that the attacker can."""
    assert attacker.run(["ln", "-sfn", target, link], Path("/")).returncode == 0
    assert (link.is_symlink(), link.lstat().st_uid) == (True, attacker.uid)


def write(user: Account, path: Path, text: str = THESIS) -> Path:
    path.write_text(text)
    os.chown(path, user.uid, user.uid)
    return path


def run_parts(user: Account, job: JobFolder, names: Iterable[str]) -> list[str]:
    """Run parts of the job as that user; returns a line for each that is refused."""
    run = "from vllm_hpc.jobfolder.folder import JobFolder\njob = JobFolder(sys.argv[1])\n"
    run += "for part in sys.argv[2:]:\n    try:\n        exec(part)\n    except OSError as error:\n        print(error)"
    words: list[str | Path] = [
        sys.executable,
        "-P",
        "-c",
        f"import sys\n{run}",
        job.path,
        *(PARTS[name] for name in names),
    ]
    done = user.run(words, user.home, umask=0o002)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def job(neighbours: Neighbours) -> JobFolder:
    """A job of the victim's, in whose folders the attacker writes."""
    found = make(neighbours.project, neighbours.victim, "mine", "local")
    (found.attempt(1)).unlink()
    write(neighbours.victim, found.path / "script.sh", "#!/usr/bin/env bash\necho from the job\n")
    return found


def test_what_a_job_writes_stays_in_its_folder(neighbours: Neighbours, job: JobFolder) -> None:
    """What is appended to is refused; what is written anew takes the link's place."""
    victim, attacker, _ = neighbours
    names = [name for name in PARTS if name not in MARKS]
    theses = {name: write(victim, victim.home / f"thesis-{place}") for place, name in enumerate(names)}
    for name, thesis in theses.items():
        plant(attacker, job.path / name, thesis)
    # One after the other, as a rank's log takes all that is said after it.
    said = [line for name in names for line in run_parts(victim, job, [name])]
    assert [name for name, thesis in theses.items() if thesis.read_bytes() != THESIS.encode()] == []
    refused = [f"[Errno 40] it must be a regular file, not a link: '{job.path / name}'" for name in REFUSED]
    assert said == [*refused, f"[Errno 20] it must be a folder, not a link or a file: '{job.claims}'"]


def test_marks_make_no_file_elsewhere(neighbours: Neighbours, job: JobFolder) -> None:
    """Links that lead nowhere: a file such as ~/.hushlogin says something by being there."""
    victim, attacker, _ = neighbours
    for name in MARKS:
        plant(attacker, job.path / name, victim.home / ".hushlogin")
    assert run_parts(victim, job, MARKS) == []
    assert not (victim.home / ".hushlogin").exists()
    made = [(job.path / name).lstat() for name in MARKS]
    assert [(one.st_uid, oct(one.st_mode)) for one in made] == [(victim.uid, "0o100644")] * len(MARKS)


def test_rows_are_appended_only_to_a_file_of_ones_own(neighbours: Neighbours, job: JobFolder) -> None:
    """Not to the attacker's, nor to one that has another name; and a FIFO is not waited for."""
    victim, attacker, _ = neighbours
    thesis = write(victim, job.path / "thesis")
    thesis.chmod(0o666)  # or the kernel has no others link to it
    plants = {"mkfifo": "a regular file", "touch": "not be another user's", 'ln "$0"': "no other name (a hard link)"}
    job.shard(0, 1).unlink()
    for replica, command in enumerate(plants):
        words: list[str | Path] = ["sh", "-c", f'{command} "$1"', thesis, job.shard(replica, 1)]
        assert attacker.run(words, Path("/"), umask=0).returncode == 0
    said = run_parts(victim, job, ["shards/replica-0.1.jsonl"])
    assert len(said) == len(plants)
    assert all(why in line for why, line in zip(plants.values(), said, strict=True)), said
    assert thesis.read_text() == THESIS
    assert job.shard(3, 1).read_text().count("a row") == 1


def test_what_the_script_writes_stays_in_the_job(neighbours: Neighbours, job: JobFolder) -> None:
    victim, attacker, _ = neighbours
    theses = [write(victim, victim.home / f"thesis-{place}") for place in range(len(OF_THE_SCRIPT))]
    for name, thesis in zip(OF_THE_SCRIPT, theses, strict=True):
        plant(attacker, job.path / name, thesis)
    script = f"set -uo pipefail\njob={job.path}\n{lifecycle_text()}{SHELL}"
    variables = {"VLLM_HPC_JOB_ID": "12", "VLLM_HPC_TASK": "0"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = victim.run(["bash", "-c", script], victim.home, umask=0o002, PATH=path, **variables)
    assert done.returncode == 3, done.stderr
    changed = [name for name, thesis in zip(OF_THE_SCRIPT, theses, strict=True) if thesis.read_text() != THESIS]
    assert changed == []
    assert json.loads(job.exit_record(1).read_text())["exit_code"] == 3
    written = [name for name in OF_THE_SCRIPT if (job.path / name).exists() and not (job.path / name).is_symlink()]
    assert written == [
        name for name in OF_THE_SCRIPT if name not in ("state/.exit-1.json", "state/.node-1-0", "state/.run-1")
    ]
    assert not [name for name in written if (job.path / name).stat().st_mode & 0o022]


def test_outputs_replace_a_link(neighbours: Neighbours, job: JobFolder) -> None:
    victim, attacker, _ = neighbours
    thesis = write(victim, victim.home / "thesis")
    for file in (job.outputs, job.summary):
        plant(attacker, file, thesis)
    assert victim.vllm_hpc("collect", job.path).returncode in (0, 3)
    assert thesis.read_text() == THESIS
    assert len(job.outputs.read_text().splitlines()) == 3
    assert not job.outputs.is_symlink() and not job.summary.is_symlink()


def test_nobody_else_writes_into_a_new_jobs_folders(neighbours: Neighbours) -> None:
    """A project's folder is setgid and its group may write: what a job makes there stays the group's to read."""
    victim, attacker, project = neighbours
    done = victim.vllm_hpc(
        "submit", "--rehearse", "--scheduler", "slurm", "--job-dir", project, "--name", "new", umask=0o002,
        PATH=f"{_clients(project)}:{os.environ['PATH']}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plant(attacker, project / "link", victim.home)
    for folder in (project / "new", *(project / "new" / name for name in SUBFOLDERS)):
        assert oct(folder.stat().st_mode) == "0o42755"
        assert "Permission denied" in attacker.run(["ln", "-s", victim.home, folder / "link"], Path("/")).stderr
        assert attacker.run(["ls", folder], Path("/")).returncode == 0


def _clients(project: Path) -> Path:
    """A folder with an sbatch that takes everything."""
    folder = project.parent / "bin"
    folder.mkdir()
    for name, says in (("sbatch", "echo 4711"), ("squeue", ""), ("scontrol", ""), ("sacct", "")):
        (folder / name).write_text(f"#!/bin/sh\n{says}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.full
@pytest.mark.ranks
def test_a_resumed_job_among_links_runs_and_harms_nothing(neighbours: Neighbours) -> None:
    """Under every name that its second attempt writes anew there is a link to a file of the victim's."""
    victim, attacker, _ = neighbours
    folder = JobFolder(submit(neighbours, *SLOW))
    let_group_write(folder.path)
    assert victim.vllm_hpc("cancel", folder.path).returncode == 0
    links = [
        folder.exit_record(2), folder.path / "state" / ".exit-2.json", folder.joined(2, 0),
        folder.heartbeat(0), folder.progress(0), folder.reserve(0), folder.rank_record(0),
    ]  # fmt: skip
    theses = [write(victim, victim.home / f"thesis-{place}") for place in range(len(links))]
    for link, thesis in zip(links, theses, strict=True):
        plant(attacker, link, thesis)
    done = victim.vllm_hpc("resume", folder.path, "--wait", umask=0o002)
    assert [link for link, one in zip(links, theses, strict=True) if one.read_text() != THESIS] == []
    assert (done.returncode, state(victim, folder.path)) == (0, "COMPLETED"), done.stderr
