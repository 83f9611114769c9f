"""Operations that only one rank runs, and a barrier for all: by vLLM's process group for CPU tensors (gloo)."""

import json

import torch.distributed as dist
from vllm import SamplingParams
from vllm.distributed.parallel_state import get_world_group

prompts = ["Hello, my name is", "The capital of France is"]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95)


# The seed only calls collect_results, save_to_disk and log_metrics; here they are defined.
def collect_results(outputs):
    return [{"prompt": output.prompt, "text": output.outputs[0].text} for output in outputs]


def save_to_disk(results, path):
    path.write_text(json.dumps(results, indent=2))


def log_metrics(results):
    print(f"{len(results)} results, {sum(len(result['text']) for result in results)} characters")


def generate(ctx):
    # vllm-hpc has made the engine: ctx.llm is the seed's llm.
    outputs = ctx.llm.generate(prompts, sampling_params)

    # CPU group uses GLOO backend (works for CPU tensors and metadata)
    cpu_group = get_world_group().cpu_group
    torch_rank = dist.get_rank(group=cpu_group)

    if torch_rank == 0:
        # Operations that should only run on one rank
        results = collect_results(outputs)
        save_to_disk(results, ctx.artefacts / "results.json")
        log_metrics(results)

    # Synchronize all ranks
    print(f"[Rank {dist.get_rank()}] Before barrier")
    dist.barrier(group=cpu_group)
    print(f"[Rank {dist.get_rank()}] After barrier")
