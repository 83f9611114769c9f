"""Containers that map the user alone, as unprivileged Apptainer: there root's files look like any other user's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.accounts import VLLM_HPC, Account
from tests.hostile.conftest import Neighbours

pytestmark = pytest.mark.trust

_RENDER = ("render", "--rehearse", "--scheduler", "slurm", "--profile", "site")
_MACHINE_FOLDER = "from vllm_hpc.spec.user_cache import machine_folder; print(machine_folder())"


def contained(user: Account, *argv: str | Path, cwd: Path, tmp: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command as the user in such a container, with ``tmp`` as TMPDIR."""
    alone = ("unshare", "--user", f"--map-user={user.uid}", f"--map-group={user.uid}", "--")
    if (tried := user.run([*alone, "stat", "-c", "%u", "/"], cwd)).stdout.strip() != "65534":
        pytest.skip(f"a container of one user cannot be had here: {tried.stderr.strip()}")
    return user.run([*alone, *argv], cwd, TMPDIR=str(tmp or user.home))


def test_the_users_folder_on_the_node_is_used(neighbours: Neighbours) -> None:
    """It is in a folder of root's, or /tmp; without it no compiled code was kept."""
    victim = neighbours.victim
    home = contained(victim, sys.executable, "-c", _MACHINE_FOLDER, cwd=victim.home)
    assert home.stdout.strip() == str(victim.home / f"vllm-hpc-{victim.uid}"), home.stderr
    in_tmp = contained(victim, sys.executable, "-c", _MACHINE_FOLDER, cwd=victim.home, tmp=Path("/tmp"))
    victim.run(["rmdir", f"/tmp/vllm-hpc-{victim.uid}"], Path("/"))
    assert in_tmp.stdout.strip() == f"/tmp/vllm-hpc-{victim.uid}", in_tmp.stderr


def test_it_is_where_the_user_is_called_root(neighbours: Neighbours) -> None:
    """As with 'apptainer --fakeroot': root itself is not mapped, and its files are not the user's."""
    victim = neighbours.victim
    words = ("unshare", "--user", "--map-root-user", "--", sys.executable, "-c", _MACHINE_FOLDER)
    done = victim.run(words, victim.home)
    if "unshare failed" in done.stderr:
        pytest.skip(f"a container of one user cannot be had here: {done.stderr.strip()}")
    assert done.stdout.strip() == str(victim.home / "vllm-hpc-0"), done.stderr


@pytest.mark.parametrize("mode", ["777", "1777"])
def test_one_that_others_may_replace_is_not(neighbours: Neighbours, mode: str) -> None:
    """Also a sticky one looks as if it were root's, and its owner may rename what is in it."""
    victim, attacker, _ = neighbours
    open_folder = attacker.home / "scratch"
    attacker.run(["mkdir", "-m", mode, open_folder], attacker.home)
    victim.run(["mkdir", "-m", "700", open_folder / f"vllm-hpc-{victim.uid}"], victim.home)
    moved = attacker.run(["mv", open_folder / f"vllm-hpc-{victim.uid}", open_folder / "mine"], attacker.home)
    assert moved.returncode == 0
    done = contained(victim, sys.executable, "-c", _MACHINE_FOLDER, cwd=victim.home, tmp=open_folder)
    assert (done.stdout, done.stderr.splitlines()[-1].partition(":")[0]) == ("", "PermissionError")


def test_a_planted_profile_is_not_roots(neighbours: Neighbours) -> None:
    """Not even where the uid that all strangers have there is trusted."""
    victim, attacker, project = neighbours
    attacker.plant(project / "vllm-hpc.toml", '[profiles.site]\nsetup = ["planted=1"]\n', 0o644)
    config = victim.home / ".config" / "vllm-hpc"
    victim.run(["mkdir", "-p", config], victim.home)
    victim.plant(config / "config.toml", "trusted_owners = [65534]\n", 0o644)
    done = contained(victim, *VLLM_HPC, *_RENDER, cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    said = "'vllm-hpc.toml' belongs to a user whom this container does not show: make a copy of your own"
    assert done.stderr == f"Error: {said}\n"
