"""vLLM's engine as the rank loop sees it, and its maker: environment, compiled code, replica, workers of its own."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.engine.interface import Ready
from vllm_hpc.engine.rows import row_out
from vllm_hpc.engine.standing import Standing
from vllm_hpc.engine.startup import devices, flashinfer, mp_workers
from vllm_hpc.engine.startup.compile_cache import CompiledCode
from vllm_hpc.engine.startup.weights_readahead import ReadAhead
from vllm_hpc.engine.vllm_patches.step_overlap import Overlap
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.layout import Layout, Place
from vllm_hpc.spec.vllm_defaults import CPU_KV_CACHE_GIB

if TYPE_CHECKING:
    from vllm import LLMEngine

    from vllm_hpc.engine.startup.replicas import Replica

_SHM = Path("/dev/shm")


class VllmEngine:
    """An LLMEngine behind the loop's interface."""

    def __init__(self, engine: LLMEngine) -> None:
        self.llm_engine = engine
        self._overlap = Overlap(engine)
        self.max_num_seqs: int = engine.vllm_config.scheduler_config.max_num_seqs

    def request_maker(self, record: JobRecord, writes: bool) -> Callable[[Row], Ready]:
        """What makes rows ready: the engine's renderer and tokenizer, vLLM's checks and ours."""
        from vllm_hpc.engine.rows.prompts import RequestMaker

        return RequestMaker(self.llm_engine, record, writes)

    def add_request(self, key: str, ready: Ready) -> None:
        """Admit a row. Raises what vLLM says of it."""
        self.llm_engine.add_request(key, ready.prompt, ready.params, lora_request=ready.lora)

    def step(self, work: Callable[[], None]) -> tuple[list[Any], bool]:
        """One step, with the work done while the device computes, where vLLM keeps two batches under way."""
        return self._overlap.step(work)

    def answer(self, ready: Ready, output: Any, replica: int) -> Row:
        """The row out of a finished request."""
        return row_out.answer(ready, output, replica)

    def failure(self, row: Row, error: Exception) -> Row:
        """The row out of a row that cannot be run."""
        return row_out.failure(row, error)

    def __enter__(self) -> Self:
        self._overlap.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._overlap.__exit__(*error)


class VllmMaker:
    """Makes vLLM's engine on this rank. Where vLLM starts its own workers (native), only some ranks run the loop."""

    def __init__(self, record: JobRecord, standing: Standing, place: Place) -> None:
        self._record, self._standing, self._place = record, standing, place
        layout = record.plan.layout
        prepare_environment(record)
        ReadAhead.start(record, standing.local_rank)
        devices.show_only_own(layout, standing.rank, standing.local_rank)
        self._compiled = CompiledCode(record, place, int(os.environ["LOCAL_RANK"]))
        self._seat: mp_workers.Seat | None = None
        self._where: dict[str, Any] = {}
        self._segments: str | None = None
        if record.plan.is_native:
            self._seat = mp_workers.Seat.of(layout, place, standing.rank, standing.local_rank)
            mp_workers.prepare_environment()

    @property
    def leads(self) -> bool:
        """Whether this rank runs the loop, as all do whose workers torchrun started."""
        return self._seat is None or (self._seat.starts_workers and self._seat.node == 0)

    def load(self, report: RankReport) -> None:
        """Import vLLM, with this node's compiled code in place."""
        with report.timed("restore"):
            self._compiled.restore()
        with report.timed("import"):
            import torch
            import vllm

            # "import vllm" is lazy: these import what is used.
            from vllm_hpc.engine.rows import prompts  # noqa: F401
            from vllm_hpc.engine.startup import make_engine  # noqa: F401
        report.versions = {"vllm": vllm.__version__, "torch": str(torch.__version__)}
        _tell_of_bytecode(vllm)

    def join(self, store: Any) -> Replica:
        """Initialise torch.distributed over this rank's replica; vLLM skips its own set-up then."""
        flashinfer.agree(store, self._standing.rank, self._standing.world_size)
        if self._seat is not None:
            self._where = mp_workers.workers(self._seat, store)
            return mp_workers.lead(self._seat)
        replica, self._segments = join(self._record.plan.layout, self._place, store, self._standing.run_name)
        return replica

    def make(self, report: RankReport) -> VllmEngine:
        """Start the engine."""
        from vllm_hpc.engine.startup.make_engine import make_engine

        report.device_name, report.device_gib = describe_device()
        engine = make_engine(self._record, report.timings, **self._where)
        if self._seat is None:
            meet_started(self._segments)
        else:
            mp_workers.unlink_shared_memory()
        self._compiled.keep()
        return VllmEngine(engine)

    def release(self, store: Any) -> None:
        """Keep what was compiled for a row, and let other nodes' workers go."""
        self._compiled.keep()
        if self._seat is not None:
            mp_workers.release(self._seat, store)

    def serve(self, report: RankReport) -> None:
        """Be one of the ranks that run no loop: start this node's workers, or just keep the place."""
        from vllm_hpc.engine.startup import replicas

        assert self._seat is not None
        standing = self._standing
        if self._seat.starts_workers:
            with report.timed("restore"):
                self._compiled.restore()
        store = replicas.meet(standing.rank, standing.world_size)
        flashinfer.agree(store, standing.rank, standing.world_size)
        report.device = "native"  # its GPU is in the hands of the node's first rank
        if self._seat.starts_workers:
            mp_workers.serve(self._record, self._seat, store)
            self._compiled.keep()
        replicas.leave_together(store, standing.rank, standing.world_size)


