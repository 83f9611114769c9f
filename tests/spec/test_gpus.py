"""GPUs by the names of --gpu, of drivers and of schedulers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.conftest import Cli
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.gpus import ALIASES, GPUS, Gpu, explain_gpu, find_gpu, names_of_gpu, recognise


@pytest.mark.parametrize(
    ("device", "memory", "name"),
    [
        ("NVIDIA H100 80GB HBM3", 79.18, "h100-80"),
        ("NVIDIA H200", 139.8, "h200"),
        ("NVIDIA H200 NVL", 139.8, "h200"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40"),
        ("NVIDIA A100 80GB PCIe", 79.2, "a100-pcie-80"),
        ("Tesla T4", 14.6, "t4"),
        ("NVIDIA GeForce GTX 1080", 8.0, "NVIDIA GeForce GTX 1080"),
        ("NVIDIA GeForce RTX 3090", 23.6, "NVIDIA GeForce RTX 3090"),
        ("NVIDIA GeForce RTX 4090", 23.5, "rtx-4090"),
        ("NVIDIA RTX A6000", 47.5, "NVIDIA RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", 47.4, "rtx-6000-ada"),
        ("NVIDIA H100 PCIe", 79.2, "h100-pcie-80"),
        # The driver counts the Grace CPU's memory: 120 and 480 GB beside the same GPU.
        ("NVIDIA GH200 120GB", 94.5, "gh200-96"),
        ("NVIDIA GH200 480GB", 94.5, "gh200-96"),
        ("NVIDIA GH200 144G HBM3e", 139.8, "gh200-144"),
        ("NVIDIA GB200", 184.3, "gb200"),
        ("NVIDIA GB300", 276.6, "gb300"),
        ("NVIDIA B200", 178.4, "b200"),
        ("NVIDIA B300 SXM6 AC", 267.7, "b300"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 94.97, "rtx-pro-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 94.97, "rtx-pro-6000-workstation"),
        ("NVIDIA RTX PRO 6000D Blackwell Workstation Edition", 83.1, None),
        ("NVIDIA RTX PRO 4500 Blackwell", 31.4, None),
        ("Quadro RTX 6000", 23.6, None),
        ("NVIDIA L40", 44.4, None),
        ("NVIDIA L40S", 44.4, "l40s"),
        ("NVIDIA A30", 23.6, "a30"),
        ("AMD Instinct MI325X", 255.98, "mi325x"),
        ("AMD Instinct MI350X VF", 287.98, "mi350x"),
        ("AMD Instinct MI355X", 287.98, "mi355x"),
        ("Intel(R) Data Center GPU Max 1550", 64.0, "max-1550-tile"),
        ("Intel(R) Data Center GPU Max 1100", 48.0, None),
    ],
)
def test_a_driver_s_name_is_recognised(device: str, memory: float, name: str | None) -> None:
    found = recognise(device, memory)
    assert (found.name, found.memory_gib) == (name or device, memory)
    with_link = {"h100-80", "h200", "a100-40", "b200", "b300", "gb200", "gb300"}
    assert (found.link > 0) is (name in with_link and "NVL" not in device)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h100-81",
        "80",
        "-5G",
        "0G",
        "nvidia",
        "h100 80; rm",
        "1e9G",
        "99999G",
        "gh200-97",
        "gh200-96-96",
        "gh200gb",
        "gb200-186gb",
        "b",
        "g",
        "max",
        "rtx",
        "rtx-pro-5000",
        "mi300",
        "b\uff1200",
        "\ufeffb200",
        "b300\0",
        "\u0663\u0662G",
        "h100",
        "a100",
        "v100",
    ],
)
def test_an_unknown_gpu_is_refused_with_what_is_known(text: str) -> None:
    with pytest.raises(RequestError, match=r"use .*, or its memory, such as 80G"):
        find_gpu(text)


def test_a_gpu_may_be_given_by_its_memory() -> None:
    assert find_gpu("48 GB").memory_gib == 48
    assert find_gpu("48G") == Gpu("48G", 48.0, 0.0, 0.0)
    assert find_gpu(" H100_80 ") is GPUS["h100-80"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gh200", "gh200-96"), ("GH200 120GB", "gh200-96"), ("gh200-144GB", "gh200-144"), ("gb200", "gb200"),
        ("b200", "b200"), ("b300", "b300"), ("mi325x", "mi325x"), ("MI350X", "mi350x"), ("mi355", "mi355x"),
        ("max1550", "max-1550-tile"), ("Max 1550", "max-1550-tile"), ("l40s", "l40s"), ("a30", "a30"),
        ("rtx-pro", "rtx-pro-6000"), ("RTX PRO 6000", "rtx-pro-6000"), ("rtx_pro_6000_blackwell", "rtx-pro-6000"),
        ("rtx-pro-6000-workstation", "rtx-pro-6000-workstation"), ("h100-80gb", "h100-80"), ("A100_80G", "a100-80"),
    ],
)  # fmt: skip
def test_a_name_may_be_written_as_people_do(text: str, name: str) -> None:
    assert find_gpu(text) is GPUS[name]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["gh200"], ["gh200-96", "gh200-144"]), (["nvidia_gh200_120gb"], ["gh200-96"]),
        (["nvidia_gh200_480gb"], ["gh200-96"]), (["nvidia_gh200_144g_hbm3e"], ["gh200-144"]), (["gb200"], ["gb200"]),
        (["nvidia_b300_sxm6_ac"], ["b300"]), (["mi355x"], ["mi355x"]), (["amd", "mi325x_oam"], ["mi325x"]),
        (["rtx_pro_6000"], ["rtx-pro-6000"]), (["rtx6000", "rtx_pro_6000_blackwell"], ["rtx-pro-6000"]),
        (["nvidia_rtx_pro_6000_blackwell_server_edition"], ["rtx-pro-6000"]),
        (["nvidia_rtx_pro_6000_blackwell_workstation_edition"], ["rtx-pro-6000-workstation"]), (["rtx6000"], []),
        (["max1550"], ["max-1550-tile"]), (["intel_max_1550"], ["max-1550-tile"]), (["max_1100"], []),
        (["a100", "hbm80g"], ["a100-80"]), (["a100"], ["a100-40", "a100-64", "a100-80"]),
        (["nvidia_h100_pcie"], ["h100-pcie-80"]), (["nvidia_h100_80gb_hbm3"], ["h100-80"]),
    ],
)  # fmt: skip
def test_a_scheduler_s_words_name_it(words: list[str], names: list[str]) -> None:
    assert names_of_gpu(words) == names


def test_each_other_name_is_of_one_gpu_and_is_no_gpus_own() -> None:
    assert all(name in GPUS for name, _ in ALIASES.values())
    assert not set(ALIASES) & set(GPUS)
    assert all(find_gpu(also.upper().replace("-", " ")) is GPUS[name] for also, (name, _) in ALIASES.items())


def test_a_plan_says_what_a_name_leaves_open(model: Path, run_cli: Cli) -> None:
    said = run_cli("plan", str(model), "--scheduler", "slurm", "--gpu", "gh200").out
    assert "GPU gh200-96 with 94.5 GiB (--gpu): gh200 is taken for the one with 96 GB; the other is gh200-144" in said
    assert "count tiles" in run_cli("plan", str(model), "--scheduler", "slurm", "--gpu", "max1550").out
    assert [explain_gpu(name) for name in ("gh200-96", "h100-80", "80G", "nonsense")] == [""] * 4


def test_the_list_has_every_gpu(run_cli: Cli) -> None:
    listed = run_cli("gpus", "list")
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == list(GPUS)
    (line,) = (line for line in listed.out.splitlines() if line.startswith("gh200-96"))
    assert line.split() == [
        "gh200-96",
        "94.5",
        "GiB",
        "4",
        "TB/s",
        "989",
        "TFLOP/s",
        "-",
        "yes",
        "gh200,",
        "gh200-120,",
        "gh200-480",
    ]
    rows = msgspec.json.decode(run_cli("gpus", "list", "--json").out)
    assert [row["name"] for row in rows] == list(GPUS)
    assert rows[list(GPUS).index("b300")] == {
        "name": "b300", "memory_gib": 267.6, "bandwidth_tb_s": 7.7, "bf16_tflops": 2250, "link_gb_s": 1800, "fp8": True,
        "also": [],
    }  # fmt: skip
