"""gpus list: the GPUs that the planner knows by name."""

from __future__ import annotations

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.options import json_option
from vllm_hpc.cli.output import print_json, say
from vllm_hpc.spec.gpus import ALIASES, GPUS, Gpu


@click.group("gpus")
def gpus_command() -> None:
    """The GPUs that --gpu and a profile's gpu name."""


@command("list")
@json_option
def list_command(as_json: bool) -> int:
    """List the GPUs with what the planner knows of each; any other is given by its memory, such as --gpu 80G."""
    if as_json:
        print_json([_to_json(gpu) for gpu in GPUS.values()])
        return 0
    say(_line("name", "memory", "bandwidth", "bf16", "NVLink", "fp8", "also called"))
    for gpu in GPUS.values():
        memory, speed, products = f"{gpu.memory_gib:g} GiB", f"{gpu.bandwidth:g} TB/s", f"{gpu.tflops:g} TFLOP/s"
        link = f"{gpu.link:g} GB/s" if gpu.link else "-"
        say(_line(gpu.name, memory, speed, products, link, "yes" if gpu.has_fp8 else "-", ", ".join(_also(gpu))))
    return 0


def _line(name: str, *cells: str) -> str:
    memory, speed, products, link, fp8, also = cells
    return f"{name:25}{memory:>10}{speed:>11}{products:>14}{link:>11}  {fp8:4}{also}".rstrip()


def _also(gpu: Gpu) -> list[str]:
    return [also for also, (name, _) in ALIASES.items() if name == gpu.name]


def _to_json(gpu: Gpu) -> dict[str, object]:
    return {
        "name": gpu.name, "memory_gib": gpu.memory_gib, "bandwidth_tb_s": gpu.bandwidth, "bf16_tflops": gpu.tflops,
        "link_gb_s": gpu.link, "fp8": gpu.has_fp8, "also": _also(gpu),
    }  # fmt: skip


gpus_command.add_command(list_command)
