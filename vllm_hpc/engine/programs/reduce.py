"""Values of a program's, reduced over the ranks of a replica: numbers, lists and dicts of numbers, tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import torch
import torch.distributed as dist

from vllm_hpc.engine.loop.lockstep import Lockstep
from vllm_hpc.spec.rank_context import Operation

_OPERATIONS = {
    "sum": dist.ReduceOp.SUM,
    "mean": dist.ReduceOp.SUM,
    "min": dist.ReduceOp.MIN,
    "max": dist.ReduceOp.MAX,
}
# gloo adds these up in themselves, and loses digits that it need not.
_HALF = (torch.float16, torch.bfloat16)
_INT64 = 2**63
# Tensors' forms are compared in a replica's first calls: later ones, in hooks at every step, would cost too much. Which
# calls these are is the same on all ranks, as they make the same ones.
_COMPARED = 256


class Reduction:
    """All-reduces over one replica: CPU tensors over ``cpu_group``, all others over ``device_group``."""

    def __init__(self, lockstep: Lockstep, cpu_group: Any, device_group: Any, size: int) -> None:
        self._lockstep, self._size = lockstep, size
        self._cpu_group, self._device_group = cpu_group, device_group
        self._calls = 0

    def reduce(self, value: Any, operation: Operation) -> Any:
        """The reduced value, of the same form. Raises TypeError, ValueError, OverflowError for what cannot be."""
        if not isinstance(operation, str) or operation not in _OPERATIONS:
            raise ValueError(f"op must be one of {', '.join(_OPERATIONS)}, not {operation!r}")
        self._calls += 1
        if isinstance(value, torch.Tensor):
            _check_tensor(value, operation)
            if self._calls <= _COMPARED:
                form = f"a tensor of {value.dtype} {list(value.shape)} on {value.device.type}"
                self._agree(f"{operation} of {form}", is_whole=False)
            return self._tensor(value, operation)
        numbers = list(_numbers(value))
        most = _INT64 // (self._size if operation == "sum" else 1)
        if operation != "mean" and any(isinstance(one, int) and abs(one) >= most for one in numbers):
            raise OverflowError("all_reduce takes no whole numbers whose result may need over 64 bits: use floats")
        is_whole = all(isinstance(one, int) for one in numbers)
        is_whole = self._agree(f"{operation} of {_form(value)!r}", is_whole) and operation != "mean"
        word = torch.tensor(numbers, dtype=torch.int64 if is_whole else torch.float64)
        return _shaped(value, iter(self._tensor(word, operation).tolist()))

    def _agree(self, form: str, is_whole: bool) -> bool:
        """Whether all numbers on all ranks are whole. Raises ValueError if ranks gave values of different forms.

        A collective of unequal sizes would hang, or mix up what belongs to different keys.
        """
        mine = hashlib.blake2b(form.encode("utf-8", "replace"), digest_size=15).digest()
        every = self._lockstep.gather(mine + bytes([is_whole]))
        others = [rank for rank, one in enumerate(every) if one[:-1] != every[0][:-1]]
        if others:
            raise ValueError(
                f"all_reduce needs values of one form on all ranks, but those of ranks {others} are not like rank "
                f"0's; this rank's: {form[:200]}"
            )
        return all(one[-1] for one in every)

    def _tensor(self, tensor: torch.Tensor, operation: Operation) -> torch.Tensor:
        found = tensor.detach().clone(memory_format=torch.contiguous_format)
        if self._size == 1:
            return found
        is_cpu = found.device.type == "cpu"
        word = found.float() if is_cpu and found.dtype in _HALF else found
        dist.all_reduce(word, op=_OPERATIONS[operation], group=self._cpu_group if is_cpu else self._device_group)
        if operation == "mean":
            word /= self._size
        return word.to(found.dtype)


def _check_tensor(tensor: torch.Tensor, operation: str) -> None:
    """Refuse a tensor that cannot be reduced. Raises TypeError."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else str(tensor.layout)
        raise TypeError(
            f"all_reduce takes dense tensors with values, not a {kind} one: call to_dense() or dequantize()"
        )
    if operation == "mean" and not (tensor.is_floating_point() or tensor.is_complex()):
        raise TypeError(f"the mean of {tensor.dtype} keeps no fraction: call float() on the tensor first")


def _numbers(value: Any) -> Iterator[int | float]:
    """The numbers in a value, in order; those of dicts by their keys' order, which may differ between ranks."""
    if isinstance(value, dict):
        for key in sorted(value, key=repr):
            yield from _numbers(value[key])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, Integral):  # bool, numpy's integers
        yield int(value)
    elif isinstance(value, Real):
        yield float(value)
    else:
        raise TypeError(
            "all_reduce takes numbers, lists, tuples and dicts of numbers, or a tensor, not "
            f"{type(value).__module__}.{type(value).__name__}"
        )


def _form(value: Any) -> Any:
    """What must be equal on all ranks: keys and lengths."""
    if isinstance(value, dict):
        return {repr(key): _form(value[key]) for key in sorted(value, key=repr)}
    return [_form(one) for one in value] if isinstance(value, list | tuple) else 0


def _shaped(value: Any, numbers: Iterator[Any]) -> Any:
    """The numbers in the form of ``value``; a tuple becomes a list."""
    if isinstance(value, dict):
        found = {key: _shaped(value[key], numbers) for key in sorted(value, key=repr)}
        return {key: found[key] for key in value}
    return [_shaped(one, numbers) for one in value] if isinstance(value, list | tuple) else next(numbers)
