"""Arguments of vLLM by its installed source: what is refused before a job waits in a queue."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.marks import needs_vllm
from vllm_hpc.spec import vllm_arguments
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.sampling import LIMITS
from vllm_hpc.spec.vllm_arguments import typed


# vLLM's source is read; it is not imported, which takes ten seconds.
@needs_vllm
@pytest.mark.parametrize(
    ("kind", "name", "value", "said"),
    [
        ("sampling", "n", "abc", 'takes a whole number, not "abc"'),
        ("sampling", "n", "4", 'takes a whole number, not "4"'),
        ("sampling", "n", None, "takes a whole number, not null"),
        ("sampling", "top_k", 2.5, "takes a whole number, not 2.5"),
        ("sampling", "n", {"a": 1}, 'not {"a": 1}'),
        ("sampling", "stop", 5, """takes a string or a list, not 5 (quote a string twice: stop='"..."')"""),
        ("sampling", "stop_token_ids", 5, "takes a list, not 5"),
        ("sampling", "extra_args", [1], "takes a JSON object, not [1]"),
        ("sampling", "bad_words", "x" * 1000, "xxx..."),
        ("sampling", "stop_token_ids", object(), "job.json"),
        ("engine", "kv_cache_dtype", "nope", "takes one of auto, "),
        ("engine", "moe_backend", "nope", " more, not"),
        ("engine", "dtype", "bf16", "bfloat16"),
        ("engine", "max_num_seqs", "abc", "takes a whole number"),
        ("engine", "max_num_seqs", "4.5", "takes a whole number"),
        ("engine", "max_num_seqs", "９", "takes a whole number"),
        ("engine", "max_num_seqs", 4.5, "takes a whole number"),
        ("engine", "gpu_memory_utilization", "much", "takes a number"),
        ("engine", "enforce_eager", "maybe", 'takes true or false, not "maybe"'),
        ("engine", "enforce_eager", 2, "takes true or false, not 2"),
        ("engine", "compilation_config", "abc", "takes a whole number or a JSON object"),
        ("engine", "max_lora_rank", 7, "takes one of 1, 8, "),
        ("engine", "enforce_eagr", True, "did you mean 'enforce_eager'?"),
        ("engine", "_api_process_count", 1, "is not an argument"),
    ],
)
def test_what_vllm_does_not_take_is_refused_in_one_line(kind: str, name: str, value: Any, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        typed(kind, {name: value})
    assert f"--{kind} " in str(refused.value)
    assert name in str(refused.value)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 300


@needs_vllm
@pytest.mark.parametrize(
    ("kind", "name", "value", "read"),
    [
        ("engine", "enforce_eager", True, True),
        ("engine", "enforce_eager", "No", False),
        ("engine", "enforce_eager", "true", True),
        ("engine", "disable_log_stats", "off", False),  # a text would be true to Python
        ("engine", "enforce_eager", 1, 1),
        ("engine", "enforce_eager", 1.0, 1),
        ("engine", "max_num_seqs", "4", 4),
        ("engine", "max_num_seqs", " 4_096 ", 4096),
        ("engine", "max_num_seqs", 128.0, 128),
        ("engine", "max_num_seqs", True, True),
        ("engine", "max_num_seqs", None, None),
        ("engine", "max_model_len", None, None),
        ("engine", "kv_cache_memory_bytes", 1e9, 10**9),
        ("engine", "gpu_memory_utilization", "0.85", 0.85),
        ("engine", "gpu_memory_utilization", 1, 1),
        ("engine", "kv_cache_dtype", "fp8", "fp8"),
        ("engine", "moe_backend", "FLASHINFER-CUTLASS", "FLASHINFER-CUTLASS"),  # vLLM reads it
        ("engine", "quantization", "of a plugin", "of a plugin"),
        ("engine", "compilation_config", {"mode": 3}, {"mode": 3}),
        ("engine", "cudagraph_capture_sizes", (1, 2), [1, 2]),
        ("engine", "served_model_name", "7", "7"),
        ("sampling", "temperature", 1, 1),
        ("sampling", "stop", ("a", "b"), ["a", "b"]),
        ("sampling", "stop_token_ids", {1}, [1]),
        ("sampling", "seed", None, None),
    ],
)
def test_what_vllm_takes_is_given_as_it_takes_it(kind: str, name: str, value: Any, read: Any) -> None:
    found = typed(kind, {name: value})[name]
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    "source", ["import vllm.odd", "from vllm.odd import Choice", "type Choice[T] = ...", "Choice = Literal[", ""]
)
def test_a_source_that_cannot_be_followed_is_left_to_vllm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "arg_utils.py").write_text(
        "from vllm.odd import Choice\nclass EngineArgs:\n    odd: Choice = 1\n"
    )
    (tmp_path / "odd.py").write_text(source)
    monkeypatch.setattr(vllm_arguments, "_package", lambda: tmp_path)
    assert typed("engine", {"odd": "x"}) == {"odd": "x"}
    with pytest.raises(RequestError, match="did you mean 'odd'"):
        typed("engine", {"od": "x"})


def test_without_vllm_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_arguments, "find_spec", lambda name: None)
    assert typed("engine", {"no_such_argument": "x"}) == {"no_such_argument": "x"}


@pytest.mark.vllm
def test_what_vllm_takes_by_itself_is_never_refused() -> None:
    """Its own defaults, for every argument: the source is read as Python reads it."""
    pytest.importorskip("vllm")
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs

    defaults = {field.name: getattr(EngineArgs, field.name, None) for field in dataclasses.fields(EngineArgs)}
    plain = (bool, int, float, str, list, dict, type(None))
    known = {name: value for name, value in defaults.items() if type(value) in plain and not name.startswith("_")}
    assert len(known) > 100
    assert typed("engine", known) == known
    mine = SamplingParams()
    names = [name for name in mine.__struct_fields__ if not name.startswith("_")]
    found = {name: getattr(mine, name) for name in names if type(getattr(mine, name)) in plain}
    assert len(found) > 20
    assert typed("sampling", found) == found


@pytest.mark.vllm
def test_the_limits_of_sampling_are_vllms() -> None:
    """The least of each is taken and what is below is not; seeds and temperatures apart, which have options."""
    pytest.importorskip("vllm")
    from vllm import SamplingParams

    for name, (least, _, is_least_taken, _) in LIMITS.items():
        if name in ("seed", "max_tokens", "temperature"):
            continue
        for value, is_taken in ((least, is_least_taken), (least - 1, False)):
            if is_taken:
                assert getattr(SamplingParams(**{name: value}), name) is not None
            else:
                with pytest.raises(Exception, match=name):
                    SamplingParams(**{name: value})


@pytest.mark.parametrize("name", ["guided_json", "stream", "max_new_tokens"])
def test_a_name_of_servers_is_refused_without_vllm_too(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("vllm_hpc.spec.vllm_arguments._package", lambda: None)
    with pytest.raises(RequestError, match=f"^--sampling: vLLM's SamplingParams has no {name!r}: "):
        typed("sampling", {name: 1})
    assert typed("sampling", {"n": 2}) == {"n": 2}
