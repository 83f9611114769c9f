"""0.1's name of ``vllm_hpc.schedulers.submitit_environment``: an older installation's entry point has it."""

from vllm_hpc.schedulers.submitit_environment import VllmHpcJobEnvironment

__all__ = ["VllmHpcJobEnvironment"]
