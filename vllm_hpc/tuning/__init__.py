"""``vllm-hpc tune``: short jobs that find the fastest layout and settings."""
