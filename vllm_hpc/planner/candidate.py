"""The inputs of the choice of a layout, and how a layout scores: whether it fits, how busy it is, how long it takes."""

from __future__ import annotations

import msgspec

from vllm_hpc.planner.engine_settings import Settings, for_lanes
from vllm_hpc.planner.memory import Fit, fit_on_cpu, fit_on_gpu, weigh
from vllm_hpc.planner.models.config import Shape, in_lanes
from vllm_hpc.planner.models.weights import Weights
from vllm_hpc.planner.parallelism import why_not, why_not_experts
from vllm_hpc.planner.time_estimate import Generation, estimate_seconds
from vllm_hpc.planner.workload import Workload
from vllm_hpc.rows.families import Sharing
from vllm_hpc.spec.device import Device
from vllm_hpc.spec.gpus import GIB
from vllm_hpc.spec.layout import Layout

# Sequences that a replica should hold at once: with fewer, decode steps spend their time reading weights (an H100
# does some 300 multiplications with a bf16 weight in the time it takes to read it).
BUSY_SEQUENCES = 128


# Of a GPU, for weights, where the rest is not computed: what utilization leaves, without reserve and a KV cache.
UNCHECKED_SHARE = 0.8


class PlanningProblem(msgspec.Struct, frozen=True):
    """Everything that decides the layout: the model, its weights, the device, the settings and the workload."""

    shape: Shape
    weights: Weights | None
    device: Device | None
    settings: Settings
    workload: Workload | None = None
    one_node: bool = False  # the local scheduler has only one node
    overlaps_stages: bool = False  # PP stages overlap, with vLLM's own workers (native)
    may_sort: bool = False  # rows that begin alike may run next to each other
    network_gbps: int | None = None  # of a node
    cuts_experts: bool = False  # --engine enable_expert_parallel=false: lanes have a part of every expert
    gpu_bytes: int | None = None  # of the GPUs, or assumed, where memory is not checked; None: nothing is known to fit
    is_sized: bool = True  # the size of the weights is known

    @property
    def rows(self) -> int | None:
        """Rows of the input, None if unknown."""
        return self.workload.rows if self.workload else None

    def rule(self, tp: int, pp: int) -> str | None:
        """Why the model cannot be split like this, None if it can."""
        return why_not(self.shape, tp, pp, self.settings.load.quantization)

    def experts_rule(self, layout: Layout) -> str | None:
        """Why the experts cannot be divided over a replica of that layout, None if they can."""
        return why_not_experts(self._shape_in(layout), layout.tp)

    def settings_in(self, layout: Layout) -> Settings:
        """The settings that its lanes have."""
        return for_lanes(self.settings, layout.attention_dp)

    def _shape_in(self, layout: Layout) -> Shape:
        return in_lanes(self.shape, layout.attention_dp, self.cuts_experts)

    def fit(self, layout: Layout) -> Fit | None:
        """Memory of the fullest rank, None if the device is unknown."""
        if self.device is None:
            return None
        load, shape = self.settings_in(layout).load, self._shape_in(layout)
        if self.device.gpu is not None:
            gpu_bytes = int(self.device.gpu.memory_gib * GIB)
            return fit_on_gpu(shape, self.weights, load, layout.tp, layout.pp, gpu_bytes)
        share = (self.device.node_bytes or 0) // layout.procs_per_node
        return fit_on_cpu(shape, self.weights, load, layout.tp, layout.pp, share)

    def overlaps(self, layout: Layout) -> bool:
        """Whether the PP stages of that layout overlap: vLLM's own workers need as many of a replica on each node."""
        return self.overlaps_stages and layout.is_even

    def holds(self, ranks: int) -> bool | None:
        """Whether a replica of so many ranks has room for the weights, roughly: for layouts that are not checked.

        None if the size of the weights is not known.
        """
        if self.gpu_bytes is None:
            return True
        if not self.is_sized:
            return None
        total, _ = weigh(self.shape, self.weights, self.settings.load)
        return total / ranks <= UNCHECKED_SHARE * self.gpu_bytes

    def concurrent(self, fit: Fit) -> float:
        """Sequences of average length that run at once: as many as fit, at most max_num_seqs."""
        own, sharing = self.settings.sequence_tokens, self._sharing
        # What neighbours begin with is in the cache once, as is what all rows find there in any order.
        if self.workload and sharing and (self.may_sort or not sharing.is_scattered(fit.kv_tokens)):
            own -= int(self.cached_share(fit) * self.workload.prompt_tokens / max(1, self.workload.rows))
        room = fit.room(own) if fit.fits else 0.0
        return min(room, float(self.settings.load.max_num_seqs))

    def cached_share(self, fit: Fit) -> float:
        """The share of the prompt tokens that vLLM finds in its KV cache."""
        sharing, room = self._sharing, fit.kv_tokens
        if sharing is None or not sharing.total:
            return 0.0
        is_sorted = self.may_sort and sharing.is_scattered(room)
        return (sharing.shared if is_sorted else sharing.within(room)) / sharing.total

    @property
    def _sharing(self) -> Sharing | None:
        return self.workload.sharing if self.workload else None

    def seconds(self, layout: Layout, fit: Fit | None) -> float | None:
        """An estimate of the generation time that is accurate enough to compare layouts, else None.

        It is not accurate enough if the GPUs' link is unknown. For PP whose stages overlap it was up to 8 % too short,
        on one node (docs/planner.md): about half of what a layout must save to replace another.
        """
        gpu = self.device.gpu if self.device else None
        if gpu is None or not gpu.link:
            return None
        return self.rough_seconds(layout, fit)

    def rough_seconds(self, layout: Layout, fit: Fit | None) -> float | None:
        """An estimate of the generation time; None if the input or the GPUs' speed is unknown."""
        gpu = self.device.gpu if self.device else None
        if not (gpu and gpu.tflops and self.workload and fit and fit.fits):
            return None
        cached = self.cached_share(fit)
        work = Generation(
            self.shape, self.settings_in(layout).load, self.workload, gpu, self.overlaps(layout), cached,
            network_gbps=self.network_gbps,
        )  # fmt: skip
        return estimate_seconds(work, layout, fit, self.concurrent(fit))

    def busy_at(self, layout: Layout) -> float:
        """Concurrent sequences that keep a lane of that layout busy."""
        if self.device is not None and self.device.gpu is None:
            return 1.0  # a few keep a CPU busy
        share = BUSY_SEQUENCES if self.workload is None else -(-self.workload.sequences // layout.lanes)
        return float(min(BUSY_SEQUENCES, share, self.settings.load.max_num_seqs))
