"""0.1's name of ``vllm_hpc.schedulers.submitit_executor``: what ranks run lies pickled under it."""

from vllm_hpc.schedulers.submitit_executor import RankTask

__all__ = ["RankTask"]
