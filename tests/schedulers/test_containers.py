"""Container wrappers: which runtime, its words as its documentation has them, what is bound, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import Cli
from tests.containers.stand_in import OF_IMAGE, PROGRAMS, install, told
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.containers.binds import all_binds
from vllm_hpc.schedulers.containers.choose import choose_container
from vllm_hpc.schedulers.containers.node_word import node_word, with_defaults
from vllm_hpc.schedulers.containers.runtime import ImageRun
from vllm_hpc.schedulers.containers.runtimes import CONTAINER_RUNTIMES
from vllm_hpc.spec.container import RUNTIMES, Bind, Container, check_container, parse_bind
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.resolved_job import ResolvedJob

pytestmark = pytest.mark.admins
# Those that have a program of their own, which is not in Debian.
IN_FRONT = [name for name in RUNTIMES if name not in ("charliecloud", "pyxis")]


# -- which runtime ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "runtime"),
    [("/sw/vllm.sif", "apptainer"), ("/sw/vllm.sqsh", "pyxis"), ("/sw/v.sqfs", "charliecloud"), (".", "charliecloud")],
)
def test_the_form_of_an_image_says_what_runs_it(image: str, runtime: str) -> None:
    found = choose_container(image, None)
    assert found is not None
    assert (found.runtime, Path(str(found.image)).is_absolute()) == (runtime, True)


def test_the_option_has_the_profiles_runtime_and_all_else_of_it() -> None:
    site = Container(runtime="singularity", image="/sw/old.sif", binds=("/opt",), python="python3.12")
    found = choose_container("/sw/new.sif", site)
    assert found == msgspec.structs.replace(site, image="/sw/new.sif")


@pytest.mark.parametrize("asked", ["", None])
def test_no_image_is_no_container(asked: str | None) -> None:
    assert choose_container(asked, None) is None
    assert choose_container("", Container(runtime="apptainer", image="/sw/vllm.sif")) is None
    assert choose_container(None, Container(runtime="apptainer")) is None


@pytest.mark.parametrize(
    ("image", "site", "words"),
    [
        ("vllm/vllm-openai", None, "does not tell what runs it"),
        ("docker://vllm/vllm-openai", None, "write container = { runtime"),
        ("/sw/vllm.tar", None, "does not tell"),
        ("/sw/vllm.sif", Container(runtime="podman"), "is an image for apptainer, not for podman"),
        (".", Container(runtime="pyxis"), "is an image for charliecloud, not for pyxis"),
    ],
)
def test_an_image_that_nothing_can_run_is_refused(image: str, site: Container | None, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        choose_container(image, site)


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"image": "--writable"}, "must be an image"),
        ({"image": "a\nb"}, "newline"),
        ({"image": "images/vllm.sif"}, "absolute path"),
        ({"image": "./vllm"}, "absolute path"),
        ({"binds": ("/a:/b:ro:x",)}, "HOST"),
        ({"binds": ("a:/b",)}, "absolute"),
        ({"binds": ("/a:b",)}, "absolute"),
        ({"binds": ("",)}, "empty"),
        ({"binds": ("/a:/b:rx",)}, "HOST"),
        ({"options": ("a\tb",)}, "control character"),
        ({"options": ("--env=HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyzabcdefgh",)}, "secret|token"),
        ({"python": ""}, "empty"),
        ({"python": "-c"}, "must be the image's Python"),
        ({"bundle": "bundle"}, "absolute path"),
    ],
)
def test_a_container_of_a_profile_is_checked(container: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_container(Container(**container), "container")


def test_a_profile_names_its_line(desk: Path, run_cli: Cli) -> None:
    (desk / "vllm-hpc.toml").write_text(
        '[profiles.p]\nnodes = 1\ncontainer = { binds = ["x"] }\n'.replace("nodes = 1", "")
    )
    code, _, err = run_cli("plan", "--rehearse", "--profile", "p", "--scheduler", "slurm")
    assert code == 2
    assert "vllm-hpc.toml:3: container.binds must be HOST[:INSIDE[:ro]]" in err


@pytest.mark.parametrize("scheduler", ["pbs", "local"])
def test_pyxis_is_part_of_srun(desk: Path, scheduler: str) -> None:
    with pytest.raises(RequestError, match="pyxis is part of srun, but the scheduler is"):
        prepare(rehearse=True, scheduler=scheduler, container="/sw/vllm.sqsh")


# -- words -----------------------------------------------------------------------------------------------------------

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


# -- words, as a real bash hands them to the runtime -------------------------------------------------------------------

NAMES = st.text(
    st.characters(min_codepoint=32, exclude_characters="/\x7f", exclude_categories=["Cs", "Cc"]), max_size=12
)
NASTY = ["a b", "$HOME", "${X:-y}", "it's", 'd"q', "a,b", "a:b", "#1", "`id`", "é", "*", "{{ x }}", "$$", "%j", "~"]


def shell_words(words: tuple[str, ...]) -> list[str]:
    line = "printf '%s\\0' " + " ".join(map(node_word, words))
    environment = {"PATH": os.environ["PATH"], "X": "wrong", "HOME": "wrong"}
    return subprocess.run(
        ["bash", "-uc", line], capture_output=True, check=True, env=environment, text=True
    ).stdout.split("\0")[:-1]


@given(NAMES)
@settings(max_examples=25)
def test_what_is_written_literally_comes_out_of_bash_as_it_was(name: str) -> None:
    assert shell_words((f"/{name}".replace("$", "$$"),)) == [f"/{name}"]


def test_variables_are_the_nodes_and_are_neither_split_nor_expanded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    line = f'printf "%s\\n" {node_word("--bind=$A/x:${B:-d $(id)}")} {node_word("$$A")}'
    done = subprocess.run(["bash", "-uc", line], capture_output=True, text=True, env={**os.environ, "A": "p q$(id)*"})
    assert done.stdout == "--bind=p q$(id)*/x:d $(id)\n$A\n"
    unset = subprocess.run(["bash", "-uc", f"echo {node_word('$NO_SUCH/x')}"], capture_output=True, text=True)
    assert unset.returncode != 0
    assert "NO_SUCH" in unset.stderr


def test_what_of_a_bind_is_known() -> None:
    assert with_defaults("${A:-b:c}/d$$e$F") == "b:c/d$e"
    assert parse_bind("${A:-/b:c}/d:/e:ro", "x") == Bind("${A:-/b:c}/d", "/e", True)
    assert parse_bind("$SCRATCH", "x") == Bind("$SCRATCH", "$SCRATCH")


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("nasty", [*NASTY, "plain-1_2.3+4"])
def test_a_hostile_folder_reaches_the_runtime_or_is_refused(name: str, nasty: str, tmp_path: Path) -> None:
    """The stand-in reads its line by the runtime's documented grammar: the folder is bound, or was refused before."""
    folder = Path("/scratch") / f"x{nasty}"
    runtime = CONTAINER_RUNTIMES[name]
    job = a_job()
    container = Container(runtime=name, image="/sw/no-such-image")  # type: ignore[arg-type]
    try:
        binds = all_binds(job, container, runtime, folder, [])
    except RequestError as error:
        assert str(error).startswith(f"{name} cannot bind {str(folder)!r}, because of the ")
        assert re.search(runtime.unfit, nasty)
        return
    run = ImageRun(image="img", binds=binds, workdir=str(folder).replace("$", "$$"))
    words = shell_words(runtime.words(run))
    if name == "charliecloud":
        assert f"--bind={folder}:{folder}" in words
        assert ":" not in str(folder)
    elif name == "pyxis":
        (mounts,) = [word for word in words if word.startswith("--container-mounts=")]
        assert f"{folder}:{folder}" in mounts.partition("=")[2].split(",")
    else:
        _, found, workdir, _, _ = PROGRAMS[name]([*words[1:], *(["img"] if name == "shifter" else []), "true"])
        assert (str(folder), str(folder), "") in found
        assert workdir == str(folder)


