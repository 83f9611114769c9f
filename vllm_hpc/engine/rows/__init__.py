"""A row on its way into vLLM and out of it."""
