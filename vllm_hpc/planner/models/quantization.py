"""Quantised weights: bits per weight, and which weights are quantised."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from vllm_hpc.planner.models.fields import Fields, NotCheckedError
from vllm_hpc.spec.errors import ModelError

MOST_GROUP = 1_000_000
UNKNOWN = "unknown"
# Bits of the scale of a group of weights: half precision in AWQ and GPTQ, a byte in MX formats.
_SCALE_BITS = 16
# quant_method -> whose it is. vLLM 0.26 to 0.32 have none of them.
_OTHERS = {
    "mlx": "MLX", "exl2": "ExLlama", "exl3": "ExLlama", "eetq": "EETQ", "quanto": "Quanto", "vptq": "VPTQ",
    "spqr": "SpQR", "higgs": "HIGGS",
}  # fmt: skip


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """How a model's linear layers are stored. ``bits`` per weight, including scales; None if unknown.

    ``group`` is how many weights along the input share a scale: a TP rank must hold whole groups.
    """

    method: str
    bits: float | None
    group: int | None = None
    only_experts: bool = False


def read_quantization(config: Fields) -> Quantization | None:
    """The quantisation in config.json, None if nothing is quantised.

    If it cannot be told, the bits are unknown. Raises ModelError for numbers that no quantisation has.
    """
    method = UNKNOWN
    try:
        table = config.table("quantization_config") or config.table("compression_config")
        if table is None:
            return None
        fields = Fields(table, f"{config.origin}: quantization_config")
        method = _method(fields)
        if method in _READERS:
            return _READERS[method](method, fields)
    except NotCheckedError:
        pass
    return Quantization(method=method, bits=None)


def _method(fields: Fields) -> str:
    """The method as vLLM spells it (transformers_utils/model_arch_config_convertor.py)."""
    name = fields.word("quant_method").lower().replace("compressed_tensors", "compressed-tensors")
    if not name and Fields(fields.table("producer") or {}, fields.origin).word("name") == "modelopt":
        name = "modelopt"
    return name if re.fullmatch(r"[a-z0-9_.-]{1,40}", name) else UNKNOWN


def check_loadable(config: Fields, given: Any = None) -> None:
    """Refuse what another program has quantised, in a way that no vLLM reads. Raises ModelError.

    ``given`` is --engine quantization, which may name a plug-in's method.
    """
    whose = None if given is not None else _OTHERS.get(_written_method(config))
    if whose:
        raise ModelError(
            f"{config.origin}: quantised for {whose}, which vLLM does not load: use the original model, or one in FP8, "
            "AWQ, GPTQ or compressed-tensors"
        )


def _written_method(config: Fields) -> str:
    """The method as config.json spells it; MLX writes none, but an object of its own. Empty if it cannot be told."""
    try:
        named = Fields(config.table("quantization_config") or {}, config.origin).word("quant_method").lower()
        is_mlx = {"group_size", "bits"} <= (config.table("quantization") or {}).keys()
    except NotCheckedError:
        return ""
    return named or ("mlx" if is_mlx else "")


def online(method: Any) -> Quantization | None:
    """The quantisation that ``--engine quantization=...`` applies while an unquantised model loads, or None."""
    if method is None:
        return None
    bits = {"fp8": 8.0, "bitsandbytes": 4.5}.get(str(method))
    return Quantization(method=str(method), bits=bits)


def _grouped(method: str, fields: Fields) -> Quantization:
    """AWQ and GPTQ: a scale and a zero point for each group of weights; a group of -1 is a whole column."""
    bits = fields.count("bits", "w_bit", most=16)
    group = _group_size(fields, "group_size", "q_group_size")
    overhead = (_SCALE_BITS + bits) / group if group else 0.0
    return Quantization(method=method, bits=bits + overhead, group=group)


def _group_size(fields: Fields, *names: str) -> int | None:
    for name in names:
        if fields.is_minus_one(name):
            return None
    return fields.optional_count(*names, most=MOST_GROUP)


def _fp8(method: str, fields: Fields) -> Quantization:
    """fp8: a byte per weight; with blocks (DeepSeek V3: 128 × 128), a float32 scale for each."""
    block = fields.numbers("weight_block_size")
    if block is None or len(block) != 2 or not 1 <= min(block) <= max(block) <= MOST_GROUP:
        return Quantization(method=method, bits=8.0)
    return Quantization(method=method, bits=8.0 + 32 / (block[0] * block[1]), group=block[1])


def _bitsandbytes(method: str, fields: Fields) -> Quantization:
    """bitsandbytes: 4 bits, with an absolute maximum (itself quantised) for every 64 weights, or 8 bits."""
    return Quantization(method=method, bits=4.5 if fields.flag("load_in_4bit", False) else 8.0)


def _mxfp4(method: str, fields: Fields) -> Quantization:
    """MXFP4 (gpt-oss): 4 bits, and 8 for the scale of 32 weights; only the experts use it."""
    return Quantization(method=method, bits=4 + 8 / 32, only_experts=True)


def _compressed_tensors(method: str, fields: Fields) -> Quantization:
    """compressed-tensors: the first group that has the number of bits per weight."""
    for group in (fields.table("config_groups") or {}).values():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            scheme = Fields(weights, f"{fields.origin}: weights")
            bits = scheme.count("num_bits", most=32)
            size = _group_size(scheme, "group_size")
            return Quantization(method=method, bits=bits + (_SCALE_BITS / size if size else 0.0), group=size)
    return Quantization(method=method, bits=None)


_READERS = {
    "awq": _grouped,
    "gptq": _grouped,
    "fp8": _fp8,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
    "compressed-tensors": _compressed_tensors,
}
