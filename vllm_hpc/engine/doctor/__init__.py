"""What a node and its first rank look at in a job of ``vllm-hpc doctor --on-nodes``."""
