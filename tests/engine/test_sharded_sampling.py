"""Tokens that the ranks of a TP group sample for each other are those that each would have sampled by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine_run import ENVIRONMENT

pytestmark = pytest.mark.vllm
np, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")


@pytest.fixture
def module() -> Any:
    """What is tested. It imports vLLM, which takes its time: only where a test asks for it."""
    pytest.importorskip("vllm")
    from vllm_hpc.engine.vllm_patches import sharded_sampling

    return sharded_sampling


@pytest.mark.full
def test_tokens_are_those_of_vllms_sampler() -> None:
    ranks = 3
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.sampling_run", str(ranks)],
        capture_output=True, text=True, env=os.environ | ENVIRONMENT, cwd=Path(__file__).parents[2], timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == ranks
    for batches in zip(*(one.items() for one in told), strict=True):
        rows = int(batches[0][0])
        whole = batches[0][1]["whole"]
        assert len(set(whole)) > rows // 4  # they are samples
        for _, one in batches:
            assert one["whole"] == one["shared"] == whole
            assert one["sampled"] == (-(-rows // ranks) if rows >= 16 * ranks else rows)


class Group:
    """A TP group of four, of which this is the last rank."""

    world_size, rank_in_group = 4, 3

    def all_gather(self, tokens: Any, dim: int) -> Any:
        return torch.cat([tokens] * self.world_size, dim)


class Recorded:
    """What a sampler is asked for."""

    def __init__(self, flashinfer: bool = False) -> None:
        self.use_flashinfer, self.rows = flashinfer, 0
        self.sampling_states = SimpleNamespace(
            vocab_size=9, top_p=SimpleNamespace(np=np.ones(72)), top_k=SimpleNamespace(np=np.full(72, 9))
        )

    def sample(self, logits: Any, *by_row: Any, **named: Any) -> Any:
        self.rows = len(logits)
        return torch.zeros(self.rows, dtype=torch.int64), logits


def test_what_needs_all_rows_is_sampled_whole(module: Any) -> None:
    logits, places = torch.zeros(64, 9), torch.arange(64)
    own = Recorded()
    shared = module.SharedSampling(own, Group())
    assert len(shared.sample(logits, places)[0]) == 64
    assert own.rows == 16
    shared.sample(logits, places, return_logprobs=True)
    assert own.rows == 64
    shared.sample(logits, places, return_logprobs=False)
    assert own.rows == 16
    shared.sample(logits, torch.arange(32))  # two logits of each row
    assert own.rows == 64
    shared.sample(logits[:63], places[:63])
    assert own.rows == 63
    shared.is_on = False
    shared.sample(logits, places)
    assert own.rows == 64


def test_now_and_then_each_rank_samples_whole(module: Any) -> None:
    """So that ranks whose logits differ do not stay unnoticed."""
    own = Recorded()
    shared = module.SharedSampling(own, Group())
    sampled = []
    for _ in range(64):
        shared.sample(torch.zeros(64, 9))
        sampled.append(own.rows)
    assert sampled == ([16] * 31 + [64]) * 2


def test_a_kernel_that_draws_by_the_place_in_the_batch_gets_the_whole_batch(module: Any) -> None:
    own = Recorded(flashinfer=True)
    shared = module.SharedSampling(own, Group())
    slots = np.arange(64)
    shared.sample(torch.zeros(64, 9), slots)
    assert own.rows == 16  # without top-k and top-p that kernel is not taken
    own.sampling_states.top_p.np[70] = 0.9  # of a row that has ended
    shared.sample(torch.zeros(64, 9), slots)
    assert own.rows == 16
    own.sampling_states.top_p.np[2] = 0.9
    shared.sample(torch.zeros(64, 9), slots)
    assert own.rows == 64
    shared.sample(torch.zeros(64, 9), slots + 3)
    assert own.rows == 16
    shared.sample(torch.zeros(64, 9))
    assert own.rows == 64


def test_a_sampler_that_is_not_known_is_left_alone(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed import parallel_state
    from vllm.v1.worker.gpu.sample import sampler as samplers

    def engine(sampler: Any) -> Any:
        worker = SimpleNamespace(worker=SimpleNamespace(model_runner=SimpleNamespace(sampler=sampler)))
        core = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))
        return SimpleNamespace(engine_core=SimpleNamespace(engine_core=core))

    group = Group()
    monkeypatch.setattr(parallel_state, "get_tp_group", lambda: group)
    monkeypatch.setattr(module, "__version__", "0.26.0")
    known = Recorded()
    assert module.share_sampling(engine(known)) is None  # of another class
    monkeypatch.setattr(samplers, "Sampler", Recorded)
    shared = module.share_sampling(engine(known))
    assert isinstance(shared, module.SharedSampling)
    assert module.share_sampling(engine(known)) is shared
    group.world_size = 1
    assert module.share_sampling(engine(Recorded())) is None
    group.world_size = 4
    assert module.share_sampling(SimpleNamespace(engine_core=SimpleNamespace())) is None
    monkeypatch.setattr(module, "__version__", "0.32.0")
    assert module.share_sampling(engine(Recorded())) is None
