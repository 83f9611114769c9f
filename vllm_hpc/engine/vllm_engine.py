"""vLLM's engine behind the rank loop's interface, and its maker: environment, compiled code, replica, native workers.

``vllm_patches/table.py`` lists the names of vLLM that every job needs, REQUIRED, by the file that uses them.
"""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.engine.interface import InFlight, Ready
from vllm_hpc.engine.rows import row_out
from vllm_hpc.engine.standing import Standing
from vllm_hpc.engine.startup import devices, flashinfer, meeting, mp_workers, reproducible, seen
from vllm_hpc.engine.startup.bytecode import Bytecode
from vllm_hpc.engine.startup.compile_cache import CompiledCode
from vllm_hpc.engine.startup.fork_server import shared_import
from vllm_hpc.engine.startup.shared_import import import_vllm
from vllm_hpc.engine.startup.weights_readahead import ReadAhead
from vllm_hpc.engine.vllm_patches import Patches, in_flight, sampled_tokens
from vllm_hpc.engine.vllm_patches.step_overlap import Overlap
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.jobfolder.secret import job_secret
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.layout import Layout, Place
from vllm_hpc.spec.shared_memory import remove_segments
from vllm_hpc.spec.user_cache import SHARED, use_private_temporary_folder
from vllm_hpc.spec.vllm_defaults import CPU_KV_CACHE_GIB

if TYPE_CHECKING:
    from vllm import LLM, LLMEngine

    from vllm_hpc.engine.startup.replicas import Replica, World
    from vllm_hpc.engine.store.client import JobStore


class VllmEngine:
    """An LLMEngine behind the loop's interface."""

    def __init__(self, engine: LLMEngine) -> None:
        self.llm_engine = engine
        self._overlap = Overlap(engine)
        self.max_num_seqs: int = engine.vllm_config.scheduler_config.max_num_seqs

    def request_maker(self, record: JobRecord, writes: bool) -> Callable[[Row], Ready]:
        """A function that makes rows ready with the engine's renderer and tokenizer, vLLM's checks and ours."""
        from vllm_hpc.engine.rows.prompts import RequestMaker

        return RequestMaker(self.llm_engine, record, writes)

    def add_request(self, key: str, ready: Ready) -> None:
        """Admit a row. Raises whatever vLLM says is wrong with it."""
        self.llm_engine.add_request(key, ready.prompt, ready.params, lora_request=ready.lora)

    def watch(self, told: Callable[[str, Sequence[int]], None]) -> None:
        """Have every step tell what it sampled."""
        sampled_tokens.watch(self.llm_engine, told)

    def step(self, work: Callable[[], None]) -> tuple[list[Any], bool]:
        """Take one step; does the work while the device computes, if vLLM keeps two batches in flight."""
        return self._overlap.step(work)

    def idle_step(self) -> None:
        """Run the model without rows, beside the other lanes' steps."""
        self.llm_engine.engine_core.execute_dummy_batch()

    def look(self) -> InFlight | None:
        """What vLLM's scheduler has in flight; None if it is in another process, or not as we know it."""
        return in_flight.look(self.llm_engine)

    def answer(self, ready: Ready, output: Any, replica: int) -> Row:
        """The output row of a finished request."""
        return row_out.answer(ready, output, replica)

    def failure(self, row: Row, error: Exception) -> Row:
        """The output row of a row that cannot be run."""
        return row_out.failure(row, error)

    def __enter__(self) -> Self:
        self._overlap.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._overlap.__exit__(*error)


class VllmMaker:
    """Makes vLLM's engine on this rank. If vLLM starts its own workers (native), only some ranks run the loop."""

    def __init__(self, record: JobRecord, standing: Standing, place: Place) -> None:
        self._record, self._standing, self._place = record, standing, place
        layout = record.plan.layout
        prepare_environment(record)
        ReadAhead.start(record, standing.local_rank)
        devices.show_only_own(layout, standing.rank, standing.local_rank)
        self._compiled = CompiledCode(record, place, int(os.environ["LOCAL_RANK"]))
        self._bytecode = Bytecode(publishes=standing.rank == 0)
        self._seat: mp_workers.Seat | None = None
        self._where: dict[str, Any] = {}
        self._segments: str | None = None
        self._patches = Patches()
        self.llm: LLM | None = None
        if record.plan.is_native:
            self._seat = mp_workers.Seat.of(layout, place, standing.rank, standing.local_rank)
            mp_workers.prepare_environment()

    @property
    def leads(self) -> bool:
        """Whether this rank runs the loop; all do unless vLLM starts its own workers."""
        return self._seat is None or (self._seat.starts_workers and self._seat.node == 0)

    def load(self, report: RankReport) -> None:
        """Import vLLM, with this node's compiled code in place."""
        with report.timed("restore"):
            self._restore()
        shared = shared_import()
        with report.timed("import"):
            import_vllm()
        if shared:
            shared.set_variables()
            print(f"{shared.said}vllm-hpc: forked after its node's import of {shared.seconds:.1f} s", flush=True)
            report.timings["import"] += shared.seconds
        import torch
        import vllm

        report.versions = {
            "vllm": vllm.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            **seen.device_versions(torch),
        }
        _tell_of_bytecode(vllm)

    def _restore(self) -> None:
        self._compiled.restore()
        self._bytecode.restore()

    def join(self, world: World) -> Replica:
        """Initialise torch.distributed over this rank's replica; vLLM then skips its own set-up."""
        from vllm_hpc.engine.startup import torchs_store

        flashinfer.agree(world.store, world.rank, world.size)
        if self._seat is not None:
            self._where = mp_workers.workers(self._seat, world.store)
            self._patches.leave("shm-name", "vLLM starts its own workers")
            return mp_workers.lead(self._seat)
        nonce = meeting.share_nonce(world.store, world.rank)
        rank = RankPlace(self._record.plan.layout, self._place, f"{self._standing.run_name}-{nonce}")
        if torchs_store.is_needed():
            world = world._replace(torch_store=torchs_store.open_store(world))
        replica, self._segments = join(rank, world, self._patches)
        return replica

    def make(self, report: RankReport) -> VllmEngine:
        """Start the engine."""
        from vllm_hpc.engine.startup.make_engine import make_engine, make_llm

        if self._record.request.reproducible:
            reproducible.check_device()
            self._patches.keep_bits()
        report.device_name, report.device_gib = describe_device()
        report.patches = self._patches.states
        if self._record.program is None:
            engine = make_engine(self._record, report.timings, self._patches, **self._where)
        else:
            self.llm = make_llm(self._record, report.timings, self._patches)
            engine = self.llm.llm_engine
        if self._seat is None:
            meet_started(self._segments)
        else:
            mp_workers.unlink_shared_memory()
        self._compiled.keep()
        self._bytecode.keep()
        return VllmEngine(engine)

    def release(self, store: JobStore) -> None:
        """Keep what rows caused to be compiled, and let other nodes' workers end."""
        self._compiled.keep()
        if self._seat is not None:
            mp_workers.release(self._seat, store)

    def serve(self, report: RankReport, job: JobFolder) -> None:
        """Be a rank that runs no loop: start this node's workers, or only wait."""
        from vllm_hpc.engine.startup import replicas

        assert self._seat is not None
        standing = self._standing
        if self._seat.starts_workers:
            with report.timed("restore"):
                self._restore()
        world = replicas.meet(job_secret(job), standing.rank, standing.world_size)
        flashinfer.agree(world.store, world.rank, world.size)
        report.device = "native"  # the node's first rank uses its GPU
        if self._seat.starts_workers:
            mp_workers.serve(self._record, self._seat, world.store)
            self._compiled.keep()
        world.leave()


