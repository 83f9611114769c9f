"""The words of each container runtime, as its documentation has them, and what the command in the image has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.containers.stand_in import OF_IMAGE, install, told
from vllm_hpc.schedulers.containers.runtime import ImageRun
from vllm_hpc.schedulers.containers.runtimes import CONTAINER_RUNTIMES
from vllm_hpc.spec.container import RUNTIMES, Bind
from vllm_hpc.spec.expand import on_node

pytestmark = pytest.mark.admins
# Those that have a program of their own, which is not in Debian.
IN_FRONT = [name for name in RUNTIMES if name not in ("charliecloud", "pyxis")]
RUN = ImageRun(
    image="/sw/vllm.sif", binds=(Bind("/runs/a", "/runs/a"), Bind("/opt/x", "/y", True)), options=("--opt",),
    gpu="nvidia", workdir="/runs/a",
)  # fmt: skip
WORDS = {
    "apptainer": "apptainer exec --nv --pwd=/runs/a --bind=/runs/a:/runs/a --bind=/opt/x:/y:ro --opt /sw/vllm.sif",
    "singularity": "singularity exec --nv --pwd=/runs/a --bind=/runs/a:/runs/a --bind=/opt/x:/y:ro --opt /sw/vllm.sif",
    "podman": "podman run --rm --device=nvidia.com/gpu=all --network=host --pid=host --ipc=host "
    "--security-opt=label=disable --env-host --workdir=/runs/a --volume=/runs/a:/runs/a --volume=/opt/x:/y:ro --opt "
    "--entrypoint=env /sw/vllm.sif",
    "podman-hpc": "podman-hpc run --rm --gpu --network=host --pid=host --ipc=host --security-opt=label=disable "
    "--env-host --workdir=/runs/a --volume=/runs/a:/runs/a --volume=/opt/x:/y:ro --opt --entrypoint=env /sw/vllm.sif",
    "shifter": "shifter --image=/sw/vllm.sif --workdir=/runs/a --volume=/runs/a:/runs/a --volume=/opt/x:/y:ro --opt",
    "charliecloud": "ch-run --unset-env=LD_LIBRARY_PATH "
    "--set-env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cd=/runs/a --bind=/runs/a:/runs/a "
    "--bind=/opt/x:/y --opt /sw/vllm.sif --",
    "pyxis": "--container-image=/sw/vllm.sif --container-mounts=/runs/a:/runs/a,/opt/x:/y:ro "
    "--container-workdir=/runs/a --no-container-mount-home --no-container-remap-root --no-container-entrypoint --opt",
}


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_words_of_a_runtime(name: str) -> None:
    assert " ".join(CONTAINER_RUNTIMES[name].words(RUN)) == WORDS[name]


@pytest.mark.parametrize(
    ("gpu", "options", "flags"),
    [("amd", (), ["--rocm"]), ("", (), []), ("nvidia", ("--rocm",), ["--rocm"]), ("nvidia", (), ["--nv"])],
)
def test_the_gpus_of_an_image(gpu: str, options: tuple[str, ...], flags: list[str]) -> None:
    words = CONTAINER_RUNTIMES["apptainer"].words(msgspec.structs.replace(RUN, gpu=gpu, options=options))
    assert [word for word in words if word in ("--nv", "--rocm")] == flags


def test_charliecloud_reads_the_environment_of_an_image_that_has_one() -> None:
    words = CONTAINER_RUNTIMES["charliecloud"].words(msgspec.structs.replace(RUN, has_environment=True))
    assert words.index("--set-env") > next(n for n, word in enumerate(words) if word.startswith("--set-env=PATH="))


# -- what the command in the image has ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IN_FRONT)
def test_the_command_has_the_images_path_and_the_jobs_variables(name: str, tmp_path: Path) -> None:
    """lifecycle.sh on the host, the runtime's stand-in, lifecycle.sh's part in the image, and then the Python."""
    bin_folder = tmp_path / "bin"
    install(bin_folder, name)
    image = tmp_path / "vllm.sif"
    image.touch()
    folder = tmp_path / ("ab" if name == "shifter" else "a b")
    folder.mkdir()
    run = ImageRun(image=str(image), binds=(Bind.same(str(folder)),), workdir=str(folder))
    words = " ".join(map(on_node, CONTAINER_RUNTIMES[name].words(run)))
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\nif [ "$1" = -c ]; then exit 0; fi\nenv -0 | sort -z | tr "\\0" "\\n"\npwd\necho "[$*]"\n'
    )
    python.chmod(0o755)
    script = f"""
    eval "$(cat {Path(__file__).parents[2] / "templates" / "lifecycle.sh"})"
    export NCCL_DEBUG="of the job's \\$(x)" PYTHONPATH=/of/host LD_PRELOAD= VLLM_HPC_FOLDER=/f TMPDIR=/no/such
    image_environment {on_node(str(image))} '' NCCL_DEBUG
    enter_image {CONTAINER_RUNTIMES[name].program} {on_node(str(image))}
    exec {words} sh -c "$VLLM_HPC_IN_IMAGE" sh {python} -P -m "a b"
    """
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert f"PATH={OF_IMAGE['PATH']}" in lines
    assert "NCCL_DEBUG=of the job's $(x)" in lines
    assert "OF_THE_IMAGE=yes" in lines
    assert "PYTHONNOUSERSITE=1" in lines
    assert [line for line in lines if line.startswith(("PYTHONPATH=", "TMPDIR="))] == []
    assert lines[-2:] == [str(folder), "[-P -m a b]"]
    assert told(bin_folder, name)["binds"] == [[str(folder), str(folder), ""]]


def in_image(tmp_path: Path, python: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """lifecycle.sh's part in the image, by a plain sh, as if this machine were one."""
    lifecycle = Path(__file__).parents[2] / "templates" / "lifecycle.sh"
    begin = f'eval "$(cat {lifecycle})"\nimage_environment an-image "$BUNDLE"\n'
    script = f'{begin}exec sh -c "$VLLM_HPC_IN_IMAGE" sh {python} -P -c 1'
    environment = {**os.environ, "VLLM_HPC_FOLDER": str(tmp_path), "BUNDLE": "", **variables}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)


