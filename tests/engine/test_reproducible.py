"""--reproducible on a rank: the variable before vLLM is imported, a seed for each row, and devices that cannot."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.marks import beside_vllm
from vllm_hpc.engine.startup import reproducible
from vllm_hpc.spec.errors import RequestError

pytestmark = pytest.mark.programs


def test_vllm_reads_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)
    reproducible.ask_for()
    assert os.environ["VLLM_BATCH_INVARIANT"] == "1"


class Device:
    """One of vLLM's platforms."""

    def __init__(self, kind: str, capability: int = 0) -> None:
        self.kind, self.capability = kind, capability

    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    def is_cuda(self) -> bool:
        return self.kind == "cuda"

    def has_device_capability(self, least: int) -> bool:
        return self.capability >= least


@pytest.mark.parametrize(
    ("device", "has_home", "said"),
    [
        (Device("cuda", 90), False, None),
        (Device("cuda", 80), False, None),
        (Device("cuda", 75), True, "vLLM's batch-invariant mode is for Ampere and newer"),
        (Device("rocm"), True, None),
        (Device("rocm"), False, "has no batch-invariant mode on these GPUs"),
        (Device("cpu"), True, "vLLM has no batch-invariant mode on the CPU"),
    ],
)
def test_a_device_that_cannot_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: Device, has_home: bool, said: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.26.0"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", SimpleNamespace(current_platform=device))
    monkeypatch.setattr(reproducible, "find_spec", lambda _: object() if has_home else None)
    if said is None:
        reproducible.check_device()
        return
    with pytest.raises(
        RequestError, match=f"--reproducible: .*{said}: use other GPUs or another vLLM, or leave it out"
    ):
        reproducible.check_device()


@beside_vllm
@pytest.mark.parametrize(
    ("asked", "has_seed"), [({"reproducible": True}, True), ({"seed_rows": True}, True), ({}, False)]
)
def test_each_row_has_a_seed(asked: dict[str, bool], has_seed: bool) -> None:
    from vllm_hpc.engine.rows.sampling import SamplingMaker

    engine: Any = SimpleNamespace(
        vllm_config=SimpleNamespace(model_config=SimpleNamespace(get_diff_sampling_param=dict))
    )
    request = SimpleNamespace(**{"seed": 5, "seed_rows": False, "reproducible": False, **asked})
    record: Any = SimpleNamespace(sampling={"temperature": 1.0}, request=request)
    one, other = (SamplingMaker(engine, record)({"id": name}) for name in "ab")
    assert (one.seed is not None and one.seed != other.seed) is has_seed
