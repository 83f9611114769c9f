"""Every touch of vLLM's internals: each is a patch with a name, on or off by version, and no job needs one.

``table`` lists the patches and the names of vLLM that each needs. The module that does a patch's work is imported only
where vLLM has those names. The names that no job runs without are not patches: ``table.REQUIRED`` lists them, by file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from vllm_hpc.engine.vllm_patches.lookup import installed_version, why_off
from vllm_hpc.engine.vllm_patches.table import PATCHES

if TYPE_CHECKING:
    from vllm import LLMEngine

ON = "on"


class Patches:
    """The patches of one rank. ``states``: by name, "on", or "off: " and why."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    @property
    def on(self) -> list[str]:
        """The names of those that are on."""
        return [name for name, state in self.states.items() if state == ON]

    def use(self, name: str, turn_on: Callable[[], object] = lambda: "") -> None:
        """Turn a patch on, unless vLLM's version or a missing name stands against it.

        ``turn_on`` returns why it changes nothing here, or nothing. Whatever it raises, the job runs without the patch.
        """
        if lacking := why_off(PATCHES[name]):
            self._turn_off(name, lacking, PATCHES[name].without)
            return
        try:
            needless = turn_on()
        except Exception as error:  # noqa: BLE001 - vLLM is not as it was read: no reason to end the job
            self._turn_off(name, f"{type(error).__name__}: {error}", PATCHES[name].without)
            return
        if needless:
            self._turn_off(name, str(needless))
        else:
            self.states[name] = ON

    def leave(self, name: str, why: str) -> None:
        """Record why this job has no use for a patch."""
        self._turn_off(name, why)

    def name_shared_memory(self, ident: str) -> bool:
        """Have the names of the CPU back-end's shared memory begin with ``ident``. Returns whether they do."""
        self.use("shm-name", partial(_name_shared_memory, ident))
        return "shm-name" in self.on

    def keep_bits(self) -> None:
        """Have sums keep one order for --reproducible. Call it before the engine is made, and only for such a job."""
        self.use("steady-norm", _steady_norms)
        self.use("tree-rows", _rows_by_tree)

    @contextmanager
    def starting(self, timings: dict[str, float], is_native: bool) -> Iterator[None]:
        """Turn on the patches for the engine's start while the engine is made."""
        with ExitStack() as stack:
            self.use("startup-timings", partial(_time_parts, stack, timings))
            if is_native:
                self.leave("inspect-in-process", "vLLM's own workers use the GPUs, not this process")
            else:
                self.use("inspect-in-process", partial(_inspect_here, stack))
            yield

    def apply(self, engine: LLMEngine) -> list[str]:
        """Turn on the patches for an engine that has started. Logs and returns the names of all that are on."""
        self.use("fast-schedule", partial(_shorten_schedule, engine))
        self.use("sharded-sampling", partial(_shard_sampling, engine))
        self._agree_on_sampling(engine)
        self.use("idle-forward", partial(_run_idle_steps, engine))
        self.use("step-overlap", partial(_overlap_steps, engine))
        for name in ("late-text", "early-grammar", "skip-clone"):  # looked up again where rows are made ready
            self.use(name)
        on = ", ".join(self.on) or "none"
        print(f"vllm-hpc: patches of vLLM {installed_version()} that are on: {on}", flush=True)
        return self.on

    def _agree_on_sampling(self, engine: LLMEngine) -> None:
        """Keep sharded sampling only if every rank has it: its ranks exchange tokens in every step."""
        from vllm_hpc.engine.vllm_patches.agree import all_can

        is_here = "sharded-sampling" in self.on
        if not all_can(is_here) and is_here:
            from vllm_hpc.engine.vllm_patches.sharded_sampling import turn_off

            turn_off(engine)
            without = PATCHES["sharded-sampling"].without
            self._turn_off("sharded-sampling", "another rank of the replica cannot", without)

    def _turn_off(self, name: str, why: str, without: str = "") -> None:
        self.states[name] = f"off: {why}"
        print(f"vllm-hpc: patch {name} is off: {why}{without and '; '}{without}", flush=True)


def is_on(name: str) -> bool:
    """Whether vLLM has what this patch needs, for patches that are looked up where they are used."""
    return not why_off(PATCHES[name])


def _name_shared_memory(ident: str) -> None:
    from vllm_hpc.engine.vllm_patches.shm_name import name_shared_memory

    name_shared_memory(ident)


def _steady_norms() -> None:
    from vllm_hpc.engine.vllm_patches.same_bits import steady_norms

    steady_norms()


def _rows_by_tree() -> None:
    from vllm_hpc.engine.vllm_patches.same_bits import rows_by_tree

    rows_by_tree()


def _time_parts(stack: ExitStack, timings: dict[str, float]) -> None:
    from vllm_hpc.engine.vllm_patches.startup_timings import timed

    stack.enter_context(timed(timings))


def _inspect_here(stack: ExitStack) -> None:
    from vllm_hpc.engine.vllm_patches.inspect_in_process import inspecting_here

    stack.enter_context(inspecting_here())


def _shorten_schedule(engine: LLMEngine) -> str:
    from vllm_hpc.engine.vllm_patches.fast_schedule import turn_on

    return turn_on(engine)


def _shard_sampling(engine: LLMEngine) -> str:
    from vllm_hpc.engine.vllm_patches.sharded_sampling import turn_on

    return turn_on(engine)


def _run_idle_steps(engine: LLMEngine) -> str:
    from vllm_hpc.engine.vllm_patches.idle_forward import turn_on

    return turn_on(engine)


def _overlap_steps(engine: LLMEngine) -> str:
    from vllm_hpc.engine.vllm_patches.step_overlap import needless

    return needless(engine)
