"""A user's own code on every rank: programs beside the rank loop, programs that drive the engine, scripts."""
