"""What a container's wrapper hands on to the runtime through a real bash, and what of the host is bound."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import Cli
from tests.containers.stand_in import PROGRAMS
from vllm_hpc.jobfolder.own_folder import OwnJobFolder
from vllm_hpc.jobs.render_again import Changes, render_again
from vllm_hpc.jobs.submit import prepare, submit
from vllm_hpc.schedulers.containers.binds import all_binds
from vllm_hpc.schedulers.containers.runtime import ImageRun
from vllm_hpc.schedulers.containers.runtimes import CONTAINER_RUNTIMES
from vllm_hpc.spec.container import RUNTIMES, Bind, Container, check_container, parse_bind
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.expand import on_node, without_variables
from vllm_hpc.spec.resolved_job import ResolvedJob

pytestmark = pytest.mark.admins


# -- words, as a real bash hands them to the runtime -------------------------------------------------------------------

NAMES = st.text(
    st.characters(min_codepoint=32, exclude_characters="/\x7f", exclude_categories=["Cs", "Cc"]), max_size=12
)
NASTY = ["a b", "$HOME", "${X:-y}", "it's", 'd"q', "a,b", "a:b", "#1", "`id`", "é", "*", "{{ x }}", "$$", "%j", "~"]


def shell_words(words: tuple[str, ...]) -> list[str]:
    line = "printf '%s\\0' " + " ".join(map(on_node, words))
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
    line = f'printf "%s\\n" {on_node("--bind=$A/x:${B:-d}")} {on_node("$$A")}'
    done = subprocess.run(["bash", "-uc", line], capture_output=True, text=True, env={**os.environ, "A": "p q$(id)*"})
    assert done.stdout == "--bind=p q$(id)*/x:d\n$A\n"
    unset = subprocess.run(["bash", "-uc", f"echo {on_node('$NO_SUCH/x')}"], capture_output=True, text=True)
    assert unset.returncode != 0
    assert "NO_SUCH" in unset.stderr


def test_what_of_a_bind_is_the_same_on_every_node() -> None:
    assert without_variables("${A:-b:c}/d$$e$F") == "/d$e"
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


@pytest.mark.usefixtures("elsewhere")
def test_the_profiles_cache_and_scratch_are_bound(desk: Path) -> None:
    (desk / "vllm-hpc.toml").write_text(
        f'[profiles.p]\ncache_dir = "{desk}/cache"\nscratch = "${{LOCAL:-/tmp}}"\n'
        'container = { runtime = "apptainer", image = "/sw/vllm.sif", binds = ["$SCRATCH:/s"] }\n'
    )
    script = prepare(rehearse=True, profile="p", scheduler="slurm").script.replace(" \\\n   ", "")
    assert f" --bind={desk}/cache:{desk}/cache " in script
    assert ' --bind="${VLLM_HPC_SCRATCH:?is not set here}":"${VLLM_HPC_SCRATCH:?is not set here}" ' in script
    assert ' --bind="${SCRATCH:?is not set here}":/s ' in script


@pytest.mark.usefixtures("elsewhere")
def test_a_resumed_job_binds_what_it_had(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_HPC_REFERENCE_OVER", "10")
    monkeypatch.setattr("vllm_hpc.jobs.submit.check_installed", lambda: None)
    data, image = desk / "data", desk / "vllm.sif"
    data.mkdir()
    image.touch()
    (data / "in.jsonl").write_text('{"prompt": "hello"}\n' * 3)
    profile = f'[profiles.p]\ncontainer = {{ image = "{image}" }}\n'
    (desk / "vllm-hpc.toml").write_text(profile)
    job = submit(rehearse=True, input="data/in.jsonl", scheduler="slurm", profile="p", name="j")
    bind = f"--bind={data}:{data}:ro"
    assert bind in (job.path / "script.sbatch").read_text()
    (desk / "vllm-hpc.toml").write_text(profile + 'setup = ["true"]\n')
    anew = render_again(OwnJobFolder(job.path), Changes())
    assert anew.script is not None
    assert "\ntrue\n" in anew.script
    assert bind in anew.script


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
            line = "true " + " ".join(map(on_node, words))
            assert subprocess.run(["bash", "-n", "-c", line], capture_output=True).returncode == 0
