"""The power that this rank's GPUs draw, by NVML, where there is one."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

# vLLM brings a copy of NVIDIA's own module.
_MODULES = ("pynvml", "vllm.third_party.pynvml")


class Watts:
    """Reads the power of the GPUs that this process sees. Only ever called on the writer's thread."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._devices: list[Any] | None = None

    def read(self) -> float | None:
        """The sum in watts; None without NVML, or if it cannot say."""
        try:
            if self._devices is None:
                self._open()
            found = [self._nvml.nvmlDeviceGetPowerUsage(device) for device in self._devices or ()]
        except Exception:  # noqa: BLE001 - a driver's own errors, of whatever kind: nobody needs the number to go on
            self._devices = []
            return None
        return round(sum(found) / 1000, 1) if found else None

    def _open(self) -> None:
        self._devices = []
        if not os.path.exists("/dev/nvidiactl"):  # noqa: PTH110 - no driver, so that nothing is imported
            return
        self._nvml = _import_nvml()
        if self._nvml is None:
            return
        self._nvml.nvmlInit()
        visible = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
        names = visible or [str(number) for number in range(self._nvml.nvmlDeviceGetCount())]
        self._devices = [self._device(name) for name in names]

    def _device(self, name: str) -> Any:
        if name.isdecimal():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)


def _import_nvml() -> Any:
    for name in _MODULES:
        if name.startswith("vllm.") and "vllm" not in sys.modules:  # a rehearsal runs without it
            continue
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None
