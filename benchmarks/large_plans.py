"""What the planner makes of six large mixtures on nodes that people run them on: layout, sequences, estimated speed.

    python -m benchmarks.large_plans

prints the table of docs/planner.md: 20,000 rows of 1,000 tokens in and out, with and without --ep. Nothing is measured.
"""

from __future__ import annotations

from typing import Any

from tests.problems import of_rows
from tests.published_models import PUBLISHED
from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.choose_layout import choose
from vllm_hpc.planner.engine_settings import choose_settings
from vllm_hpc.planner.models.config import read_shape
from vllm_hpc.spec.device import Device
from vllm_hpc.spec.gpus import find_gpu
from vllm_hpc.spec.solve_layout import Asked, solve

ROWS, TOKENS = 20_000, 1000
NETWORK_GBPS = 3200  # an adapter of 400 Gbit/s for each of eight GPUs
_KNOWN = {model.name: model.config for model in PUBLISHED}
_FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
_OF_R1 = {
    "n_routed_experts": 384, "num_attention_heads": 64, "num_key_value_heads": 64, "vocab_size": 163_840,
    "first_k_dense_replace": 1, "model_type": "kimi_k2", "num_nextn_predict_layers": 0,
}  # fmt: skip
_GLM: dict[str, Any] = {
    "architectures": ["Glm4MoeForCausalLM"], "hidden_size": 5120, "intermediate_size": 12288, "num_hidden_layers": 92,
    "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_552,
    "n_routed_experts": 160, "num_experts_per_tok": 8, "moe_intermediate_size": 1536, "n_shared_experts": 1,
    "first_k_dense_replace": 3, "attention_bias": True, "max_position_embeddings": 131_072,
}  # fmt: skip
CASES: list[tuple[str, dict[str, Any], int, str]] = [
    ("DeepSeek-R1, fp8", _KNOWN["DeepSeek-R1"], 2, "h100-80"),
    ("DeepSeek-R1, fp8", _KNOWN["DeepSeek-R1"], 1, "h200"),
    ("Kimi-K2, fp8", {**_KNOWN["DeepSeek-R1"], **_OF_R1}, 2, "h200"),
    ("Qwen3-235B-A22B, bf16", _KNOWN["Qwen3-235B-A22B"], 1, "h100-80"),
    ("Qwen3-235B-A22B, fp8", {**_KNOWN["Qwen3-235B-A22B"], **_FP8}, 1, "h100-80"),
    ("gpt-oss-120b, MXFP4", _KNOWN["gpt-oss-120b"], 1, "h100-80"),
    ("GLM-4.5, bf16", _GLM, 1, "h200"),
    ("GLM-4.5, fp8", {**_GLM, **_FP8}, 1, "h200"),
]


def main() -> None:
    """Print the table."""
    print("| model | nodes | options | layout | weights a GPU, GiB | rows at once a lane or replica | tok/s a GPU |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, config, nodes, gpu in CASES:
        for spreads in (False, True):
            print(_line(name, config, nodes, gpu, spreads))


def _line(name: str, config: dict[str, Any], nodes: int, gpu: str, spreads: bool) -> str:
    device, work = Device(find_gpu(gpu), "--gpu"), of_rows(ROWS, TOKENS, TOKENS)
    shape = read_shape({"max_position_embeddings": 131_072, **config}, name)
    settings = choose_settings(shape, device, work, {}, 1.0)
    problem = PlanningProblem(shape, None, device, settings, work, network_gbps=NETWORK_GBPS)
    choice = choose(Asked(nodes=nodes, gpus_per_node=8, spreads=spreads), None, problem, solve)
    assert choice.fit is not None
    seconds = problem.rough_seconds(choice.layout, choice.fit)
    speed = f"{ROWS * TOKENS / seconds / choice.layout.all_ranks:,.0f}" if seconds else "does not fit"
    weights, at_once = choice.fit.rank_weights / 2**30, problem.concurrent(choice.fit)
    options = "`--ep`" if spreads else ""
    return f"| {name} | {nodes} x 8 {gpu} | {options} | {choice.layout.cut} | {weights:.0f} | {at_once:.0f} | {speed} |"


if __name__ == "__main__":
    main()
