"""Jobs whose ranks run in an image: Charliecloud's really, in another Debian with its own Python; others' stand-ins.

``make test`` has one rehearsal in Charliecloud, and one as Pyxis runs it on Slurm; ``make test-full`` has the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.containers.conftest import MINOR
from tests.containers.stand_in import install, told
from tests.real_jobs import (
    ENGINE,
    GREEDY,
    ONE_CORE,
    PROMPTS,
    check_complete,
    ends_as,
    rehearsed_texts,
    started,
    submit_long,
    submit_tiny,
)  # fmt: skip
from vllm_hpc import Job

pytestmark = pytest.mark.admins
ANSWERS = rehearsed_texts(PROMPTS, int(GREEDY["max_tokens"]))
ROOT = Path(__file__).parents[2]
NASTY = 'it\'s $(x) "y" \\ é'


def in_image(work: Path, monkeypatch: pytest.MonkeyPatch, **container: Any) -> None:
    """A profile p with that container, in the working directory."""
    fields = ", ".join(f"{key} = {value!r}".replace("(", "[").replace(")", "]") for key, value in container.items())
    (work / "vllm-hpc.toml").write_text(f"[profiles.p]\ncontainer = {{ {fields} }}\n")
    monkeypatch.chdir(work)


def charliecloud(image: Path, bundle: Path) -> dict[str, Any]:
    return {"runtime": "charliecloud", "image": str(image), "bundle": str(bundle)}


def pythons(job: Job) -> set[str]:
    return {rank.versions["python"].rpartition(".")[0] for rank in job.ranks()}


@pytest.mark.ranks
def test_charliecloud(image: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks run with the image's own Python, of another minor version; the script and its verbs with the host's."""
    in_image(tmp_path, monkeypatch, **charliecloud(image, bundle))
    work = tmp_path / "a b $HOME #1 é 'q' \"d\""
    work.mkdir()
    job = submit_tiny(None, work, profile="p", tp=2, env={"OF_THE_JOB": NASTY, "OF_THE_IMAGE": "no"}, name="é $(id)")
    check_complete(job, ANSWERS)
    assert pythons(job) == {MINOR}
    assert f"{sys.version_info.major}.{sys.version_info.minor}" != MINOR


@pytest.mark.ranks
def test_an_image_that_lacks_something_is_the_jobs_reason(
    image: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_image(tmp_path, monkeypatch, **charliecloud(image, bundle), python="python9")
    status = submit_tiny(None, tmp_path, profile="p", tp=2).wait(60)
    assert status.state == "FAILED"
    assert f"the image {image} has no python9: name its Python in the profile, container.python" in str(status.reason)


@pytest.mark.ranks
@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_pyxis_on_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_folder = tmp_path / "bin"
    install(bin_folder, "srun")
    image = tmp_path / "vllm.sqsh"
    image.touch()
    in_image(tmp_path, monkeypatch, runtime="pyxis", image=str(image), python=sys.executable)
    monkeypatch.setenv("PATH", str(bin_folder), prepend=":")
    job = submit_tiny(None, tmp_path, profile="p", scheduler="slurm", nodes=2, tp=2, env=ONE_CORE)
    check_complete(job, ANSWERS)
    assert [rank.host for rank in job.ranks()] == ["node1", "node2"]
    said = told(bin_folder, "srun")
    assert said["image"] == str(image)
    assert ["/tmp", "/tmp", ""] in said["binds"]  # type: ignore[operator]
    assert said["workdir"] == str(job.path)


@pytest.mark.full
@pytest.mark.ranks
@pytest.mark.parametrize("name", ["apptainer", "singularity", "podman", "podman-hpc", "shifter"])
def test_stand_ins(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_folder = tmp_path / "bin"
    install(bin_folder, name)
    image = tmp_path / "vllm.sif"
    image.touch()
    if name not in ("apptainer", "singularity"):
        image = image.rename(tmp_path / "vllm.tar")
    in_image(tmp_path, monkeypatch, runtime=name, image=str(image), python=sys.executable)
    monkeypatch.setenv("PATH", str(bin_folder), prepend=":")
    work = tmp_path if name == "shifter" else tmp_path / "a b, $c: 'd'"
    work.mkdir(exist_ok=True)
    check_complete(submit_tiny(None, work, profile="p", tp=2), ANSWERS)
    assert told(bin_folder, name)["image"] == str(image)


@pytest.mark.full
@pytest.mark.ranks
def test_a_cancelled_job_leaves_nothing(
    image: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_image(tmp_path, monkeypatch, **charliecloud(image, bundle))
    job = started(submit_long(None, tmp_path, profile="p", tp=2, max_requeues=1))
    job.cancel()
    ends_as(job, "CANCELLED", 60)


CASES: dict[str, dict[str, Any]] = {
    "torchrun": {"tp": 2},
    "srun": {"tp": 2, "launcher": "srun"},
    "an array": {"dp": 2, "array": True, "nodes": 1},
}


@pytest.mark.full
@pytest.mark.ranks
@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("case", CASES)
def test_charliecloud_on_slurm(
    image: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    in_image(tmp_path, monkeypatch, **charliecloud(image, bundle))
    options: dict[str, Any] = {"nodes": 2, **CASES[case]}
    job = submit_tiny(None, tmp_path, profile="p", scheduler="slurm", env=ONE_CORE, **options)
    check_complete(job, ANSWERS)
    assert pythons(job) == {MINOR}
    if "tp" in options:
        assert [rank.host for rank in job.ranks()] == ["node1", "node2"]


@pytest.mark.full
@pytest.mark.vllm
@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_vllm_in_charliecloud_on_slurm(
    image: Path, tiny: Path, reference: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's own environment, bound into an image of another Debian."""
    needed = [Path(sys.prefix), Path(sys.base_prefix), ROOT]
    binds = tuple(str(one) for one in needed if not one.is_relative_to("/tmp") and not one.is_relative_to("/usr"))
    for one in binds:
        (image / Path(one).relative_to("/")).mkdir(parents=True, exist_ok=True)
    in_image(
        tmp_path, monkeypatch, runtime="charliecloud", image=str(image), binds=binds, python=f"{sys.prefix}/bin/python"
    )
    # The image has no compiler.
    env = {**ONE_CORE, "TORCHDYNAMO_DISABLE": "1"}
    engine = {**ENGINE, "enforce_eager": True}
    job = submit_tiny(tiny, tmp_path, profile="p", scheduler="slurm", nodes=2, tp=2, env=env, engine=engine)
    check_complete(job, reference)
    assert [rank.host for rank in job.ranks()] == ["node1", "node2"]
