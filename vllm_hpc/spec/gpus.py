"""GPUs that sites have: memory, bandwidth and speed, by the name that --gpu takes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

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
        """Whether it multiplies in 8-bit floats, at twice its bf16 peak.

        Compute capability 8.9 or more, or AMD's gfx942 and gfx950.
        """
        return self.name.split("-")[0] in _WITH_FP8


# The first words of their names; of NVIDIA's RTX cards, only Ada and Blackwell are in the table.
_WITH_FP8 = frozenset({
    "h100", "h200", "gh200", "b200", "b300", "gb200", "gb300", "l40s", "l4", "rtx",
    "mi300a", "mi300x", "mi325x", "mi350x", "mi355x",
})  # fmt: skip
# "H100 80GB HBM3" reports 81,559 MiB (measured); the others from public nvidia-smi and rocm-smi listings, and from what
# torch calls the total: 184.31 GiB of GB200's 189,471 MiB, 267.69 of B300's 275,040, 94.97 of RTX PRO 6000's 97,887,
# 287.98 of gfx950. Speeds of B300: HGX B300; of GB200 and GB300: NVL72, over 72; sparse figures halved. gfx950: 256 CUs
# at 4096 a clock, 2.2 and 2.4 GHz. NVIDIA gives no dense bf16 for the server edition of RTX PRO 6000: 4 times its fp32,
# as the workstation edition's 504.
_TABLE = (
    Gpu("h100-80", 79.2, 3.35, 989, 900), Gpu("h100-64", 63.4, 2.02, 989, 900), Gpu("h100-94", 93.1, 2.4, 989),
    Gpu("h100-pcie-80", 79.2, 2.0, 756), Gpu("h200", 139.8, 4.8, 989, 900), Gpu("gh200-96", 94.5, 4.0, 989),
    Gpu("gh200-144", 139.8, 4.9, 989), Gpu("b200", 178.4, 8.0, 2250, 1800), Gpu("b300", 267.6, 7.7, 2250, 1800),
    Gpu("gb200", 184.3, 8.0, 2500, 1800), Gpu("gb300", 276.6, 8.0, 2500, 1800), Gpu("a100-40", 39.4, 1.55, 312, 600),
    Gpu("a100-64", 63.4, 1.64, 312, 600), Gpu("a100-80", 79.2, 2.0, 312, 600), Gpu("a40", 44.4, 0.70, 150),
    Gpu("a30", 23.6, 0.93, 165), Gpu("a10", 22.1, 0.60, 125), Gpu("l40s", 44.4, 0.86, 362), Gpu("l4", 22.0, 0.30, 121),
    Gpu("a100-pcie-40", 39.4, 1.55, 312), Gpu("a100-pcie-80", 79.2, 1.94, 312),
    Gpu("v100-16", 15.8, 0.90, 125), Gpu("v100-32", 31.7, 0.90, 125), Gpu("t4", 14.6, 0.32, 65),
    Gpu("rtx-4090", 23.5, 1.01, 165), Gpu("rtx-6000-ada", 47.4, 0.96, 364),
    Gpu("rtx-pro-6000", 94.9, 1.6, 480), Gpu("rtx-pro-6000-workstation", 94.9, 1.79, 504),
    Gpu("mi250x", 63.9, 1.64, 191), Gpu("mi300a", 127.5, 5.3, 981), Gpu("mi300x", 191.5, 5.3, 1307),
    Gpu("mi325x", 255.5, 6.0, 1307), Gpu("mi350x", 287.5, 8.0, 2307), Gpu("mi355x", 287.5, 8.0, 2517),
    Gpu("max-1550-tile", 64.0, 1.64, 419),  # half of a card, which vLLM sees as a GPU
)  # fmt: skip
GPUS = {gpu.name: gpu for gpu in _TABLE}
_BOTH_TILES = "vLLM sees each of a card's two tiles as a GPU, so count tiles in --gpus-per-node"
_SERVER = "the server edition; rtx-pro-6000-workstation is faster"
# Other names that --gpu takes, and what a plan says of one that leaves something open. A name of GPUs of several sizes
# is refused, for the wrong one fails on the nodes or wastes half of them. GH200 is an exception: 96 GB is the size of
# nearly all of them, and the smaller, so that what fits there fits on the other, too.
ALIASES: dict[str, tuple[str, str]] = {
    "gh200": ("gh200-96", "gh200 is taken for the one with 96 GB; the other is gh200-144"),
    "gh200-120": ("gh200-96", ""), "gh200-480": ("gh200-96", ""),  # as the driver: by the memory of the Grace CPU
    "max1550": ("max-1550-tile", _BOTH_TILES), "max-1550": ("max-1550-tile", _BOTH_TILES),
    "rtx-pro": ("rtx-pro-6000", _SERVER), "rtx-pro-6000-blackwell": ("rtx-pro-6000", _SERVER),
    "rtx-pro-6000-server": ("rtx-pro-6000", ""), "rtxpro6000": ("rtx-pro-6000", _SERVER),
    "mi325": ("mi325x", ""), "mi350": ("mi350x", ""), "mi355": ("mi355x", ""),
}  # fmt: skip
# What the driver's name of a GH200 says of the CPU's memory: each has 96 GB of its own.
_OF_GRACE = {"120": "96", "480": "96"}


def find_gpu(text: str, origin: str = "--gpu") -> Gpu:
    """The GPU of that name (h100-80), or one with that much memory (80G) and unknown speed. Raises RequestError."""
    name = _key(text)
    name = ALIASES[name][0] if name in ALIASES else name
    if name in GPUS:
        return GPUS[name]
    size = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,2})?)-?(?:g|gb|gib)", name)
    if size and float(size[1]) >= 1:
        return Gpu(f"{size[1]}G", float(size[1]), 0.0, 0.0)
    which = _related(name) or sorted(GPUS)
    raise RequestError(f"{origin} {text!r} is not known: use {', '.join(which)}, or its memory, such as 80G")


def explain_gpu(text: str) -> str:
    """What a plan says of a name that fits more than one GPU, or is counted in two ways; empty if it is clear."""
    return ALIASES.get(_key(text), ("", ""))[1]


def names_of_gpu(texts: Iterable[str]) -> list[str]:
    """The names that fit what a scheduler tells of a GPU: its type in a gres, a node's features; none if it is unknown.

    nvidia_h100_80gb_hbm3 is h100-80; a100 may be a100-40, a100-64 or a100-80. Cards are SXM unless told otherwise.
    """
    words = {word for text in texts for word in re.split(r"[^a-z0-9.]+", text.lower())}
    sizes = {size[1] for word in words if (size := re.fullmatch(r"(?:hbm|vram|mem)?(\d+)gb?", word))}
    if "gh200" in words:
        sizes = {_OF_GRACE.get(size, size) for size in sizes}
    families = {word.removeprefix("hbm") for word in words}
    named = [gpu for gpu in _TABLE if _is_named(gpu, families, _FORM)]
    named = [gpu for gpu in named if not any(_words(gpu) - _FORM < _words(other) - _FORM for other in named)]
    is_pcie = "pcie" in words
    fitting = [gpu.name for gpu in named if ("pcie" in gpu.name) == is_pcie] or [gpu.name for gpu in named]
    sized = [name for name in fitting if name.rpartition("-")[2] in sizes]
    return sized or fitting


def recognise(device: str, memory_gib: float) -> Gpu:
    """The GPU that a driver calls ``device`` ("NVIDIA H100 80GB HBM3"): the closest in memory with that name."""
    words = set(re.sub(r"[^a-z0-9]+", "-", device.lower()).split("-"))
    named = [gpu for gpu in _TABLE if _is_named(gpu, words)]
    if not named:
        return Gpu(device, memory_gib, 0.0, 0.0)
    best = max(named, key=lambda gpu: (len(_words(gpu)), -abs(gpu.memory_gib - memory_gib)))
    link = 0.0 if "nvl" in words else best.link  # the NVLink bridge joins only two or four of these cards
    return msgspec.structs.replace(best, memory_gib=memory_gib, link=link)


# What a scheduler's words may leave out.
_FORM = frozenset({"pcie"})
# Lines of products in which a number is not the memory; a driver does not say "tile".
_NUMBERED, _UNSAID = frozenset({"rtx", "max"}), frozenset({"tile"})


def _key(text: str) -> str:
    """A name as in the table: "H100 80GB" is h100-80."""
    name = re.sub(r"[-_\s]+", "-", text.strip().lower())
    return re.sub(r"(?<=[a-z0-9]-)(\d+)-?gb?$", r"\1", name)


def _related(name: str) -> list[str]:
    """The known names that begin as this one: h100-81 and h100 have four."""
    first = name.split("-")[0]
    return [known for known in GPUS if first and known.startswith(first)]


def _is_named(gpu: Gpu, words: Collection[str], but: frozenset[str] = frozenset()) -> bool:
    """Whether these words have those of its name, or all in one: max1550."""
    parts = [word for word in _parts(gpu) if word not in but]
    return set(parts) <= set(words) or "".join(parts) in words


def _words(gpu: Gpu) -> frozenset[str]:
    return frozenset(_parts(gpu))


def _parts(gpu: Gpu) -> list[str]:
    """The words of a name, without the memory size at the end (h100-pcie-80: h100, pcie)."""
    first, *rest = gpu.name.split("-")
    return [first, *(word for word in rest if word not in _UNSAID and (first in _NUMBERED or not word.isdigit()))]
