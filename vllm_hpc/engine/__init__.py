"""The compute side: what runs on every rank. Only here vLLM and torch are imported; the login side never imports this."""
