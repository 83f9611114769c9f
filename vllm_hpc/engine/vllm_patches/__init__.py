"""Every touch of vLLM's internals."""
