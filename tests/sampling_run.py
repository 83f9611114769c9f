"""The ranks of a TP group: vLLM's own sampler of GPUs over many batches, by itself and shared out; prints both.

    python -m tests.sampling_run RANKS

vLLM is imported once: the ranks are forked from that process. The sampler's kernels are run by Triton's interpreter, on
the CPU; but for top-k and top-p, whose kernel that does not understand: there vLLM's way for small batches is taken.
"""

from __future__ import annotations

# isort: off
import tests.interpreted_triton  # before anything of vLLM

# isort: on
import inspect
import json
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.triton_utils import tl
from vllm.v1.sample.ops import topk_topp_sampler
from vllm.v1.worker.cpu.buffer_utils import UvaBuffer
from vllm.v1.worker.gpu import buffer_utils
from vllm.v1.worker.gpu.sample import gumbel
from vllm.v1.worker.gpu.sample import sampler as samplers
from vllm.v1.worker.gpu.states import RequestState

from vllm_hpc.engine.vllm_patches.sharded_sampling import SharedSampling

VOCABULARY, MOST = 700, 128
# Of a row, by its number; then rows of a batch.
PARAMETERS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.8, "top_p": 0.95},
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 1.3, "top_k": 20, "min_p": 0.01},
    {"temperature": 0.7, "presence_penalty": 0.5, "logit_bias": {7: 4.0}},
)
BATCHES = (1, 47, 48, 64, 101, 128)


def make_sampler(config: VllmConfig) -> Any:
    """vLLM's, with a row of each kind in every fifth place."""
    device = torch.device("cpu")
    states = RequestState(MOST, 64, MOST, 0, VOCABULARY, device)
    sampler = samplers.Sampler(*known(samplers.Sampler, vllm_config=config), MOST, VOCABULARY, device, states)
    np.random.seed(1)  # of rows without a seed, as vLLM's workers draw them
    for row in range(MOST):
        states.prompt_len.np[row] = states.prefill_len.np[row] = 1
        params = SamplingParams(max_tokens=8, **PARAMETERS[row % len(PARAMETERS)])
        sampler.add_request(row, *known(sampler.add_request, prompt_len=1), params)
    sampler.apply_staged_writes()
    return sampler


def batch(rows: int) -> tuple[Any, ...]:
    """Logits, and what else the sampler is told of each row: rows of the sampler's, in any order."""
    torch.manual_seed(rows)
    places = torch.randperm(MOST)[:rows].to(torch.int32)
    positions, ids, local = torch.arange(rows) + 3, torch.full((rows,), 9), torch.zeros(rows, dtype=torch.int32)
    by_row = known(
        samplers.Sampler.sample, expanded_idx_mapping=places, idx_mapping=places, idx_mapping_np=places.numpy(),
        pos=positions, input_ids=ids, expanded_local_pos=local, seq_lens_upper_bound_np=positions.numpy(),
    )  # fmt: skip
    return 3 * torch.randn(rows, VOCABULARY), *by_row


def known(function: Any, **named: Any) -> list[Any]:
    """Those of these that the function takes, in its order: vLLM 0.26 takes fewer than 0.32."""
    return [named[name] for name in inspect.signature(function).parameters if name in named]


def run_rank(rank: int, ranks: int, folder: str) -> dict[int, Any]:
    """By rows of a batch, how many this rank sampled, and all tokens: by itself and shared out."""
    config = VllmConfig()
    with set_current_vllm_config(config):
        parallel_state.init_distributed_environment(ranks, rank, f"file://{folder}/store", rank, "gloo")
        parallel_state.initialize_model_parallel(ranks)
    with mock.patch.object(buffer_utils, "UvaBuffer", UvaBuffer):
        sampler = make_sampler(config)
    if hasattr(gumbel, "tldevice"):  # of 0.26: from the GPU's own library, which the interpreter does not have
        gumbel.tldevice = SimpleNamespace(log1p=lambda value: tl.log(1.0 + value))
    own = sampler.sample
    sampled: list[int] = []

    def counted(logits: torch.Tensor, *by_row: Any, **named: Any) -> Any:
        sampled.append(len(logits))
        return own(logits, *by_row, **named)

    sampler.sample = counted
    shared = SharedSampling(sampler, parallel_state.get_tp_group())
    told = {}
    with mock.patch.object(topk_topp_sampler, "HAS_TRITON", False):
        for rows in BATCHES:
            whole = own(*batch(rows))[0].tolist()
            told[rows] = {"whole": whole, "shared": shared.sample(*batch(rows))[0].tolist(), "sampled": sampled[-1]}
    parallel_state.destroy_model_parallel()
    parallel_state.destroy_distributed_environment()
    return told


def main() -> None:
    """Print a JSON list: what each rank told."""
    assert tests.interpreted_triton.HAS_TRITON
    ranks = int(sys.argv[1])
    forked = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(ranks, forked) as pool:
        # Each waits for all: no process takes two of these.
        told = [pool.submit(run_rank, rank, ranks, folder) for rank in range(ranks)]
        print(json.dumps([one.result() for one in told]))


if __name__ == "__main__":
    main()
