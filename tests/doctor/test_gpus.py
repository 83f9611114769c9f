"""The lists of nvidia-smi, rocm-smi and xpu-smi, as their versions print them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("psutil")

from vllm_hpc.engine.doctor.gpus import NoToolError, find_gpus, parse_amd, parse_intel, parse_nvidia
from vllm_hpc.jobfolder.node_report import Gpus

pytestmark = pytest.mark.admins

H100 = "NVIDIA H100 80GB HBM3, 81559, 570.86.15\n"
# rocm-smi of ROCm 6: the names of keys differ between versions in their capitals.
MI250X = """WARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status

{"card0": {"VRAM Total Memory (B)": "68702699520", "VRAM Total Used Memory (B)": "10960896",
 "Card Series": "AMD Instinct MI250X", "Card Model": "0x7408", "Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]"},
 "card1": {"VRAM Total Memory (B)": "68702699520", "Card series": "AMD Instinct MI250X"},
 "system": {"Driver version": "6.3.6"}}"""
MAX_1550 = """{"device_list": [
 {"device_function_type": "physical", "device_id": 0, "device_name": "Intel(R) Data Center GPU Max 1550",
  "device_type": "GPU", "drm_device": "/dev/dri/card1", "pci_bdf_address": "0000:18:00.0"},
 {"device_id": 1, "device_name": "Intel(R) Data Center GPU Max 1550", "device_type": "GPU"}]}"""


def test_nvidia() -> None:
    found = parse_nvidia(H100 * 3 + "NVIDIA H100 80GB HBM3, 40000, 570.86.15\n")
    assert found == Gpus(tool="nvidia-smi", count=4, name="NVIDIA H100 80GB HBM3", memory_gib=39.06, driver="570.86.15")


def test_a_gpu_that_shares_the_nodes_memory_has_none_of_its_own() -> None:
    assert parse_nvidia("NVIDIA GH200 480GB, [N/A], 550.54.15\n").memory_gib is None


def test_amd() -> None:
    found = parse_amd(MI250X)
    assert (found.count, found.name, found.memory_gib, found.driver) == (2, "AMD Instinct MI250X", 63.98, "6.3.6")


def test_intel() -> None:
    found = parse_intel(MAX_1550)
    assert (found.tool, found.count, found.name) == ("xpu-smi", 2, "Intel(R) Data Center GPU Max 1550")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "No devices were found", '{"card": 1}', '{"device_list": 3}', "{" * 9000]
)
@pytest.mark.parametrize("parse", [parse_nvidia, parse_amd, parse_intel])
def test_what_lists_no_gpu_is_told(parse: object, text: str) -> None:
    with pytest.raises(NoToolError, match="smi"):
        parse(text)  # type: ignore[operator]


def tool(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_the_tool_that_is_there_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoToolError, match="none of nvidia-smi, rocm-smi, xpu-smi is in PATH"):
        find_gpus()
    tool(tmp_path, "xpu-smi", f"echo '{' '.join(MAX_1550.split())}'")
    assert find_gpus().count == 2
    tool(tmp_path, "nvidia-smi", "echo No devices were found; exit 6")
    with pytest.raises(NoToolError, match="nvidia-smi found no GPU: No devices were found"):
        find_gpus()
