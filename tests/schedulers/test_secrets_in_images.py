"""Secrets of a job on PBS from state/passed into an image: lifecycle.sh's part on the first node, and on each."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import vllm_hpc
from tests.containers.secret_ranks import LICENSE, SECRETS, SETUP
from tests.containers.stand_in import OF_IMAGE, install, told
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.passed import write_passed
from vllm_hpc.schedulers.containers.runtime import ImageRun
from vllm_hpc.schedulers.containers.runtimes import CONTAINER_RUNTIMES
from vllm_hpc.spec.expand import on_node

pytestmark = pytest.mark.admins
LIFECYCLE = files("vllm_hpc") / "templates" / "lifecycle.sh"
PASSED = ("HF_TOKEN", "SITE_LICENSE", "SITE_LOGIN")
# As the templates have it, down to the line that makes what PBS starts on each node.
SCRIPT = """set -uo pipefail
. {lifecycle}
job="$PWD" _vh_job="$PWD" _vh_attempt=1 VLLM_HPC_JOB_ID=12.server
export VLLM_HPC_FOLDER="$PWD" VLLM_HPC_ATTEMPT=1
keep_passed {names}
{setup}
export NCCL_DEBUG=INFO EMPTY=
restore_passed
image_environment image '' NCCL_DEBUG EMPTY {names}
run_ranks() {{
  enter_image {program} image
  exec {words} sh -c "$VLLM_HPC_IN_IMAGE" sh {python} -P -m rank
}}
make_task_file '$1' NCCL_DEBUG EMPTY
printf '%s\\0' "${{task[@]}}"
"""
# Its environment, once the image is found to have what ranks need.
PYTHON = '#!/bin/sh\nif [ "$1" = -c ]; then exit 0; fi\nenv -0 > "$VLLM_HPC_FOLDER/env"\n'


def begin(name: str, folder: Path) -> list[str]:
    """The task that the job's script has PBS start on each node."""
    (folder / "state").mkdir()
    write_passed(JobFolder(folder), list(PASSED))
    python = folder / "python-of-the-image"
    python.write_text(PYTHON)
    python.chmod(0o755)
    runtime = CONTAINER_RUNTIMES[name]
    install(folder / "bin", runtime.program)
    words = " ".join(map(on_node, runtime.words(ImageRun(image="image", workdir=str(folder)))))
    script = SCRIPT.format(
        lifecycle=LIFECYCLE, names=" ".join(PASSED), setup="\n".join(SETUP), program=runtime.program, words=words,
        python=python,
    )  # fmt: skip
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": "/", "PYTHONPATH": str(Path(vllm_hpc.__file__).parents[1])}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("name", [name for name in CONTAINER_RUNTIMES if name not in ("pyxis", "charliecloud")])
def test_from_the_file_into_the_image(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in PASSED:
        monkeypatch.setenv(variable, SECRETS[variable])
    task = begin(name, tmp_path)
    (text,) = [file.read_text() for file in (tmp_path / "state").glob(".run-*")]
    shown = [text, *task]
    # A task of PBS has nothing of the script's environment.
    done = subprocess.run(
        [*task, "0"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, cwd="/", timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = dict(one.split("=", 1) for one in os.fsdecode((tmp_path / "env").read_bytes()).split("\0")[:-1])
    assert {variable: found.get(variable) for variable in SECRETS} == SECRETS
    assert (found["NCCL_DEBUG"], found["EMPTY"], found["PATH"]) == ("INFO", "", OF_IMAGE["PATH"])
    assert [variable for variable in found if variable.startswith("VLLM_HPC_ENV_")] == []
    shown += [done.stdout, done.stderr, *map(str, told(tmp_path / "bin", CONTAINER_RUNTIMES[name].program)["argv"])]  # type: ignore[call-overload]
    assert [one for one in shown for secret in SECRETS.values() if secret in one or "sesame" in one] == []


def test_the_image_keeps_its_own_value_of_what_has_not_come(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || printenv A B\n')
    python.chmod(0o755)
    words = f'. {LIFECYCLE}\nA=1 B=2\nexport A B\nimage_environment image "" A B\n(unset B\n'
    words += "enter_image sh image\n"
    words += f'A=image B=image exec sh -c "$VLLM_HPC_IN_IMAGE" sh {python} -P)'
    environment = {"PATH": os.environ["PATH"], "VLLM_HPC_FOLDER": str(tmp_path)}
    done = subprocess.run(["bash", "-c", words], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\nimage\n", "")


@pytest.mark.parametrize("python", ["/image/bin/python", ""])
def test_doctor_looks_with_the_images_python_where_the_task_is_in_it(tmp_path: Path, python: str) -> None:
    """Pyxis runs the task in the image: there need not be a ``python``."""
    called = 'printf "%s\\n" "$*" >> "$VLLM_HPC_FOLDER/called"'
    own, image = tmp_path / "python", tmp_path / "image"
    for file, name in ((own, "host"), (image, "image")):
        file.write_text(f'#!/bin/sh\nset -- {name} "$@"\n{called}\n')
        file.chmod(0o755)
    third = str(image) if python else ""
    words = (
        f'. {LIFECYCLE}\nimage_environment image ""\n(enter_image sh image {third}\nnode=1\nbegin_ranks) < /dev/null'
    )
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VLLM_HPC_FOLDER": str(tmp_path), "VLLM_HPC_DOCTOR": "{}"}
    done = subprocess.run(["bash", "-c", words], env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    lines = (tmp_path / "called").read_text().splitlines()
    last = f"{'image' if python else 'host'} -P -m vllm_hpc.in_job doctor {tmp_path} 1"
    assert lines[-1] == last
    assert not [line for line in lines if LICENSE in line or ("host" in line) == bool(python)]
