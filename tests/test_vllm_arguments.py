"""Arguments of vLLM by its installed source: what is refused before a job waits in a queue."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from vllm_hpc import vllm_arguments
from vllm_hpc.errors import RequestError
from vllm_hpc.vllm_arguments import check_arguments


@pytest.mark.parametrize(
    ("kind", "name", "value", "said"),
    [
        ("sampling", "n", "abc", 'takes a whole number, not "abc"'),
        ("sampling", "n", "4", 'takes a whole number, not "4"'),
        ("sampling", "top_k", 2.5, "takes a whole number, not 2.5"),
        ("sampling", "n", {"a": 1}, 'not {"a": 1}'),
        ("sampling", "stop", 5, """takes text or a list, not 5 (as text: stop='"5"')"""),
        ("sampling", "stop_token_ids", 5, "takes a list, not 5"),
        ("sampling", "extra_args", [1], "takes a JSON object, not [1]"),
        ("sampling", "bad_words", "x" * 1000, "xxx..."),
        ("engine", "kv_cache_dtype", "nope", "takes one of auto, "),
        ("engine", "dtype", "bf16", "bfloat16"),
        ("engine", "max_num_seqs", "abc", "takes a whole number"),
        ("engine", "max_num_seqs", True, None),  # Python's 1
        ("engine", "enforce_eager", "yes", 'takes true or false, not "yes"'),
        ("engine", "enforce_eager", 2, "takes true or false, not 2"),
        ("engine", "max_lora_rank", 7, "takes one of 1, 8, "),
        ("engine", "enforce_eagr", True, "did you mean 'enforce_eager'?"),
        ("engine", "_api_process_count", 1, "is no argument"),
        ("engine", "enforce_eager", 1, None),
        ("engine", "max_num_seqs", "4", None),
        ("engine", "max_num_seqs", "4.5", "takes a whole number"),
        ("engine", "gpu_memory_utilization", "0.85", None),
        ("engine", "gpu_memory_utilization", "much", "takes a number"),
        ("engine", "gpu_memory_utilization", 1, None),
        ("engine", "max_num_seqs", None, None),
        ("engine", "kv_cache_dtype", "fp8", None),
        ("engine", "quantization", "of a plugin", None),
        ("engine", "compilation_config", {"mode": 3}, None),
        ("sampling", "temperature", 0.5, None),
        ("sampling", "stop", ["a"], None),
    ],
)
def test_a_value_is_of_the_type_that_vllm_names(kind: str, name: str, value: Any, said: str | None) -> None:
    if said is None:
        check_arguments(kind, {name: value})
        return
    with pytest.raises(RequestError) as refused:
        check_arguments(kind, {name: value})
    assert f"--{kind} " in str(refused.value)
    assert name in str(refused.value)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_without_vllm_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_arguments, "find_spec", lambda name: None)
    check_arguments("engine", {"no_such_argument": object()})


@pytest.mark.vllm
def test_what_vllm_takes_by_itself_is_never_refused() -> None:
    """Its own defaults, for every argument: the source is read as Python reads it."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs

    defaults = {field.name: getattr(EngineArgs, field.name, None) for field in dataclasses.fields(EngineArgs)}
    plain = (bool, int, float, str, list, dict, type(None))
    known = {name: value for name, value in defaults.items() if type(value) in plain and not name.startswith("_")}
    assert len(known) > 100
    check_arguments("engine", known)
    mine = SamplingParams()
    names = [name for name in mine.__struct_fields__ if not name.startswith("_")]
    found = {name: getattr(mine, name) for name in names if type(getattr(mine, name)) in plain}
    assert len(found) > 20
    check_arguments("sampling", found)
