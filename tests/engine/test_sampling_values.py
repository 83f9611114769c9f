"""A row's sampling: a rehearsal refuses what vLLM's SamplingParams refuse, and takes what they take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests import crafted
from tests.engine.test_rehearsal import record
from vllm_hpc.engine.rehearsal.rows import RehearsalRows
from vllm_hpc.engine.rows.checks import check_embedding, cuts_of, in_vllm_names
from vllm_hpc.engine.rows.constraint import checked_constraint
from vllm_hpc.spec.sampling_names import CUTS

TAKEN: list[dict[str, Any]] = [
    {"max_tokens": 1.0}, {"max_tokens": "5"}, {"max_tokens": 2**40}, {"top_k": 2**40}, {"temperature": "0.5"},
    {"logit_bias": {"5": 1}}, {"seed": 2**64 - 1}, {"seed": -1}, {"thinking_token_budget": -1}, {"watermarking": 1},
    {"repetition_detection": {"max_pattern_size": 2, "min_count": 2}}, {"extra_args": {"a": 2**63}},
    {"structured_outputs": {"choice": ["a"]}}, {"structured_outputs": {"json": {}}},
    {"structured_outputs": {"json_object": True, "disable_any_whitespace": True}}, {"truncation_side": "left"},
]  # fmt: skip
REFUSED: list[dict[str, Any]] = [
    {"max_tokens": 1.5}, {"max_tokens": True}, {"skip_special_tokens": "x"}, {"skip_special_tokens": 0.0},
    {"include_stop_str_in_output": []}, {"watermarking": "x"}, {"flat_logprobs": "x"}, {"logprob_token_ids": "x"},
    {"thinking_token_budget": "x"}, {"thinking_token_budget": -5}, {"skip_reading_prefix_cache": "x"},
    {"trace_decode_token_ids": "x"}, {"prompt_logprob_token_ids": [[1]]}, {"prompt_logprob_start": "x"},
    {"routed_experts_prompt_start": "x"}, {"repetition_detection": 3}, {"extra_args": {"a": [2**70]}},
    {"repetition_detection": {"max_pattern_size": 2}}, {"repetition_detection": {"min_pattern_size": 2}},
    {"structured_outputs": {"choice": "a"}}, {"structured_outputs": {"choice": [1]}},
    {"structured_outputs": {"regex": 5}}, {"structured_outputs": {"json": 5}}, {"structured_outputs": {"grammar": " "}},
    {"structured_outputs": {"json_object": False}}, {"structured_outputs": {"choice": ["a"], "regex": "b"}},
    {"structured_outputs": {"choice": ["a"], "disable_any_whitespace": "x"}}, {"structured_outputs": "{}"},
    {"seed": 2**64}, {"seed": -(2**63) - 1}, {"truncation_side": "middle"}, {"guided_json": {}}, {"stream": True},
]  # fmt: skip


def rehearse(sampling: dict[str, Any]) -> None:
    RehearsalRows(record(max_model_len=100))({"index": 0, "id": "a", "prompt": "a", "sampling": sampling})


@pytest.mark.parametrize("sampling", TAKEN, ids=str)
def test_a_rehearsal_takes(sampling: dict[str, Any]) -> None:
    rehearse(sampling)


@pytest.mark.parametrize("sampling", REFUSED, ids=str)
def test_a_rehearsal_refuses(sampling: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, msgspec.ValidationError)) as caught:
        rehearse(sampling)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.vllm
def test_vllm_does_the_same() -> None:
    pytest.importorskip("vllm")
    from vllm import SamplingParams

    from vllm_hpc.engine.rows.sampling import _convert

    def convert(sampling: dict[str, Any]) -> SamplingParams:
        cuts_of(sampling)
        given = {"max_tokens": 256, **in_vllm_names(sampling)}
        constraint = given.pop("structured_outputs", None)
        if constraint is not None:
            checked_constraint(constraint)
        return _convert({name: value for name, value in given.items() if name not in CUTS})

    # A rehearsal knows the names of the newest version.
    known = {*SamplingParams.__struct_fields__, *CUTS, "structured_outputs"}
    for sampling in TAKEN:
        if sampling.keys() <= known:
            convert(sampling)
        else:
            with pytest.raises(ValueError, match="SamplingParams has no"):
                convert(sampling)
    for sampling in REFUSED:
        if "watermarking" not in known and "extra_args" in sampling:
            continue  # an older vLLM does not look into it
        with pytest.raises(Exception):  # noqa: B017 - vLLM's own class is no ValueError in every version
            convert(sampling)


@pytest.mark.vllm
def test_a_seed_of_minus_one_is_none_for_seed_rows(tmp_path: Path) -> None:
    """vLLM takes it for none: such a row would draw from the engine's generator, in the order in which rows run."""
    pytest.importorskip("vllm")
    from vllm_hpc.engine.rows.sampling import SamplingMaker, seed_of

    job = crafted.make_job(tmp_path / "job").job()
    seeded = msgspec.structs.replace(job, request=msgspec.structs.replace(job.request, seed=7, seed_rows=True))
    config = SimpleNamespace(model_config=SimpleNamespace(get_diff_sampling_param=dict))
    make = SamplingMaker(SimpleNamespace(vllm_config=config), seeded)
    seeds = [make({"id": "a", "sampling": given}).seed for given in ({}, {"seed": None}, {"seed": -1}, {"seed": 3})]
    assert seeds == [seed_of(7, "a")] * 3 + [3]


def test_advice_on_a_name_of_servers() -> None:
    with pytest.raises(ValueError, match=r'no \'guided_json\': use structured_outputs=\{"json"'):
        rehearse({"guided_json": {}})


def test_a_field_of_a_newer_vllm_is_left_to_it() -> None:
    given = {"choice": ["a"], "flavour": 1}
    with pytest.raises(ValueError, match="has no 'flavour'"):
        checked_constraint(given)
    assert checked_constraint(given, {"choice", "flavour"}) == given


def test_an_embedding_is_checked_too() -> None:
    with pytest.raises(TypeError, match="use_activation must be true or false"):
        check_embedding({"use_activation": 1.0})
