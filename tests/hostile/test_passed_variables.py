"""Variables that are given by their name alone: the job inherits them, and no file has their values."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest

from tests.conftest import Cli
from tests.crafted import end, make_job, result, start, write_lines
from tests.hostile.test_secrets import HF, URL, WORD
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.new_folder import write_folder
from vllm_hpc.jobs.resume import resume
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.job_definition import read_options

pytestmark = pytest.mark.trust

LIFECYCLE = files("vllm_hpc") / "templates" / "lifecycle.sh"


def test_secret_that_is_named_reaches_sbatch_and_no_file(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = desk / "bin" / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("echo 4711", 'env > "$(dirname "$0")/seen"; echo 4711'))
    for name, value in (("HF_TOKEN", HF), ("https_proxy", URL), ("SITE_LOGIN", WORD)):
        monkeypatch.setenv(name, value)
    named = ("--env", "HF_TOKEN", "--env", "https_proxy", "--env", "SITE_LOGIN", "--env", "SIZE=3")
    done = run_cli("submit", "model", *named, "--scheduler", "slurm", "--name", "run", "--json")
    assert done.code == 0, done.err
    request = json.loads((desk / "runs" / "run" / "job.json").read_text())["request"]
    assert (request["env"], request["pass_env"]) == ({"SIZE": "3"}, ["HF_TOKEN", "https_proxy", "SITE_LOGIN"])
    files = [path.read_text() for path in (desk / "runs").rglob("*") if path.is_file()]
    assert not [text for text in [done.out, done.err, *files] if HF in text or WORD in text]
    seen = (desk / "bin" / "seen").read_text()
    assert f"HF_TOKEN={HF}\n" in seen
    assert f"https_proxy={URL}\n" in seen
    assert f"SITE_LOGIN={WORD}\n" in seen


@pytest.mark.parametrize("words", [("--scheduler", "pbs"), ("--profile", "bare")], ids=["pbs", "profile"])
def test_where_the_job_would_not_inherit_it_a_file_of_the_owner_alone_has_it(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    (desk / "vllm-hpc.toml").write_text(
        "[profiles.bare]\nscheduler = 'slurm'\nexport_environment = false\nenv = { COLOUR = 'red' }\n"
    )
    monkeypatch.setenv("COLOUR", "blue\n$(touch no)")
    monkeypatch.setenv("HF_TOKEN", HF)
    umask = os.umask(0o002)
    try:
        options = {"rehearse": True, "env": {"COLOUR": None, "HF_TOKEN": None, "SIZE": "3"}, words[0][2:]: words[1]}
        prepared = prepare("model", name="run", **options)
        JobFolder(prepared.folder).create()
        write_folder(JobFolder(prepared.folder), prepared)
    finally:
        os.umask(umask)
    assert (prepared.request.env, prepared.request.pass_env) == ({"SIZE": "3"}, ["COLOUR", "HF_TOKEN"])
    files = {path.name: path for path in (desk / "runs").rglob("*") if path.is_file()}
    passed = files.pop("passed")
    assert passed.read_bytes() == f"COLOUR=blue\n$(touch no)\0HF_TOKEN={HF}\0".encode()
    assert passed.stat().st_mode & 0o777 == 0o600
    assert not [name for name, path in files.items() if HF in path.read_text() or "blue" in path.read_text()]
    assert HF not in run_cli("plan", "model", "--rehearse", *words, "--env", "HF_TOKEN", "--json").out


def test_passed_variable_overrides_the_profile_and_its_setup(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "vllm-hpc.toml").write_text(
        "[profiles.here]\nscheduler = 'local'\nenv = { COLOUR = 'red' }\nsetup = ['export COLOUR=green']\n"
    )
    monkeypatch.setenv("COLOUR", "a 'blue' $(touch no)")
    script = run_cli("render", "model", "--rehearse", "--profile", "here", "--env", "COLOUR").out
    lines = script.splitlines()
    kept, setup, restored = map(lines.index, ("keep_passed COLOUR", "export COLOUR=green", "restore_passed"))
    assert kept < setup < restored
    assert "COLOUR=red" not in script
    shell = f"set -uo pipefail\n. {LIFECYCLE}\n_vh_job={desk}\n"
    shell += "keep_passed COLOUR\nexport COLOUR=green\nrestore_passed\nprintenv COLOUR"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, timeout=20)
    assert (done.stdout, done.returncode) == ("a 'blue' $(touch no)\n", 0), done.stderr
    monkeypatch.delenv("COLOUR")
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, timeout=20)
    assert (done.stdout, done.returncode) == ("", 1)
    assert "the job has not got COLOUR: export it where you submit" in done.stderr


def test_variables_are_merged_by_name(desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk / "definition").mkdir()
    (desk / "definition" / "job.toml").write_text(
        "model = '../model'\npass_env = ['A', 'B']\n[env]\nC = 'c'\nD = 'd'\n"
    )
    for name in "ABCE":
        monkeypatch.setenv(name, "here")
    request = read_options({"model": "definition", "env": {"A": "given", "C": None, "E": None}}).request
    assert (request.env, request.pass_env) == ({"D": "d", "A": "given"}, ["B", "C", "E"])


def test_variable_of_both_kinds_is_refused(desk: Path, model: Path) -> None:
    with pytest.raises(RequestError, match=r"^pass_env has A, which has a value in env: leave out one$"):
        read_options({"model": "model", "pass_env": ["A"], "env": {"A": "x"}})
    with pytest.raises(RequestError, match=r"^pass_env must be a list of strings"):
        read_options({"model": "model", "pass_env": "A"})
    with pytest.raises(RequestError, match=r"^pass_env PATH cannot be set"):
        read_options({"model": "model", "pass_env": ["PATH"]})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--env", "NOWHERE"), "--env NOWHERE names a variable that is not set here: export it, or give a value"),
        (("--env", "EMPTY"), "--env EMPTY names a variable that is not set here: export it, or give a value"),
        (("--env", "API_KEY"), "--env API_KEY names a variable that is not set here: export it\n"),
        (("--env", "SLURM_JOB_ID"), "--env SLURM_JOB_ID cannot be set"),
        (("--env", "VLLM_HPC_STALL_S"), "--env VLLM_HPC_STALL_S must be a whole number of seconds"),
        (("--env", "PATH"), "--env PATH cannot be set"),
        (("--env", "A-B"), "--env 'A-B' is not a valid name"),
    ],
    ids=["unset", "empty", "unset secret", "the scheduler's", "no seconds", "reserved", "no name"],
)
def test_name_that_cannot_be_passed_is_refused(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    for name, value in (("HF_TOKEN", HF), ("EMPTY", ""), ("VLLM_HPC_STALL_S", "soon")):
        monkeypatch.setenv(name, value)
    done = run_cli("plan", "model", *words)
    assert done.code == 2
    assert said in done.err
    assert HF not in done.out + done.err


def test_job_definition_names_secrets(desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk / "definition").mkdir()
    (desk / "definition" / "job.toml").write_text("model = '../model'\npass_env = ['HF_TOKEN']\n")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert "--env HF_TOKEN names a variable that is not set here" in run_cli("submit", "definition").err
    monkeypatch.setenv("HF_TOKEN", HF)
    done = run_cli("submit", "definition", "--scheduler", "slurm", "--name", "run")
    assert done.code == 0, done.err
    assert HF not in (desk / "runs" / "run" / "job.json").read_text()


def let_pass_token(folder: JobFolder) -> None:
    """As if the job had been submitted with --env HF_TOKEN."""
    (folder.path / "script.sh").write_text("true\n")
    record = folder.job()
    request = msgspec.structs.replace(record.request, pass_env=["HF_TOKEN"])
    write_json(folder.job_json, msgspec.structs.replace(record, request=request))


def test_resume_needs_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path / "job")
    start(folder)
    end(folder, 1)
    let_pass_token(folder)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(RequestError, match=r"takes HF_TOKEN from .* not set here: export it and run resume again$"):
        resume(folder)


def test_resume_with_nothing_left_needs_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path / "job")
    start(folder)
    write_lines(folder.shards / "replica-0.1.jsonl", [result(index) for index in range(3)])
    end(folder, 1)
    let_pass_token(folder)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert resume(folder).left == 0
