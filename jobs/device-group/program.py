"""An all-reduce of your own metrics, by vLLM's process group for tensors on the device."""

import json

import torch
import torch.distributed as dist
from vllm import SamplingParams
from vllm.distributed.parallel_state import get_world_group

prompts = ["Hello, my name is", "The capital of France is"]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95)


class SumMetrics:
    def run(self, ctx):
        outputs = ctx.llm.generate(prompts, sampling_params)

        # Device group uses NCCL backend (for GPU tensors)
        device_group = get_world_group().device_group

        # Custom all-reduce for aggregating results
        # The seed only calls compute_metrics. Every rank has all outputs, so each counts its share of them.
        local_metrics = compute_metrics(outputs[ctx.rank :: ctx.world_size], ctx.device)
        global_metrics = local_metrics.clone()  # the seed: torch.zeros_like(local_metrics), whose sum is zero
        dist.all_reduce(global_metrics, op=dist.ReduceOp.SUM, group=device_group)

        print(f"[Rank {ctx.rank}/{ctx.world_size}] {local_metrics.tolist()} of {global_metrics.tolist()}")
        if ctx.is_leader:
            rows, tokens = global_metrics.tolist()
            (ctx.artefacts / "metrics.json").write_text(json.dumps({"rows": rows, "tokens": tokens}))


def compute_metrics(outputs, device):
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return torch.tensor([len(outputs), tokens], device=device)
