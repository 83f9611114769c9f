"""What a node sees of its interfaces, the model and the image."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("psutil")

from tests.crafted import make_folder
from vllm_hpc.engine.doctor import look
from vllm_hpc.spec.host_path import path_of_image, path_of_model

pytestmark = pytest.mark.admins


@pytest.mark.parametrize(
    ("variable", "value", "is_wrong"),
    [
        ("GLOO_SOCKET_IFNAME", "lo", False),
        ("GLOO_SOCKET_IFNAME", "ib9", True),
        ("GLOO_SOCKET_IFNAME", "lo,ib9", True),
        ("GLOO_SOCKET_IFNAME", "l", True),
        ("GLOO_SOCKET_IFNAME", ",", True),
        ("NCCL_SOCKET_IFNAME", "l", False),
        ("NCCL_SOCKET_IFNAME", "=lo", False),
        ("NCCL_SOCKET_IFNAME", "=l", True),
        ("NCCL_SOCKET_IFNAME", "^docker", False),
        ("NCCL_SOCKET_IFNAME", "ib,hsn", True),
    ],
)
def test_variables_that_name_an_interface(variable: str, value: str, is_wrong: bool) -> None:
    assert look.wrong_interfaces({variable: value, "OTHER": "x"}) == ({variable: value} if is_wrong else {})


def test_a_variable_that_is_empty_names_none() -> None:
    assert look.wrong_interfaces({"GLOO_SOCKET_IFNAME": ""}) == {}


def test_a_model(tmp_path: Path) -> None:
    model = make_folder(tmp_path / "model")
    assert path_of_model(str(model), {}).error == ""
    assert path_of_model(str(model), {}).size == sum(file.stat().st_size for file in model.iterdir())
    assert path_of_model(str(tmp_path / "none"), {}).error == "No such file or directory"
    assert path_of_model(str(tmp_path), {}).error == "it has no config.json or params.json"


def test_a_model_of_the_hub_is_looked_for_where_the_node_has_its_cache(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    snapshot, older = (make_folder(repository / "snapshots" / (one * 40)) for one in "ab")
    (repository / "refs").mkdir()
    for ref, folder in (("main", snapshot), ("v1", older)):
        (repository / "refs" / ref).write_text(folder.name)
    assert path_of_model("org/name", {"HF_HOME": str(tmp_path)}).path == str(snapshot)
    assert path_of_model("org/name", {"HF_HUB_CACHE": str(tmp_path / "hub")}).path == str(snapshot)
    assert path_of_model("org/name", {"HF_HOME": str(tmp_path)}, "v1").path == str(older)
    missing = path_of_model("org/other", {"HF_HOME": str(tmp_path)})
    assert missing.error == f"it is not in the node's Hugging Face cache ({tmp_path / 'hub'})"


def test_an_image(tmp_path: Path) -> None:
    image = tmp_path / "image.sif"
    image.write_bytes(b"12345")
    seen = path_of_image(str(image))
    assert seen is not None
    assert (seen.size, seen.error) == (5, "")
    gone = path_of_image(str(tmp_path / "gone.sif"))
    assert gone is not None
    assert gone.error == "No such file or directory"
    assert path_of_image("docker://vllm/vllm-openai:v0.11") is None
