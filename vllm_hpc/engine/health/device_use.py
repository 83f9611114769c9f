"""How busy a rank is: its GPU by the driver's tool, its cores by the kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress

import psutil

_LIMIT_S, _WINDOW_S = 4.0, 0.2


def gpu_use(device: str) -> str:
    """``97 %, 70123 MiB of 81559 MiB``; empty if it is no GPU of NVIDIA's, or the driver does not answer."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number.isdecimal() or shutil.which("nvidia-smi") is None:
        return ""
    visible = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    which = visible[int(number)] if int(number) < len(visible) else number
    argv = [
        "nvidia-smi",
        "--query-gpu=utilization.gpu,memory.used,memory.total",
        "--format=csv,noheader",
        f"--id={which}",
    ]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return "nvidia-smi does not answer"
    words = [word.strip() for word in done.stdout.split("\n")[0].split(",")]
    return f"{words[0]}, {words[1]} of {words[2]}" if done.returncode == 0 and len(words) == 3 else ""


def cpu_percent(pid: int | None = None) -> float | None:
    """What a process takes of one core, over a fifth of a second; None if that is not known."""
    with suppress(psutil.Error):
        return float(psutil.Process(pid).cpu_percent(_WINDOW_S))
    return None
