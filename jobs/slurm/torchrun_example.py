import os

import torch.distributed as dist
from vllm import LLM, SamplingParams

prompts = ["Hello, my name is", "The capital of France is"]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95)

# Create LLM with external launcher
# The seed: TP=2, PP=2, which 16 ranks cannot share. Here TP inside a node, PP over the nodes, on any allocation.
ranks_per_node = int(os.environ["LOCAL_WORLD_SIZE"])
llm = LLM(
    model="meta-llama/Llama-3.1-8B",
    tensor_parallel_size=ranks_per_node,
    pipeline_parallel_size=int(os.environ["WORLD_SIZE"]) // ranks_per_node,
    distributed_executor_backend="external_launcher",
    max_model_len=32768,
    seed=1,
)

# All ranks generate outputs
outputs = llm.generate(prompts, sampling_params)

# Only rank 0 prints
if dist.get_rank() == 0:
    for output in outputs:
        print(f"Prompt: {output.prompt!r}")
        print(f"Generated text: {output.outputs[0].text!r}")