def a_job(model: str = "demo", **request: Any) -> ResolvedJob:
    """A job as the binds see it."""
    prepared = prepare(rehearse=True, scheduler="slurm", **request)
    return msgspec.structs.replace(prepared.job, model=msgspec.structs.replace(prepared.job.model, path=model))


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
    words = " ".join(map(node_word, CONTAINER_RUNTIMES[name].words(run)))
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\nif [ "$1" = -c ]; then exit 0; fi\nenv -0 | sort -z | tr "\\0" "\\n"\npwd\necho "[$*]"\n'
    )
    python.chmod(0o755)
    script = f"""
    eval "$(cat {Path(__file__).parents[2] / "templates" / "lifecycle.sh"})"
    export NCCL_DEBUG="of the job's \\$(x)" PYTHONPATH=/of/host LD_PRELOAD= VLLM_HPC_FOLDER=/f TMPDIR=/no/such
    image_environment {node_word(str(image))} '' NCCL_DEBUG
    enter_image {CONTAINER_RUNTIMES[name].program} {node_word(str(image))}
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


# -- what is bound -----------------------------------------------------------------------------------------------------


def binds_of(job: ResolvedJob, folder: str, *needs: Path, **container: Any) -> list[Bind]:
    site = Container(runtime="apptainer", image="/sw/vllm.sif", **container)
    return list(all_binds(job, site, CONTAINER_RUNTIMES["apptainer"], Path(folder), needs))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this test's folder were no part of /tmp, which is in every image."""
    monkeypatch.setattr("vllm_hpc.schedulers.containers.binds._TMP", Path("/no/tmp"))


