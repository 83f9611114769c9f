"""Tests of hangs, and of what 'vllm-hpc debug' says of them."""
