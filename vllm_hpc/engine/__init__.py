"""The compute side: what runs on every rank. Only here vLLM and torch are imported; no login code imports this."""
