"""Profiles, templates and job definitions that another user left where the victim works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.conftest import Neighbours

pytestmark = pytest.mark.trust

_RENDER = ("render", "--rehearse", "--scheduler", "slurm")
_PROFILE = '[profiles.site]\nsetup = ["planted=1"]\n'
_TEMPLATE = '{% extends "packaged/slurm.sbatch.j2" %}{% block environment %}{{ super() }}\nplanted=1\n{% endblock %}'


def trust(neighbours: Neighbours) -> None:
    """The victim writes down that the attacker is trusted."""
    victim, attacker, _ = neighbours
    folder = victim.home / ".config" / "vllm-hpc"
    victim.run(["mkdir", "-p", folder], victim.home)
    victim.plant(folder / "config.toml", f"trusted_owners = [{attacker.uid}]\n{_PROFILE.replace('=1', '=2')}", 0o644)


@pytest.mark.parametrize("mode", [0o644, 0o666])
def test_a_planted_profile_is_not_taken(neighbours: Neighbours, mode: int) -> None:
    """Before the victim's own of that name, as vllm-hpc 0.1 did; which file it was, it did not say."""
    victim, attacker, project = neighbours
    attacker.plant(project / "vllm-hpc.toml", _PROFILE, mode)
    done = victim.vllm_hpc(*_RENDER, "--profile", "site", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"belongs to another user ({attacker.uid})" in done.stderr
    trust(neighbours)
    done = victim.vllm_hpc(*_RENDER, "--profile", "site", cwd=project)
    assert (done.returncode, "planted=1" in done.stdout) == ((0, True) if mode == 0o644 else (2, False)), done.stderr
    (project / "vllm-hpc.toml").unlink()
    assert "planted=2" in victim.vllm_hpc(*_RENDER, "--profile", "site", cwd=project).stdout


def test_a_planted_template_is_not_rendered(neighbours: Neighbours) -> None:
    victim, attacker, project = neighbours
    victim.run(["mkdir", "-m", "2770", project / "templates"], project)
    attacker.plant(project / "templates" / "slurm.sbatch.j2", _TEMPLATE, 0o644)
    done = victim.vllm_hpc(*_RENDER, "--template-dir", "templates", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"slurm.sbatch.j2' belongs to another user ({attacker.uid})" in done.stderr
    trust(neighbours)
    assert "planted=1" in victim.vllm_hpc(*_RENDER, "--template-dir", "templates", cwd=project).stdout


def test_a_planted_folder_is_not_the_demo(neighbours: Neighbours) -> None:
    """Neither a job definition nor a model: the name is the built-in one's, as README has everybody type it."""
    victim, attacker, project = neighbours
    attacker.run(["mkdir", project / "demo"], project)
    attacker.plant(project / "demo" / "job.toml", "rehearse = true\nmax_tokens = 7\n", 0o644)
    assert "'demo/job.toml' belongs to another user" in victim.vllm_hpc("plan", "./demo", cwd=project).stdout
    done = victim.vllm_hpc("plan", "demo", cwd=project)
    assert "'demo' is the built-in model: for the folder of that name, write ./demo" in done.stdout
    assert "job.toml" not in done.stdout
    script = victim.vllm_hpc(*_RENDER, "demo", "--name", "a", cwd=project)
    (project / "demo" / "job.toml").unlink()
    assert victim.vllm_hpc(*_RENDER, "demo", "--name", "a", cwd=project).stdout == script.stdout


@pytest.mark.parametrize("name", ["./demo", "model"])
def test_a_planted_job_definition_runs_no_code(neighbours: Neighbours, name: str) -> None:
    """MODEL is a folder of that name in the working directory, if there is one."""
    victim, attacker, project = neighbours
    attacker.run(["mkdir", project / name], project)
    attacker.plant(project / name / "job.toml", "rehearse = true\nenv = { LD_PRELOAD = '/tmp/planted.so' }\n", 0o644)
    done = victim.vllm_hpc(*_RENDER, name, cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'env' may run or be charged as yours, but '{Path(name)}/job.toml' belongs to another user" in done.stderr
    attacker.plant(project / name / "job.toml", "rehearse = true\nmax_tokens = 7\n", 0o644)
    done = victim.vllm_hpc("plan", name, cwd=project)
    assert f"'{Path(name)}/job.toml' belongs to another user" in done.stdout


def test_a_link_to_the_victims_own_file_is_no_input(neighbours: Neighbours) -> None:
    """What the attacker cannot read would be copied into the job's folder, where the group reads it."""
    victim, attacker, project = neighbours
    victim.run(["mkdir", "-m", "700", victim.home / "private"], project)
    victim.plant(victim.home / "private" / "rows.txt", "a secret\n", 0o644)
    attacker.run(["ln", "-s", victim.home / "private" / "rows.txt", "rows.txt"], project)
    attacker.run(["ln", "-s", victim.home / "private", "inputs"], project)
    for given in ("rows.txt", "inputs/rows.txt", "inputs"):
        words = ("--scheduler", "local", "--rehearse", "--job-dir", project, "--name", "job", "--input", given)
        done = victim.vllm_hpc("submit", *words, cwd=project)
        assert (done.returncode, f"is a link of another user ({attacker.uid}) to your own" in done.stderr) == (2, True)
        assert not (project / "job").exists()
    victim.run(["ln", "-s", victim.home / "private", victim.home / "own"], project)
    plan = ("plan", "--rehearse", "--scheduler", "slurm", "--input", victim.home / "own" / "rows.txt")
    assert victim.vllm_hpc(*plan).returncode == 0
    attacker.plant(project / "theirs.txt", "a\n", 0o644)
    attacker.run(["ln", "-sf", project / "theirs.txt", "rows.txt"], project)
    assert victim.vllm_hpc(*plan[:-1], project / "rows.txt").returncode == 0


def test_what_a_job_keeps_of_a_colleagues_file_is_no_profile(neighbours: Neighbours) -> None:
    """The job's copy of a chat template is the victim's own, which the attacker moves to where a profile is read."""
    victim, attacker, project = neighbours
    attacker.plant(project / "chat.jinja", f"# {{{{ messages }}}}\n{_PROFILE}", 0o644)
    words = ("submit", "--rehearse", "--scheduler", "local", "--job-dir", project, "--name", "job")
    done = victim.vllm_hpc(*words, "--chat-template", project / "chat.jinja", umask=0o002)
    assert done.returncode == 0, done.stderr
    moved = attacker.run(["mv", "job/chat-template.jinja", "vllm-hpc.toml"], project)
    assert moved.returncode != 0, "a job's folder is its owner's alone to write"
    attacker.run(["ln", "-s", "job/chat-template.jinja", "vllm-hpc.toml"], project)
    done = victim.vllm_hpc(*_RENDER, "--profile", "site", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert "vllm-hpc.toml' belongs to another user" in done.stderr
