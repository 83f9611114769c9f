"""``python -m vllm_hpc`` is ``vllm-hpc``."""

from vllm_hpc.cli import main

main()