@pytest.mark.parametrize(
    ("python", "variables", "words"),
    [
        ("no-such-python", {}, "the image an-image has no no-such-python: name its Python"),
        ("python3", {"BUNDLE": "/no/such"}, "no folder of vllm-hpc bundle in the image: /no/such"),
        (f"{sys.executable} -S", {"PYTHONPATH": ""}, "the image an-image lacks vllm_hpc: make a folder that has it"),
        (sys.executable, {}, "the image an-image does not have the job folder"),
    ],
    ids=["no python", "no bundle", "no vllm_hpc", "no folder"],
)
def test_what_an_image_lacks_is_one_line(tmp_path: Path, python: str, variables: dict[str, str], words: str) -> None:
    if " " in python:  # a Python that finds no packages, which is one word there
        wrapper = tmp_path / "bare"
        wrapper.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        wrapper.chmod(0o755)
        python = str(wrapper)
    done = in_image(tmp_path, python, **variables)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("vllm-hpc: ")
    assert words in line


def test_another_version_in_the_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"versions": {"vllm-hpc": "9.9"}}')
    done = in_image(tmp_path, sys.executable)
    assert "but 9.9 submitted the job: install the same" in done.stderr


@pytest.mark.parametrize(
    ("program", "image", "words"),
    [("no-such-runtime", "img", "has no no-such-runtime, which runs"), ("sh", "/no/such.sif", "has no image /no/such")],
)
def test_a_node_without_the_runtime_or_the_image_says_so(program: str, image: str, words: str) -> None:
    lifecycle = Path(__file__).parents[2] / "templates" / "lifecycle.sh"
    script = f'eval "$(cat {lifecycle})"\nenter_image {program} {image}\necho on'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert words in done.stderr
