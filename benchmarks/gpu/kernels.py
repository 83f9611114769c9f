"""What a GPU does in a batch, kernel by kernel: some batches with prompts, and some of decoding alone.

With VLLM_HPC_BENCHMARK_KERNELS=1 benchmarks.gpu.rank starts its engine with ``worker_extension_cls`` set to Kernels,
and runs one more round of each way, which counts for nothing, into OUT/<way>-<rank>.kernels. PyTorch's profiler is on
for these batches only; where there is no GPU it tells of the CPU's operators, to try the code.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

NAME = f"{__name__}.Kernels"
VARIABLE = "VLLM_HPC_BENCHMARK_KERNELS"
# Batches of a kind that go by before the profiler is on, and those that it sees. Prompts: after the first, which may
# compile; decoding: once all slots are taken.
_BEFORE = {"prompts": 2, "decoding": 20}
_SEEN = {"prompts": 4, "decoding": 10}
# What a kernel is for, by its name; the first that matches. vLLM 0.26 on Hopper.
KINDS = {
    "all-reduce, gather": r"cross_device_reduce|nccl|allreduce|all_gather",
    "routing to experts": r"moe_align|topkgating|topk_softmax|expert_tokens|moe_sum",
    "quantisation": r"fp8_quant|per_token_quant|quant_fp8",
    "sampling": r"sampling::|topp|topk|softmax|gumbel|temperature|argmax|min_p|penalt|bias_kernel",
    "attention": r"flash|fmha|attention|paged|prepare_varlen",
    "products": r"fused_moe|gemm|nvjet|cutlass|cublas|splitk|matmul|addmm|aten::mm|linear",
    "norms, activations, rotation": r"triton_|rms_norm|silu|act_and_mul|rotary|reshape_and_cache",
    "copies": r"memcpy|memset|copy|index|gather|scatter|fill",
}


class Window(msgspec.Struct, frozen=True):
    """Some batches of a kind: how many, sequences and tokens of all, seconds, and what ran: times and milliseconds."""

    kind: str
    batches: int
    sequences: int
    tokens: int
    seconds: float
    kernels: dict[str, tuple[int, float]]

    def describe(self, most: int = 25) -> str:
        """Milliseconds a batch: by what a kernel is for, and of the longest ones."""
        kinds: defaultdict[str, float] = defaultdict(float)
        for name, (_, ms) in self.kernels.items():
            kinds[kind_of(name)] += ms
        every = sum(kinds.values())
        lines = [
            f"{self.kind}: {self.batches} batches of {self.sequences / self.batches:.0f} sequences, "
            f"{self.tokens / self.batches:.0f} tokens; ms a batch: {1000 * self.seconds / self.batches:.2f}, "
            f"of them {every / self.batches:.2f} in kernels",
            *(f"  {ms / self.batches:8.3f} {name}" for name, ms in sorted(kinds.items(), key=lambda one: -one[1])),
            *(
                f"    {ms / self.batches:8.3f} {count / self.batches:6.1f} x {name[:90]}"
                for name, (count, ms) in sorted(self.kernels.items(), key=lambda one: -one[1][1])[:most]
            ),
        ]
        return "\n".join(lines)


def kind_of(kernel: str) -> str:
    """What a kernel is for."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE)), "other")


class Profile:
    """Watches batches go by, and profiles those of each kind whose turn it is."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self._waiting = dict(_BEFORE)
        self._now = ""
        self._profiler: Any = None
        self._began, self._batches, self._sequences, self._tokens = 0.0, 0, 0, 0

    def before_batch(self, sequences: int, tokens: int) -> None:
        """Turn the profiler off or on where it is time."""
        kind = "decoding" if tokens == sequences else "prompts"
        if self._now and (kind != self._now or self._batches == _SEEN[self._now]):
            self.end()
        if not self._now and kind in self._waiting:
            self._waiting[kind] -= 1
            if self._waiting[kind] < 0:
                del self._waiting[kind]
                self._begin(kind)
        self._batches, self._sequences, self._tokens = (
            self._batches + 1, self._sequences + sequences, self._tokens + tokens
        )  # fmt: skip

    def _begin(self, kind: str) -> None:
        self._now, self._batches, self._sequences, self._tokens = kind, 0, 0, 0
        activity = torch.profiler.ProfilerActivity
        self._profiler = torch.profiler.profile(activities=[activity.CUDA if _has_gpu() else activity.CPU])
        _wait()
        self._profiler.start()
        self._began = time.perf_counter()

    def end(self) -> None:
        """Turn it off, if it is on, and keep what it saw."""
        if not self._now:
            return
        _wait()
        seconds = time.perf_counter() - self._began
        self._profiler.stop()
        kernels = {
            one.key: (one.count, (one.self_device_time_total if _has_gpu() else one.self_cpu_time_total) / 1000)
            for one in self._profiler.key_averages()
        }
        seen = {name: (count, ms) for name, (count, ms) in kernels.items() if ms > 0}
        self.windows.append(Window(self._now, self._batches, self._sequences, self._tokens, seconds, seen))
        self._now = ""


class Kernels:
    """Methods of a worker (vLLM's ``worker_extension_cls``), to be called by ``collective_rpc``."""

    model_runner: Any

    def begin_kernels(self) -> None:
        """Watch batches from here on."""
        runner, profile = self.model_runner, Profile()
        own = runner.execute_model

        def execute_model(scheduled: Any, *given: Any, **named: Any) -> Any:
            counts = scheduled.num_scheduled_tokens
            if counts:
                profile.before_batch(len(counts), sum(counts.values()))
            return own(scheduled, *given, **named)

        runner.execute_model = execute_model
        self._kernels_profile = profile

    def end_kernels(self) -> list[dict[str, Any]]:
        """What was seen since, each as Window's fields."""
        del self.model_runner.execute_model
        self._kernels_profile.end()
        return [msgspec.to_builtins(window) for window in self._kernels_profile.windows]


def record(engine: Any, run: Callable[[], Any], file: Path) -> str:
    """Run once more with it, keep what the first worker saw in ``file``, and return what to say of it."""
    engine.collective_rpc("begin_kernels")
    run()
    windows = msgspec.convert(engine.collective_rpc("end_kernels")[0], list[Window])
    file.write_bytes(msgspec.json.encode(windows))
    return "\n".join(window.describe() for window in windows)


def _has_gpu() -> bool:
    return torch.cuda.is_available()


def _wait() -> None:
    if _has_gpu():
        torch.cuda.synchronize()
