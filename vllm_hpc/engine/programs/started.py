"""Started: a rank whose engine has started, for the context that a user's program gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from vllm_hpc.engine.startup.replicas import Replica, World


class Started(NamedTuple):
    """What a context is made of. ``llm``: the rank's vllm.LLM, None in a rehearsal."""

    world: World
    replica: Replica
    llm: Any