class RankPlace(NamedTuple):
    """A rank's place in its world; ``run`` distinguishes this attempt from all others, and cannot be guessed."""

    layout: Layout
    place: Place
    run: str

    @property
    def memory(self) -> str:
        """What ranks that share memory have in common. Lanes use gloo: vLLM numbers the memory's users by replica."""
        return f"{self.place.replica}{f'.{self.place.rank}' * (self.layout.attention_dp > 1)}"


def join(rank: RankPlace, world: World, patches: Patches) -> tuple[Replica, str | None]:
    """Initialise torch.distributed over this rank's replica, with vLLM's device and back-end on this machine.

    Also returns the prefix of the names of the CPU back-end's shared memory; None on GPUs, or if vLLM names it.
    """
    import torch
    from vllm.platforms import current_platform

    from vllm_hpc.engine.startup import replicas

    local_rank, is_cpu = int(os.environ["LOCAL_RANK"]), current_platform.is_cpu()
    if not is_cpu:
        torch.accelerator.set_device_index(local_rank)
    device = "cpu" if is_cpu else f"{current_platform.device_type}:{local_rank}"
    replica = replicas.join(rank.layout, rank.place, world, current_platform.dist_backend, device, _cpu_group)
    if not is_cpu:
        patches.leave("shm-name", "it is only for vLLM's CPU back-end")
        return replica, None
    ident = f"vllm-hpc-{rank.run}-{rank.memory}-{platform.node()}"[:128]
    return replica, ident if patches.name_shared_memory(ident) else None


def meet_started(ident: str | None) -> None:
    """Wait until the engine has started on all ranks of the replica.

    Then all have mapped the CPU back-end's shared memory, whose names begin with ``ident`` (None: vLLM chose them). So
    the names are unlinked, and a rank that dies cannot leave it behind.
    """
    import torch.distributed as dist

    dist.barrier(group=_cpu_group())
    if ident:
        remove_segments(ident)


def describe_device() -> tuple[str, float | None]:
    """The name of this rank's GPU, and its memory in GiB; on the CPU, the processor's name, and None."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return platform.processor() or "cpu", None
    return current_platform.get_device_name(), round(current_platform.get_device_total_memory() / 2**30, 2)


def _cpu_group() -> Any:
    """vLLM's own group over the replica's ranks; it exists once the engine has started."""
    from vllm.distributed.parallel_state import get_world_group

    return get_world_group().cpu_group


def prepare_environment(record: JobRecord) -> None:
    """Set variables that vLLM and its libraries read when they are imported."""
    if "kv_cache_memory_bytes" not in record.plan.engine:  # the variable would win over it
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_KV_CACHE_GIB))
    # vLLM warns about every unknown VLLM_ variable. Most of ours have been read by now.
    kept = ("VLLM_HPC_RANK", SHARED)
    for name in [name for name in os.environ if name.startswith("VLLM_HPC_") and name not in kept]:
        del os.environ[name]
    if record.request.reproducible:
        reproducible.ask_for()
    flashinfer.find_scripts()
    use_private_temporary_folder()
    if os.path.isabs(record.model):  # noqa: PTH117 - a Hub id is not a path
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _tell_of_bytecode(module: ModuleType) -> None:
    """Log why the import is slow if Python could not cache the package's bytecode: each rank compiles it again.

    That doubles the import's time (docs/performance.md).
    """
    kept, file = module.__spec__.cached if module.__spec__ else None, module.__file__
    if kept and file and not Path(kept).exists():
        print(
            f"vllm-hpc: {module.__name__}'s bytecode is not cached, which doubles the time of its import: "
            f"run python -m compileall -q {shlex.quote(str(Path(file).parents[1]))}, "
            "or use --env PYTHONPYCACHEPREFIX=FOLDER if that folder is read-only",
            flush=True,
        )
