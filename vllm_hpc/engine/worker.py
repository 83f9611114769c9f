"""0.1's name of ``vllm_hpc.engine.rank``: what it pickled for ranks imports it."""

from vllm_hpc.engine.rank import run

__all__ = ["run"]
