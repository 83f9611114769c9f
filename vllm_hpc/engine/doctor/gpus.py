"""The GPUs of a node, as the driver's own tool lists them: nvidia-smi, rocm-smi or xpu-smi."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

from vllm_hpc.jobfolder.node_report import Gpus

_LIMIT_S = 30.0
_GIB = 1 << 30
_NVIDIA = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
_AMD = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json")
_INTEL = ("xpu-smi", "discovery", "-j")


class NoToolError(OSError):
    """None of the tools is on this node, or the one that is found no GPU."""


def find_gpus() -> Gpus:
    """Ask the first of the tools that is on this node. Raises NoToolError with what it said."""
    for argv, parse in _TOOLS:
        if shutil.which(argv[0]):
            return parse(_answer(argv))
    raise NoToolError(f"none of {', '.join(argv[0] for argv, _ in _TOOLS)} is in PATH")


def parse_nvidia(text: str) -> Gpus:
    """Lines of ``name, memory in MiB, driver``. Raises NoToolError if there are none."""
    found = [match for line in text.splitlines() if (match := re.fullmatch(r"(.+), *(\S+), *(\S+)", line.strip()))]
    if not found:
        raise NoToolError(f"nvidia-smi lists no GPU: {_short(text)}")
    sizes = [int(match[2]) for match in found if match[2].isdecimal()]  # [N/A] where GPU and CPU share it
    least = round(min(sizes) / 1024, 2) if sizes else None
    return Gpus(tool="nvidia-smi", count=len(found), name=found[0][1], memory_gib=least, driver=found[0][3])


def parse_amd(text: str) -> Gpus:
    """JSON with a key for each card. Raises NoToolError if there are none. GPUs of two dies are two cards."""
    found = _object("rocm-smi", text)
    cards = [_lower(card) for name, card in found.items() if re.fullmatch(r"card\d+", name)]
    if not cards:
        raise NoToolError(f"rocm-smi lists no GPU: {_short(text)}")
    sizes = [int(size) for card in cards if (size := card.get("vram total memory (b)", "")).isdecimal()]
    least = round(min(sizes) / _GIB, 2) if sizes else None
    driver = _lower(found.get("system")).get("driver version", "")
    name = cards[0].get("card series") or cards[0].get("card model", "")
    return Gpus(tool="rocm-smi", count=len(cards), name=name, memory_gib=least, driver=driver)


def parse_intel(text: str) -> Gpus:
    """JSON with a list of devices. Raises NoToolError if there are none. A GPU's tiles are not listed."""
    listed = _object("xpu-smi", text).get("device_list")
    devices = [_lower(one) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    devices = [one for one in devices if one.get("device_type", "GPU") == "GPU"]
    if not devices:
        raise NoToolError(f"xpu-smi lists no GPU: {_short(text)}")
    return Gpus(tool="xpu-smi", count=len(devices), name=devices[0].get("device_name", ""))


_TOOLS: tuple[tuple[tuple[str, ...], Callable[[str], Gpus]], ...] = (
    (_NVIDIA, parse_nvidia), (_AMD, parse_amd), (_INTEL, parse_intel),
)  # fmt: skip


def _answer(argv: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoToolError(f"{argv[0]} cannot be run: {error}") from None
    if done.returncode:
        raise NoToolError(f"{argv[0]} found no GPU: {_short(done.stdout + done.stderr) or f'code {done.returncode}'}")
    return done.stdout


def _object(tool: str, text: str) -> dict[str, Any]:
    """What the tool printed, which some versions begin with a warning. Raises NoToolError."""
    try:
        found = json.loads(text[text.index("{") :])
    except (ValueError, RecursionError):
        raise NoToolError(f"{tool} did not print JSON: {_short(text)}") from None
    return found if isinstance(found, dict) else {}


def _lower(fields: object) -> dict[str, str]:
    """Keys in lower case, which differs between versions, and values as text."""
    return {str(key).lower(): str(value) for key, value in fields.items()} if isinstance(fields, dict) else {}


def _short(text: str) -> str:
    return " ".join(text.split())[:200]