@pytest.mark.usefixtures("elsewhere")
def test_the_folders_of_a_job_are_bound(desk: Path) -> None:
    model = desk / "hub" / "snapshots" / "abc"
    blobs = desk / "hub" / "blobs"
    for folder in (model, blobs):
        folder.mkdir(parents=True)
    (blobs / "1").touch()
    (model / "config.json").symlink_to("../../blobs/1")
    tokenizer = desk / "tok"
    tokenizer.mkdir()
    job = a_job(str(model), engine={"tokenizer": str(tokenizer), "hf_overrides": {"x": "/no/such"}})
    found = binds_of(job, "/runs/job", Path("/data/in"), bundle="/sw/bundle", binds=("/opt:/o:ro",))
    assert found[-1] == Bind("/opt", "/o", True)
    assert Bind("/runs/job", "/runs/job") in found
    read_only = {bind.host for bind in found if bind.read_only and bind.host == bind.inside}
    assert read_only == {str(model), str(blobs), str(tokenizer), "/data/in", "/sw/bundle"}
    cache = str(Path(os.environ["XDG_CACHE_HOME"]) / "vllm-hpc")
    assert Bind(cache, cache) in found


@pytest.mark.usefixtures("elsewhere")
def test_what_lies_in_another_folder_is_bound_with_it(desk: Path) -> None:
    job = a_job()
    found = binds_of(job, "/data/runs/job", Path("/data"), Path("/data/runs"), Path("/data/in"))
    assert [bind for bind in found if bind.host.startswith("/data")] == [
        Bind("/data", "/data", True), Bind("/data/runs/job", "/data/runs/job"),
    ]  # fmt: skip


def test_charliecloud_binds_at_an_empty_folder_of_the_image(desk: Path) -> None:
    image = desk / "image"
    (image / "scratch").mkdir(parents=True)
    (image / "opt" / "venv").mkdir(parents=True)
    site = Container(runtime="charliecloud", image=str(image))
    runtime = CONTAINER_RUNTIMES["charliecloud"]
    found = all_binds(a_job(), site, runtime, Path("/scratch/me/runs/job"), [Path("/scratch/me/models")])
    assert Bind("/scratch", "/scratch") in found
    with pytest.raises(RequestError, match=f"mkdir -p {image}/opt/runs"):
        all_binds(a_job(), site, runtime, Path("/opt/runs/job"), [])


def test_a_bind_that_charliecloud_would_write_to_is_refused(desk: Path) -> None:
    site = Container(runtime="charliecloud", image="/sw/image", binds=("/data:/data:ro",))
    with pytest.raises(RequestError, match="cannot bind '/data' read-only"):
        all_binds(a_job(), site, CONTAINER_RUNTIMES["charliecloud"], Path("/runs/x"), [])


def test_a_referenced_input_is_bound(desk: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: None) -> None:
    monkeypatch.setenv("VLLM_HPC_REFERENCE_OVER", "10")
    data = desk / "data"
    data.mkdir()
    (data / "in.jsonl").write_text('{"prompt": "hello"}\n' * 3)
    script = prepare(rehearse=True, input="data/in.jsonl", scheduler="slurm", container="/sw/vllm.sif").script
    assert f"--bind={data}:{data}:ro" in script
    copied = prepare(rehearse=True, scheduler="slurm", container="/sw/vllm.sif").script
    assert str(data) not in copied


# -- submitting --------------------------------------------------------------------------------------------------------


def test_an_image_that_is_not_there_is_refused_before_anything_is_made(desk: Path, run_cli: Cli) -> None:
    code, _, err = run_cli("submit", "--rehearse", "--scheduler", "slurm", "--container", "images/none.sif")
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"no such image: '{desk}/images/none.sif'" in err
    assert not (desk / "runs").exists()
    assert run_cli("render", "--rehearse", "--scheduler", "slurm", "--container", "images/none.sif").code == 0


def test_a_container_of_a_strangers_job_is_not_taken() -> None:
    from vllm_hpc.spec.foreign_options import ACTS_AS_YOU

    assert "container" in ACTS_AS_YOU


def test_an_image_beside_a_job_toml(desk: Path) -> None:
    job = desk / "job"
    job.mkdir()
    (job / "vllm.sif").touch()
    (job / "job.toml").write_text('model = "demo"\nrehearse = true\ncontainer = "vllm.sif"\nscheduler = "slurm"\n')
    assert f" {job}/vllm.sif sh -c " in prepare("job").script.replace(" \\\n   ", "")


@given(st.lists(NAMES, min_size=1, max_size=3))
@example(NASTY)
@settings(max_examples=20)
def test_any_image_or_bind_is_refused_or_makes_a_script_that_bash_reads(names: list[str]) -> None:
    for name in names:
        for container in (Container(runtime="podman", image=name or None), Container(binds=(name, f"/{name}:/x"))):
            try:
                check_container(container, "container")
            except RequestError as error:
                assert "\n" not in str(error)
                continue
            words = CONTAINER_RUNTIMES["podman"].words(
                ImageRun(image=name.replace("$", "$$"), binds=tuple(parse_bind(one, "x") for one in container.binds))
            )
            line = "true " + " ".join(map(node_word, words))
            assert subprocess.run(["bash", "-n", "-c", line], capture_output=True).returncode == 0
