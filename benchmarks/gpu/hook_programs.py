"""The programs that benchmarks.gpu.hooks submits: one beside the rows, one with a hook on every layer."""

from __future__ import annotations

import json
import time
from typing import Any

import torch
import torch.distributed as dist

from vllm_hpc import RankContext

Row = dict[str, Any]
_ROUNDS = 20
_BYTES = 64 << 20


class Beside:
    """Counts rows and tokens: what a program costs that leaves the engine alone."""

    def setup(self, ctx: RankContext) -> None:
        """Nothing has been counted."""
        self.tokens = 0

    def on_output(self, ctx: RankContext, row: Row) -> None:
        """Count a row's tokens."""
        self.tokens += row["completion_tokens"]
        row["tokens_so_far"] = self.tokens

    def teardown(self, ctx: RankContext) -> None:
        """Leave what was counted."""
        (ctx.artefacts / "tokens.json").write_text(json.dumps(ctx.all_reduce(self.tokens, "max")))


class Hooks(Beside):
    """Adds up the square of what every layer gives, on the device; and tells what this rank holds."""

    needs_hooks = True

    def setup(self, ctx: RankContext) -> None:
        """Register the hooks, and try the device's group."""
        super().setup(ctx)
        layers = ctx.layers
        self.sums = torch.zeros(len(layers), device=ctx.device)
        self.calls = 0
        for place, layer in enumerate(layers):
            layer.register_forward_hook(self._note(place))
        shards = list(ctx.parameters())
        told = {
            "model": type(ctx.model).__name__,
            "layers": len(layers),
            "modules": sum(1 for _ in ctx.model.named_modules()),
            "parameters": len(shards),
            "gib": sum(one.parameter.numel() * one.parameter.element_size() for one in shards) / 2**30,
            "shards": [str(one) for one in shards[:12]],
            "device": ctx.device,
            "groups": [dist.get_backend(group) for group in (ctx.cpu_group, ctx.device_group)],
            "device_group": _all_reduce(ctx),
        }
        (ctx.artefacts / "rank.json").write_text(json.dumps(told, indent=1))

    def _note(self, place: int) -> Any:
        def hook(layer: Any, args: Any, output: Any) -> None:
            self.calls += 1
            self.sums[place] += output[0].float().pow(2).mean()  # stays on the device: nothing is waited for

        return hook

    def teardown(self, ctx: RankContext) -> None:
        """Leave the means, over all ranks."""
        super().teardown(ctx)
        means = ctx.all_reduce(self.sums / max(1, self.calls / max(1, len(self.sums))), "mean")
        found = {"calls": self.calls, "device": str(means.device), "mean_squares": means.tolist()}
        (ctx.artefacts / "hooks.json").write_text(json.dumps(found))


def _all_reduce(ctx: RankContext) -> dict[str, Any]:
    """An all-reduce over the device's group, checked and timed."""
    word = torch.full((_BYTES // 4,), float(ctx.rank + 1), device=ctx.device)
    dist.all_reduce(word, group=ctx.device_group)
    expected = ctx.world_size * (ctx.world_size + 1) / 2
    is_right = bool((word == expected).all())
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        dist.all_reduce(word, group=ctx.device_group)
    if word.is_cuda:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / _ROUNDS
    return {"ranks": ctx.world_size, "is_right": is_right, "mib": _BYTES >> 20, "ms": round(seconds * 1000, 3)}
