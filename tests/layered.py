"""A site's profile in three files, with a template of the site's own: what tests of real schedulers submit with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_jobs import ONE_CORE, ends_as, submit_tiny
from vllm_hpc import Job
from vllm_hpc.spec.profile_layers import find_profile

# Each node says what it was given, from the site's file (BASE), the user's (OWN) and the project's (MORE).
_EVIDENCE = """'echo "$BASE/$OWN/$MORE/$BLOCK" > "$VLLM_HPC_FOLDER/said-by-$node"'"""
_SITE = """[profiles.big]
description = "the test cluster"
template_dir = "templates"
node_setup = [%s]
env = { BASE = "of $USER", OWN = "site", MORE = "site" }
[profiles.big.queues.%s]
max_nodes = 2
"""
_USER = """[profiles.big]
env = { OWN = "user" }
setup = ["export BLOCK=by-setup"]
"""
_PROJECT = """[profiles.mine]
extends = "big"
env = { MORE = "a b" }
node_setup = ["cd /", "+"]
"""
_BLOCK = """{%% extends "packaged/%s" %%}
{%% block environment %%}{{ super() }}
export BLOCK="$BLOCK-and-template"
{%% endblock %%}
"""


def check_layers(work: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, template: str, queue: str) -> None:
    """Submit with those files, and see that every node got the values of all of them."""
    site, user, project = work / "etc/vllm-hpc", work / "home/vllm-hpc", work / "project"
    for folder in (site / "templates", user, project):
        folder.mkdir(parents=True)
    (site / "config.toml").write_text(_SITE % (_EVIDENCE, queue))
    (site / "templates" / template).write_text(_BLOCK % template)
    (user / "config.toml").write_text(_USER)
    (project / "vllm-hpc.toml").write_text(_PROJECT)
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(work / "etc"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(work / "home"))
    monkeypatch.chdir(project)
    job = submit_tiny(None, work, scheduler=scheduler, profile="mine", nodes=2, tp=2, env=ONE_CORE, rehearse=True)
    ends_as(job, "COMPLETED", 120)
    _check_evidence(job)
    origins = find_profile("mine").origins
    assert origins["env", "BASE"] == f"{site}/config.toml:5"
    assert origins["env", "OWN"] == f"{user}/config.toml:2"
    assert origins["env", "MORE"] == f"{project}/vllm-hpc.toml:3"
    assert origins["node_setup",] == f"{site}/config.toml:4, {project}/vllm-hpc.toml:4"


def _check_evidence(job: Job) -> None:
    import getpass

    said = {file.read_text() for file in job.path.glob("said-by-*")}
    assert len(list(job.path.glob("said-by-*"))) == 2, job.logs()
    assert said == {f"of {getpass.getuser()}/user/a b/by-setup-and-template\n"}
