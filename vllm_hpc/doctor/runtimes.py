"""Which program of a node runs a container's image."""

from __future__ import annotations

from vllm_hpc.spec.container import Container

# Pyxis is a plugin of Slurm's, which calls enroot.
_PROGRAMS = {"charliecloud": "ch-run", "pyxis": "enroot"}


def program_of(container: Container) -> str:
    """The name of the program; empty where the profile does not say what runs the image."""
    return _PROGRAMS.get(container.runtime, container.runtime) if container.runtime else ""
