"""The stand-in's clients say what those of OpenPBS 23.06.06 (its main branch, cd7ab5e) were recorded to say."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.real_jobs import wait_for
from vllm_hpc.schedulers.pbs.qstat import plain_fields

pytestmark = [pytest.mark.inputs, pytest.mark.pbs]


class Said(NamedTuple):
    """What a client printed and its exit code."""

    code: int
    out: str
    err: str


def ask(*argv: str, host: str | None = None) -> Said:
    environment = {**os.environ, **({"STANDIN_HOST": host} if host else {})}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment)
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def held(server: Path) -> str:
    """A job that waits."""
    script = server / "held.sh"
    script.write_text("#!/bin/bash\n#PBS -N rec\n#PBS -h\nsleep 60\n")
    return ask("qsub", str(script)).out.strip()


def test_without_a_history(server: Path, held: str) -> None:
    (server / "no-history").touch()
    said = ask("qstat", "-x", "-f", "-F", "json", held)
    assert (said.code, said.err) == (0, f"qstat: PBS is not configured to maintain job history {held}\n")
    assert set(json.loads(said.out)) == {"timestamp", "pbs_version", "pbs_server"}
    assert json.loads(ask("qstat", "-f", "-F", "json", held).out)["Jobs"][held]["job_state"] == "H"
    assert ask("qdel", held) == (0, "", "")
    for argv in (["qstat", "-f", "-F", "json", held], ["qstat", "-f", held], ["qdel", held]):
        said = ask(*argv)
        assert (said.code, said.err) == (153, f"{argv[0]}: Unknown Job Id {held}\n")


def test_the_plain_form_and_names(server: Path, held: str) -> None:
    fields = plain_fields(ask("qstat", "-f", held).out)[held]
    assert (fields["job_state"], fields["Hold_Types"]) == ("H", "u")
    assert fields["Output_Path"].startswith(f"{server.name}:")
    assert ask("qselect", "-N", "rec") == (0, f"{held}\n", "")
    assert ask("qselect", "-N", "nothing-such") == (0, "", "")


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ("qsub held.sh", 162, "qsub: cannot connect to server {} (errno=15010)"),
        ("qstat -x -f -F json 0.pbshead", 255, "qstat: cannot connect to server {} (errno=15010)"),
        ("qselect -N rec", 162, "qselect: cannot connect to server {} (errno=15010)"),
        ("qalter -N rec 0.pbshead", 162, "qalter: cannot connect to server {} (errno=15010)"),
        ("qdel 0.pbshead", 162, "Couldn't connect to cluster: {}"),
    ],
)
def test_a_server_that_is_down(server: Path, argv: str, code: int, words: str) -> None:
    (server / "down").touch()
    said = ask(*argv.split())
    assert (said.code, said.err) == (code, f"Connection refused\n{words.format(server.name)}\n")
    assert "Jobs" not in said.out
    assert said.out.startswith("{") == ("json" in argv)


def test_a_host_that_is_not_trusted(server: Path, held: str) -> None:
    (server / "untrusted").touch()
    assert ask("qsub", "held.sh", host="127.0.0.1") == (175, "", "qsub: Bad UID for job execution\n")
    said = ask("qalter", "-N", "rec", held, host="127.0.0.1")
    assert said == (159, "", f"qalter: Unauthorized Request  {held}\n")
    assert ask("qalter", "-N", "rec", held) == (0, "", "")


def test_a_session_that_is_attached_ends_with_the_job(server: Path) -> None:
    """Another that the job has begun outlives it; for the tests' sake it ends by itself."""
    script = server / "job.sh"
    script.write_text(
        f"#!/bin/bash\n#PBS -o {server}/log\n#PBS -k doe\nexport PATH=$PBS_O_PATH:$PATH\n"
        f"for name in attached free; do setsid sleep 57 & echo $! > {server}/$name; done\n"
        "sleep 0.3\n"
        f'pbs_attach -j $PBS_JOBID -p "$(cat {server}/attached)"; echo rc $?\n'
        "pbs_attach -j 9.none -p $$; echo rc $?\nsleep 60\n"
    )
    job_id = ask("qsub", str(script)).out.strip()
    log = server / "log"
    wait_for(lambda: log.exists() and log.read_text().count("rc") == 2, "it has begun", 30)
    assert log.read_text() == "rc 0\npbs_attach: tm_attach: no matching job found (17006)\nrc 1\n"
    attached, free = (int((server / name).read_text()) for name in ("attached", "free"))
    ask("qdel", job_id)
    wait_for(lambda: not Path(f"/proc/{attached}").exists(), "the attached one is gone", 30)
    assert Path(f"/proc/{free}").exists()
    os.kill(free, 9)
