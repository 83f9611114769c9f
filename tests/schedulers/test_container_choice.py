"""Which container a job has: --container, the profile's, what the image's form says, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Cli
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.containers.choose import choose_container
from vllm_hpc.spec.container import Container, check_container
from vllm_hpc.spec.errors import RequestError

pytestmark = pytest.mark.admins


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