def join(layout: Layout, place: Place, store: Any, run: str) -> tuple[Replica, str | None]:
    """Initialise torch.distributed over this rank's replica, on the device and back-end that vLLM has here.

    Returns how the names of the CPU back-end's shared memory begin, too; None on GPUs. ``run`` tells this attempt from
    all others.
    """
    import torch
    from vllm.platforms import current_platform

    from vllm_hpc.engine.startup import replicas

    local_rank, is_cpu = int(os.environ["LOCAL_RANK"]), current_platform.is_cpu()
    if not is_cpu:
        torch.accelerator.set_device_index(local_rank)
    device = "cpu" if is_cpu else f"{current_platform.device_type}:{local_rank}"
    replica = replicas.join(layout, place, store, current_platform.dist_backend, device, _cpu_group)
    if not is_cpu:
        return replica, None
    ident = f"vllm-hpc-{run}-{place.replica}-{platform.node()}"[:128]
    name_shared_memory(ident)
    return replica, ident


def meet_started(ident: str | None) -> None:
    """Wait until the engine has started on all ranks of the replica.

    Then all have mapped the CPU back-end's shared memory, whose names begin with ``ident`` (None on GPUs): its names
    are unlinked, so that no death can leave it behind.
    """
    import torch.distributed as dist

    dist.barrier(group=_cpu_group())
    for segment in _SHM.glob(f"{ident}*") if ident else ():
        segment.unlink(missing_ok=True)


def describe_device() -> tuple[str, float | None]:
    """What this rank's GPU is called, and its memory in GiB; on the CPU, the processor, and None."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return platform.processor() or "cpu", None
    return current_platform.get_device_name(), round(current_platform.get_device_total_memory() / 2**30, 2)


def _cpu_group() -> Any:
    """vLLM's own, over the replica's ranks; there is one once the engine has started."""
    from vllm.distributed.parallel_state import get_world_group

    return get_world_group().cpu_group


def name_shared_memory(ident: str) -> None:
    """Give the CPU back-end's shared memory a name of our own.

    vLLM derives it from the init method (vllm/v1/worker/cpu_worker.py, VLLM_DIST_IDENT), which under torchrun is the
    same for every job on the host: two jobs collide, and a killed one leaves its segment for the next to trip over.
    Nothing else reads the init method, for torch.distributed is initialised. Ranks on another host differ in it, by
    which vLLM knows not to share memory with them.
    """
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher

    def distributed_args(self: Any) -> tuple[str, int, int]:
        return f"file:///{ident}", int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])

    ExecutorWithExternalLauncher._distributed_args = distributed_args


def prepare_environment(record: JobRecord) -> None:
    """Variables that vLLM and its libraries read when they are imported."""
    if "kv_cache_memory_bytes" not in record.plan.engine:  # the variable would win over it
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_KV_CACHE_GIB))
    # vLLM warns of every VLLM_ variable that it does not know, and ours have been read.
    for name in [name for name in os.environ if name.startswith("VLLM_HPC_") and name != "VLLM_HPC_RANK"]:
        del os.environ[name]
    flashinfer.find_scripts()
    if os.path.isabs(record.model):  # noqa: PTH117 - a Hub id is no path
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _tell_of_bytecode(module: ModuleType) -> None:
    """Say what makes the import slow where Python could not keep the package's bytecode: each rank compiles it anew.

    Twice the time: docs/performance.md.
    """
    kept, file = module.__spec__.cached if module.__spec__ else None, module.__file__
    if kept and file and not Path(kept).exists():
        print(
            f"vllm-hpc: {module.__name__}'s bytecode is not kept, which doubles the time of its import: "
            f"python -m compileall -q {shlex.quote(str(Path(file).parents[1]))}, "
            "or --env PYTHONPYCACHEPREFIX=FOLDER where that cannot be written to",
            flush=True,
        )
