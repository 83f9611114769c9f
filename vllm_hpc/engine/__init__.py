"""The compute side: what runs on every rank. Only this package imports vLLM and torch; no login code imports it."""
