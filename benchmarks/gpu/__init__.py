"""vllm-hpc on GPUs beside the ways people run vLLM today: ``python -m benchmarks.gpu --help``."""
