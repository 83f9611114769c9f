"""Plan: what was computed from a Request. Plain values, no I/O."""

from __future__ import annotations

import shlex
from typing import Any

import msgspec

from vllm_hpc.spec.drawn import Drawn
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.row_order import INPUT, Order
from vllm_hpc.spec.words import counted

_FITS = {True: "fits", False: "does not fit", None: "fit unknown"}


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the plan in GiB; None if unknown.

    ``weights_gib`` is the whole model. The others describe the fullest GPU (on the CPU, the fullest rank):
    ``per_gpu_gib`` is weights and reserve, ``weights_gib_per_gpu`` its weights, ``kv_gib_per_gpu`` what is left for the
    KV cache, ``gpu_gib`` the total.
    """

    weights_gib: float | None = None
    kv_gib_per_gpu: float | None = None
    per_gpu_gib: float | None = None
    gpu_gib: float | None = None
    weights_gib_per_gpu: float | None = None


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner knows about a model; ``parameters`` is None if some part cannot be counted.

    ``parameters_low`` and ``parameters_high``: what they can be by config.json, where that is not exact.
    ``state_bytes_per_sequence``: of layers that keep a state in place of keys and values. ``encoder_parameters``: of
    what reads images and audio, and ``image_tokens`` the fewest and the most tokens of an image; None if unknown.
    """

    architecture: str
    parameters: int | None
    layers: int
    heads: int
    kv_heads: int
    dtype: str
    quantization: str | None
    kv_bytes_per_token: int
    max_positions: int
    parameters_low: int | None = None
    parameters_high: int | None = None
    state_bytes_per_sequence: int = 0
    encoder_parameters: int | None = None
    image_tokens: tuple[int, int] | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Lower and upper bound of GPU-hours for an input, its tokens, and the basis of the estimate."""

    gpu_hours_low: float
    gpu_hours_high: float
    prompt_tokens: int
    output_tokens: int
    basis: str


class EngineChoice(msgspec.Struct, frozen=True, kw_only=True):
    """An engine argument that changes answers, and what it would give: never taken unless it is asked for.

    ``key``: quantization, kv_cache_dtype, ngram, suffix or mtp; ``allow``: its name for --allow and tune's --sweep;
    ``gain_low`` and ``gain_high``: tokens/s while generating, as multiples of the plan's; ``basis``: where these are
    from; ``answers``: what it changes in them.
    """

    key: str
    allow: str
    engine: dict[str, Any]
    gain_low: float
    gain_high: float
    basis: str
    answers: str

    @property
    def title(self) -> str:
        """What it is, in words."""
        return _TITLES.get(self.key, self.key)

    @property
    def gain(self) -> str:
        """The range in words: "1.24 to 1.48 times the tokens/s"."""
        low, high = f"{self.gain_low:.2f}", f"{self.gain_high:.2f}"
        return f"{low if low == high else f'{low} to {high}'} times the tokens/s"

    @property
    def option(self) -> str:
        """The option that asks for it, as in a shell."""
        given = (f"{name}={_as_json(value)}" for name, value in self.engine.items())
        return " ".join(f"--engine {shlex.quote(one)}" for one in given)


_TITLES = {
    "quantization": "fp8 weights", "kv_cache_dtype": "fp8 KV cache", "ngram": "n-gram speculation",
    "suffix": "suffix speculation", "mtp": "speculation with the model's MTP head",
}  # fmt: skip


def _as_json(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class NodePart(msgspec.Struct, frozen=True):
    """What to ask for on each node, as the scheduler tells of its nodes (memory in MiB); None: it was not asked."""

    cores: int | None = None
    memory_mb: int | None = None


class Plan(Drawn, msgspec.Struct, frozen=True, kw_only=True):
    """What was computed from a Request: the layout, vLLM's arguments, and the reasons for them."""

    layout: Layout
    engine: dict[str, Any]
    fits: bool | None = None
    misfit: str | None = None  # why it does not fit, and what would
    missing: str | None = None  # what the job would fail without; also among the reasons
    unready: str | None = None  # what must be here before the job is submitted; also among the reasons
    reasons: tuple[str, ...] = ()
    memory: Memory = Memory()
    kv_tokens: int | None = None
    concurrency: float | None = None
    runners_up: tuple[str, ...] = ()
    model: ModelFacts | None = None
    cost: Cost | None = None
    part: NodePart = NodePart()
    order: Order = INPUT
    choices: tuple[EngineChoice, ...] = ()

    def __repr__(self) -> str:
        return f"Plan: {self.in_words}"

    @property
    def in_words(self) -> str:
        """Nodes, GPUs, parts and whether it fits, in a line."""
        one = self.layout
        nodes, gpus = counted(one.nodes, "node"), counted(one.gpus_per_node, "GPU")
        tasks = f"{counted(one.tasks, 'task')} of " if one.is_array else ""
        replicas = counted(one.dp, "replica")
        lanes = f" attention DP {one.attention_dp}" if one.attention_dp > 1 else ""
        return f"{tasks}{nodes} x {gpus}, TP {one.tp} PP {one.pp}{lanes}, {replicas}, {_FITS[self.fits]}"

    @property
    def is_native(self) -> bool:
        """Whether vLLM starts its own workers (--launcher native), instead of torchrun one rank per GPU."""
        return self.engine.get("distributed_executor_backend") == "mp"

    def to_json(self) -> dict[str, Any]:
        """The object that ``plan --json`` prints."""
        return {
            **{key: getattr(self.layout, key) for key in self.layout.__struct_fields__ if key != "is_array"},
            "world_size": self.layout.world_size,
            "fits": self.fits,
            "reasons": [*self.reasons, *([self.misfit] if self.misfit else ())],
            "memory": msgspec.to_builtins(self.memory),
            "engine": self.engine,
            "kv_tokens": self.kv_tokens,
            "concurrency": self.concurrency,
            "order": self.order,
            "runners_up": list(self.runners_up),
            "model": msgspec.to_builtins(self.model),
            "cost": msgspec.to_builtins(self.cost),
            "choices": msgspec.to_builtins(self.choices),
        }
