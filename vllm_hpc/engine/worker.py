"""0.1's name of ``vllm_hpc.engine.rank``: the pickles that it made for ranks import it."""

from vllm_hpc.engine.rank import run

__all__ = ["run"]
