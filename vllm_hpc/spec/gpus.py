"""GPUs that sites have: memory, bandwidth and speed, by the name that --gpu takes."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from vllm_hpc.spec.errors import RequestError

GIB = 1 << 30


class Gpu(msgspec.Struct, frozen=True):
    """One kind of GPU.

    ``memory_gib``: the total that CUDA or ROCm reports, which is less than the label. ``bandwidth``: memory
    bandwidth in TB/s; ``tflops``: dense bf16 (fp16 without bf16); ``link``: bidirectional GB/s to the other GPUs of
    the node, 0 where that depends on the site. From the vendors' data sheets.
    """

    name: str
    memory_gib: float
    bandwidth: float
    tflops: float
    link: float = 0.0

    @property
    def has_fp8(self) -> bool:
        """Whether it multiplies in 8-bit floats, at twice its bf16 peak: compute capability 8.9 or more, or gfx942."""
        return self.name.split("-")[0] in _WITH_FP8


# The first words of their names; of NVIDIA's RTX cards, only Ada is in the table.
_WITH_FP8 = frozenset({"h100", "h200", "gh200", "b200", "l40s", "l4", "rtx", "mi300a", "mi300x"})
# "H100 80GB HBM3" reports 81,559 MiB (measured); the others from public nvidia-smi and rocm-smi listings.
_TABLE = (
    Gpu("h100-80", 79.2, 3.35, 989, 900), Gpu("h100-64", 63.4, 2.02, 989, 900), Gpu("h100-94", 93.1, 2.4, 989),
    Gpu("h100-pcie-80", 79.2, 2.0, 756), Gpu("h200", 139.8, 4.8, 989, 900), Gpu("gh200-96", 94.5, 4.0, 989),
    Gpu("gh200-144", 139.8, 4.9, 989), Gpu("b200", 178.4, 8.0, 2250, 1800), Gpu("a100-40", 39.4, 1.55, 312, 600),
    Gpu("a100-64", 63.4, 1.64, 312, 600), Gpu("a100-80", 79.2, 2.0, 312, 600), Gpu("a40", 44.4, 0.70, 150),
    Gpu("a30", 23.6, 0.93, 165), Gpu("a10", 22.1, 0.60, 125), Gpu("l40s", 44.4, 0.86, 362), Gpu("l4", 22.0, 0.30, 121),
    Gpu("a100-pcie-40", 39.4, 1.55, 312), Gpu("a100-pcie-80", 79.2, 1.94, 312),
    Gpu("v100-16", 15.8, 0.90, 125), Gpu("v100-32", 31.7, 0.90, 125), Gpu("t4", 14.6, 0.32, 65),
    Gpu("rtx-4090", 23.5, 1.01, 165), Gpu("rtx-6000-ada", 47.4, 0.96, 364), Gpu("mi250x", 63.9, 1.64, 191),
    Gpu("mi300a", 127.5, 5.3, 981), Gpu("mi300x", 191.5, 5.3, 1307),
    Gpu("max-1550-tile", 64.0, 1.64, 419),  # half of a card, which vLLM sees as a GPU
)  # fmt: skip
GPUS = {gpu.name: gpu for gpu in _TABLE}


def find_gpu(text: str, origin: str = "--gpu") -> Gpu:
    """The GPU of that name (h100-80), or one with that much memory (80G) and unknown speed. Raises RequestError."""
    name = text.strip().lower().replace("_", "-").replace(" ", "-")
    if name in GPUS:
        return GPUS[name]
    size = re.fullmatch(r"(\d{1,4}(?:\.\d{1,2})?)-?(?:g|gb|gib)", name)
    if size and float(size[1]) >= 1:
        return Gpu(f"{size[1]}G", float(size[1]), 0.0, 0.0)
    related = [known for known in GPUS if known.startswith(name.split("-")[0])]
    which = related or sorted(GPUS)
    raise RequestError(f"{origin} {text!r} is not known: use {', '.join(which)}, or its memory, such as 80G")


def names_of_gpu(texts: Iterable[str]) -> list[str]:
    """The names that fit what a scheduler tells of a GPU: its type in a gres, a node's features; none if it is unknown.

    nvidia_h100_80gb_hbm3 is h100-80; a100 may be a100-40, a100-64 or a100-80. Cards are SXM unless told otherwise.
    """
    words = {word for text in texts for word in re.split(r"[^a-z0-9.]+", text.lower())}
    sizes = {size[1] for word in words if (size := re.fullmatch(r"(?:hbm|vram|mem)?(\d+)gb?", word))}
    families = {word.removeprefix("hbm") for word in words}
    named = [gpu.name for gpu in _TABLE if _words(gpu) - {"pcie"} <= families]
    is_pcie = "pcie" in words
    fitting = [name for name in named if ("pcie" in name) == is_pcie] or named
    sized = [name for name in fitting if name.rpartition("-")[2] in sizes]
    return sized or fitting


def recognise(device: str, memory_gib: float) -> Gpu:
    """The GPU that a driver calls ``device`` ("NVIDIA H100 80GB HBM3"): the closest in memory with that name."""
    words = set(re.sub(r"[^a-z0-9]+", "-", device.lower()).split("-"))
    named = [gpu for gpu in _TABLE if _words(gpu) <= words]
    if not named:
        return Gpu(device, memory_gib, 0.0, 0.0)
    best = max(named, key=lambda gpu: (len(_words(gpu)), -abs(gpu.memory_gib - memory_gib)))
    link = 0.0 if "nvl" in words else best.link  # the NVLink bridge joins only two or four of these cards
    return msgspec.structs.replace(best, memory_gib=memory_gib, link=link)


def _words(gpu: Gpu) -> set[str]:
    """The words of a name, without the memory size at the end (h100-pcie-80: h100, pcie)."""
    first, *rest = gpu.name.split("-")
    return {first, *(word for word in rest if first == "rtx" or not word.isdigit())}
