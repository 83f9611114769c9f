"""A launch block of a site's own, on a real Slurm: it says how tasks start, and all else is seen to around it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real_jobs import ONE_CORE, ends_as, started, submit_long, wait_for
from tests.slurm.requeues import start_now
from vllm_hpc import Job
from vllm_hpc.schedulers.check_templates import check_templates
from vllm_hpc.spec.profile import Profile

pytestmark = [pytest.mark.ranks, pytest.mark.slurm, pytest.mark.usefixtures("slurm")]

# As docs/templates.md says it; and a line that knows nothing of "${task[@]}".
WITH_TASK = '  srun --nodes={{ job.nodes }} --ntasks={{ job.nodes }} "${task[@]}"'
PLAIN = """srun --nodes=2 --ntasks=2 bash -c 'exec torchrun --nnodes=2 --nproc-per-node=1 --node-rank="$SLURM_NODEID" \\
  --master-addr="$VLLM_HPC_HEAD" --master-port="$VLLM_HPC_PORT" -m vllm_hpc.in_job rank "$VLLM_HPC_FOLDER"'"""


def options(work: Path, block: str) -> dict[str, Any]:
    folder = work / "template"
    folder.mkdir()
    (folder / "slurm.sbatch.j2").write_text(
        f'{{% extends "packaged/slurm.sbatch.j2" %}}{{% block launch %}}{block}{{% endblock %}}'
    )
    return {"scheduler": "slurm", "nodes": 2, "tp": 2, "env": ONE_CORE, "template_dir": str(folder)}


@pytest.mark.parametrize(
    "block", [pytest.param(WITH_TASK, id="with the task", marks=pytest.mark.full), pytest.param(PLAIN, id="plain")]
)
def test_a_rank_that_dies_ends_all_and_the_job_goes_on(tmp_path: Path, block: str) -> None:
    job = started(submit_long(None, tmp_path, **{"max_requeues": 3, **options(tmp_path, block)}))
    assert [job.folder.joined(1, node).exists() for node in (0, 1)] == [True, True]
    os.kill(job.ranks()[1].pid, signal.SIGKILL)
    wait_for(lambda: job.status().state == "PENDING" and _end_of(job) == "requeue", f"requeued: {job.logs()}", 120)
    done = job.status().rows.done
    start_now(job)
    wait_for(lambda: job.status().rows.done > done, "the next attempt writes rows")
    job.cancel()
    assert ends_as(job, "CANCELLED", 90).attempts == 2


def _end_of(job: Job) -> str | None:
    ended = job.folder.exit_of(1)
    return ended.cause if ended else None


@pytest.mark.parametrize(
    ("block", "said"),
    [
        pytest.param(WITH_TASK, "node2", id="with the task"),
        # torchrun starts no rank before all nodes are there: none has joined.
        pytest.param(PLAIN, "node1 node2", id="plain", marks=pytest.mark.full),
    ],
)
def test_a_node_that_does_not_join_is_named(
    tmp_path: Path, block: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = tmp_path / "hang.sh"
    hang.write_text('if [ "${SLURM_NODEID:-}" = 1 ] && [ -n "${SLURM_STEP_ID:-}" ]; then sleep 1000; fi\n')
    monkeypatch.setenv("BASH_ENV", str(hang))
    given = options(tmp_path, block)
    job = submit_long(None, tmp_path, **{**given, "env": {**ONE_CORE, "VLLM_HPC_JOIN_TIMEOUT": "20"}})
    assert ends_as(job, "FAILED", 150).reason.endswith(f"vllm-hpc: not joined within 20 s: {said}")


@pytest.mark.admins
def test_the_users_directive_wins_over_three_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site's, the user's and the project's each extend the next one; each asks for a comment and a priority."""
    files = {"site": "site/vllm-hpc/config.toml", "user": "user/vllm-hpc/config.toml", "project": "vllm-hpc.toml"}
    for number, (name, file) in enumerate(files.items(), start=1):
        path = tmp_path / file
        (path.parent / "my templates").mkdir(parents=True)
        path.write_text('[profiles.x]\ntemplate_dir = "my templates"\n')
        more = f"#SBATCH --comment={name} --begin=now+1day\n#SBATCH --nice={number}\n"
        (path.parent / "my templates" / "slurm.sbatch.j2").write_text(
            '{% extends "slurm.sbatch.j2" %}{% block directives %}{{ super() }}' + more + "{% endblock %}"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "site"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    job = submit_long(None, tmp_path, scheduler="slurm", profile="x", directive=["--comment='the asked'"])
    shown = subprocess.run(["scontrol", "show", "job", str(job.job_id)], capture_output=True, text=True, check=True)
    job.cancel()
    assert "Comment=the asked" in shown.stdout
    assert "Nice=3" in shown.stdout  # the project's, which is the highest
    script = (job.path / "script.sbatch").read_text()
    assert re.findall(r"--comment=(\S+)", script) == ["site", "user", "project", "'the"]
    assert re.findall(r"--nice=(\d)", script) == ["1", "2", "3"]


@pytest.mark.admins
def test_sbatch_itself_tries_what_check_has_rendered(tmp_path: Path) -> None:
    profile = Profile(scheduler="slurm", launcher="torchrun", gpus_per_node=1, cpus_per_rank=1)
    good = check_templates((), profile)
    assert (good.tools["sbatch"], good.findings) == (True, ())
    (tmp_path / "slurm.sbatch.j2").write_text(
        '{% extends "slurm.sbatch.j2" %}{% block directives %}{{ super() }}#SBATCH --begin=never\n{% endblock %}'
    )
    bad = check_templates([str(tmp_path)], profile)
    assert [one.status for one in bad.findings] == ["fail"], bad.findings
    assert bad.findings[0].found.startswith("sbatch --test-only refuses the script: ")
    assert "never" in bad.findings[0].found
