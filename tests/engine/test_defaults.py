"""Engine arguments that follow from the device where the ranks run. (The GPUs are stand-ins: there are none here.)"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from tests.crafted import layout
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.vllm_defaults import MODEL_RUNNER, graph_sizes

pytestmark = pytest.mark.vllm
NO_FUSION = {"compilation_config": {"pass_config": {"fuse_allreduce_rms": False}}}


def platform(name: str, gib: int) -> SimpleNamespace:
    return SimpleNamespace(
        is_cpu=lambda: name == "cpu",
        get_device_name=lambda: name,
        get_device_total_memory=lambda: gib << 30,
    )


@pytest.mark.parametrize(
    ("name", "gib", "tp", "pp", "given", "expected"),
    [
        ("cpu", 24, 1, 1, {}, {"enforce_eager": True}),
        ("cpu", 24, 1, 2, {}, {"compilation_config": {"mode": 2, "backend": "eager"}}),
        ("NVIDIA H100 80GB HBM3", 79, 1, 1, {}, {"max_num_seqs": 512}),
        ("NVIDIA H100 80GB HBM3", 79, 2, 1, {}, {"max_num_seqs": 512} | NO_FUSION),
        ("NVIDIA H100 80GB HBM3", 79, 1, 1, {"max_num_batched_tokens": 256}, {}),
        ("NVIDIA H100 80GB HBM3", 79, 1, 1, {"max_num_seqs": 512}, {}),
        ("NVIDIA H100 80GB HBM3", 79, 1, 1, {"max_num_seqs": 832}, {"cudagraph_capture_sizes": graph_sizes(832)}),
        ("NVIDIA H100 80GB HBM3", 79, 1, 1, {"max_num_seqs": 1000}, {"cudagraph_capture_sizes": graph_sizes(1008)}),
        ("NVIDIA H100 80GB HBM3", 79, 1, 1, {"max_num_seqs": "600"}, {"cudagraph_capture_sizes": graph_sizes(608)}),
        ("NVIDIA A100-SXM4-80GB", 79, 1, 1, {"max_num_seqs": 4096}, {"cudagraph_capture_sizes": graph_sizes(2048)}),
        ("NVIDIA L4", 22, 1, 1, {"max_num_seqs": 832}, {}),
        ("NVIDIA H100 80GB HBM3", 79, 1, 1, {"max_num_seqs": 832, "enforce_eager": True}, {}),
        (
            "NVIDIA H100 80GB HBM3",
            79,
            1,
            1,
            {"max_num_seqs": 832, "enforce_eager": False},
            {"cudagraph_capture_sizes": graph_sizes(832)},
        ),
        ("NVIDIA H100 80GB HBM3", 79, 1, 1, {"max_num_seqs": 832, "cudagraph_capture_sizes": [1, 8]}, {}),
        (
            "NVIDIA H100 80GB HBM3",
            79,
            1,
            1,
            {"max_num_seqs": 832, "compilation_config": {"max_cudagraph_capture_size": 8}},
            {},
        ),
        ("NVIDIA H100 80GB HBM3", 79, 1, 1, {"max_num_seqs": 832, "compilation_config": 0}, {}),
        ("NVIDIA H100 80GB HBM3", 79, 1, 1, {"max_num_seqs": 832, "compilation_config": "{}"}, {}),
        ("NVIDIA H100 80GB HBM3", 79, 1, 1, {"max_num_seqs": 832, "optimization_level": 0}, {}),
        ("NVIDIA A100-SXM4-80GB", 79, 1, 1, {}, {}),
        ("NVIDIA L4", 22, 1, 1, {}, {}),
    ],
)
def test_defaults_of_the_device(
    monkeypatch: pytest.MonkeyPatch, name: str, gib: int, tp: int, pp: int, given: dict[str, Any], expected: Any
) -> None:
    pytest.importorskip("vllm")
    import vllm.platforms

    from vllm_hpc.engine.startup.make_engine import _device_defaults

    monkeypatch.setattr(vllm.platforms, "current_platform", platform(name, gib))
    assert _device_defaults(layout(tp, pp), given) == expected


def test_stages_on_the_cpu_need_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    import vllm.platforms

    from vllm_hpc.engine.startup.make_engine import _device_defaults

    monkeypatch.setattr(vllm.platforms, "current_platform", platform("cpu", 24))
    with pytest.raises(RequestError, match="enforce_eager with --pp"):
        _device_defaults(layout(1, 2), {"enforce_eager": True})


@pytest.mark.parametrize(
    ("is_patched", "asked", "runner"),
    [(True, None, None), (True, "1", "1"), (False, None, "0"), (False, "0", "0"), (False, "1", RequestError)],
)
def test_lanes_get_a_model_runner_in_which_they_do_not_hang(
    monkeypatch: pytest.MonkeyPatch, is_patched: bool, asked: str | None, runner: Any
) -> None:
    pytest.importorskip("vllm")
    from vllm_hpc.engine.startup import make_engine

    monkeypatch.setattr(make_engine, "is_on", lambda name: is_patched)
    monkeypatch.delenv(MODEL_RUNNER, raising=False)
    if asked is not None:
        monkeypatch.setenv(MODEL_RUNNER, asked)
    if runner is RequestError:
        with pytest.raises(RequestError, match=f"^{MODEL_RUNNER}=1 does not go with --attention-dp and this vLLM"):
            make_engine.use_runner_for_lanes()
        return
    monkeypatch.setattr(os, "environ", dict(os.environ))
    make_engine.use_runner_for_lanes()
    assert os.environ.get(MODEL_RUNNER) == runner
