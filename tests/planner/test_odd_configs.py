"""config.json as people have it: what vLLM takes, the planner takes; what it cannot tell, it does not check.

What vLLM itself does with a value is that of vLLM 0.32 with transformers 5.19, asked through vllm.config.ModelConfig.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Cli
from tests.marks import beside_vllm
from tests.published_models import PUBLISHED, SMALL_CONFIG
from vllm_hpc.planner.models.config import read_shape
from vllm_hpc.planner.models.families import CLASSES, FAMILIES
from vllm_hpc.planner.models.inspect import Knowledge, inspect_model
from vllm_hpc.planner.models.read_json import MOST_BYTES, read_object
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.spec.errors import ModelError, RefusedError, RequestError
from vllm_hpc.spec.resolved_job import Model

CASES = Path(__file__).parent / "cases"
pytestmark = pytest.mark.inputs
NAN, INFINITY = float("nan"), float("inf")
LINEAR = {"rope_type": "linear", "factor": 2.0}


def look(folder: Path, config: dict[str, Any], **engine: Any) -> Knowledge:
    """What is known of a model with that config.json; null in ``config`` stays null."""
    (folder / "config.json").write_text(json.dumps(config))
    return inspect_model(Model(str(folder), "model"), engine=engine)


def expect(known: Knowledge, expected: dict[str, Any]) -> None:
    """The shape has these values, by their names or paths of names."""
    for path, value in expected.items():
        found: Any = known.shape
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value, (path, known.notes)


def small(**changes: Any) -> dict[str, Any]:
    return SMALL_CONFIG | changes


def mixture(**changes: Any) -> dict[str, Any]:
    return small(
        architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=64,
    ) | changes  # fmt: skip


def plan(run_cli: Cli, *args: str, code: int = 0) -> dict[str, Any]:
    outcome = run_cli("plan", *args, "--scheduler", "slurm", "--gpu", "h100-80", "--json")
    assert (outcome.code, outcome.err) == (code, ""), outcome
    found: dict[str, Any] = json.loads(outcome.out)
    return found


@pytest.mark.parametrize(
    ("case", "fits", "architecture", "said"),
    [
        ("infinity", True, "NemotronHForCausalLM", "NemotronHForCausalLM is not in the planner's table"),
        ("sliding-window-0", True, "MistralForCausalLM", ""),
        ("positions-as-float", True, "LlamaForCausalLM", ""),
        ("no-architectures", True, "LlamaForCausalLM", """hf_overrides={"architectures": ["LlamaForCausalLM"]}"""),
        ("shared-expert-0", True, "Qwen3MoeForCausalLM", ""),
        ("mistral-params", True, "MistralForCausalLM", "--engine config_format=mistral"),
        ("cache/models--org--name", True, "LlamaForCausalLM", "its snapshot abc is used (the only one)"),
        ("trainer/checkpoint-500", True, "LlamaForCausalLM", ""),
    ],
)
def test_models_that_people_have_are_planned(
    tmp_path: Path, run_cli: Cli, case: str, fits: bool | None, architecture: str | None, said: str
) -> None:
    shutil.copytree(CASES / case, tmp_path / case)
    found = plan(run_cli, str(tmp_path / case), "--nodes", "1", "--gpus-per-node", "4")
    assert found["fits"] is fits
    assert (found["model"] or {}).get("architecture") == architecture
    assert said in " ".join(found["reasons"])


# A value, and what is read instead: as vLLM reads it, or as older transformers, whose classes check no types, do.
READ: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no architectures": (small(architectures=None), {"architecture": "LlamaForCausalLM"}),
    "an empty list of architectures": (small(architectures=[]), {"architecture": "LlamaForCausalLM"}),
    "positions as a float": (small(max_position_embeddings=8192.0), {"positions": 8192}),
    "layers as a float": (small(num_hidden_layers=16.0), {"layers": 16}),
    "vocabulary as 3.2e4": (small(vocab_size=3.2e4), {"vocabulary": 32000}),
    "a window of 0": (small(sliding_window=0), {"window": None}),
    "a window of 0.0": (small(sliding_window=0.0), {"window": None}),
    "a window that is not used": (small(sliding_window="all", use_sliding_window=False), {"window": None}),
    "a head_dim of 0": (small(head_dim=0), {"head_dim": 16}),
    "layers that do not differ": (small(per_layer_config={}), {"layers": 16}),
    "more window layers than layers": (small(max_window_layers=28, num_hidden_layers=8), {"layers": 8}),
    "mrope under both names": (
        small(rope_scaling={"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"}),
        {"positions": 4096},
    ),
    "a null for kv heads": (small(num_key_value_heads=None), {"kv_heads": 64}),
    "a bias of 0": (small(mlp_bias=0, attention_bias=1), {"mlp_bias": False, "qkv_bias": True}),
    "tied as 1": (small(tie_word_embeddings=1), {"tied": True}),
    "a dtype of torch": (small(torch_dtype="torch.float16"), {"dtype": "float16"}),
    "dtype before torch_dtype": (small(torch_dtype="float16", dtype="bfloat16"), {"dtype": "bfloat16"}),
    "a dtype that is a number": (small(torch_dtype=16), {"dtype": "bfloat16"}),
    "a dtype that is a sentence": (small(torch_dtype="half\nof it"), {"dtype": "bfloat16"}),
    "an unknown dtype": (small(dtype="float8_e4m3fn"), {"dtype": "float8_e4m3fn"}),
    "no experts": (mixture(num_experts=0), {"experts": None}),
    "layers of floats": (mixture(mlp_only_layers=[0.0, 1.0]), {"dense_layers": 2}),
    "a text_config": ({"architectures": ["LlamaForCausalLM"], "text_config": SMALL_CONFIG}, {"layers": 16}),
    "an llm_config": ({"architectures": ["LlamaForCausalLM"], "llm_config": SMALL_CONFIG}, {"layers": 16}),
    "a thinker_config": (
        {"architectures": ["LlamaForCausalLM"], "thinker_config": {"text_config": SMALL_CONFIG}}, {"layers": 16},
    ),
    "quantisation inside the text_config": (
        {"architectures": ["LlamaForCausalLM"], "text_config": small(quantization_config={"quant_method": "fp8"})},
        {"quantization.method": "fp8"},
    ),
    "an empty quantisation": (small(quantization_config={}), {"quantization": None}),
    "quantisation in capitals": (small(quantization_config={"quant_method": "FP8"}), {"quantization.bits": 8.0}),
    "compressed_tensors": (
        small(quantization_config={"quant_method": "compressed_tensors",
                                   "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128.0}}}}),
        {"quantization.bits": 4.125, "quantization.group": 128},
    ),
    "groups of none": (
        small(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": None}), {"quantization.bits": 4.0},
    ),
    "rope as an empty list": (small(rope_scaling=None, rope_parameters={}), {"positions": 4096}),
    "rope without a type": (small(rope_scaling={"factor": 2.0}), {"positions": 8192}),
    "rope with a null factor": (small(rope_scaling={"type": "linear", "factor": None}), {"positions": 4096}),
    "rope with a whole factor": (small(rope_scaling={"rope_type": "linear", "factor": 2}), {"positions": 8192}),
    "rope with an old name": (
        small(rope_scaling={"type": "su"}, original_max_position_embeddings=1024), {"positions": 1024},
    ),
    "rope with both names": (
        small(rope_scaling={"type": "mrope", "rope_type": "default", "mrope_section": [1]}), {"positions": 4096},
    ),
    "rope of transformers 5": (small(rope_parameters={"rope_type": "linear", "factor": 2.0}), {"positions": 8192}),
    "rope for each type of layer": (
        small(layer_types=["full_attention"] * 16, rope_parameters={"full_attention": LINEAR}), {"positions": 8192},
    ),
    "a length of nothing beside another": (small(max_seq_len=None, n_positions=0), {"positions": 4096}),
}  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), READ.values(), ids=READ)
def test_an_odd_value_is_read(tmp_path: Path, config: dict[str, Any], expected: dict[str, Any]) -> None:
    expect(look(tmp_path, config), expected)


# Of the key, what the planner cannot tell: vLLM may take it, or its own classes refuse it.
NOT_CHECKED: dict[str, dict[str, Any]] = {
    "architectures: a number": small(architectures=[3]),
    "architectures: a string": small(architectures="LlamaForCausalLM"),
    "architectures: an object": small(architectures={"a": 1}),
    "architectures: nothing known": small(architectures=None, model_type="zebra\n\udcff"),
    "architectures: no model_type": {"vocab_size": 1},
    "num_attention_heads: text": small(num_attention_heads="64"),
    "num_hidden_layers: true": small(num_hidden_layers=True),
    "num_hidden_layers: missing": small(num_hidden_layers=None),
    "num_hidden_layers: infinite": small(num_hidden_layers=INFINITY),
    "num_hidden_layers: nan": small(num_hidden_layers=NAN),
    "hidden_size: missing": small(hidden_size=None),
    "hidden_size: a list": small(hidden_size=[1024]),
    "vocab_size: missing": small(vocab_size=None),
    "vocab_size: an object": small(vocab_size={"size": 1}),
    "num_key_value_heads: a list for each layer": small(num_key_value_heads=[16] * 16),
    "intermediate_size: a list for each layer": small(intermediate_size=[4096] * 16),
    "intermediate_size: negative": small(intermediate_size=-1),
    "head_dim: text": small(head_dim="16"),
    "per_layer_config: of transformers 5": small(per_layer_config={"3": {"head_dim": 32}}),
    "tie_word_embeddings: text": small(tie_word_embeddings="yes"),
    "attention_bias: text": small(attention_bias="false"),
    "text_config: a list": small(text_config=[]),
    "text_config: text": small(text_config="inherit"),
    "hidden_size: an empty text_config": small(text_config={}),
    "vision_config: text": small(vision_config="siglip"),
    "max_position_embeddings: negative": small(max_position_embeddings=-5),
    "max_position_embeddings: -1": small(max_position_embeddings=-1),
    "max_position_embeddings: text": small(max_position_embeddings="4096"),
    "max_position_embeddings: infinite": small(max_position_embeddings=INFINITY),
    "max_position_embeddings: a list": small(max_position_embeddings=[4096]),
    "model_max_length: 1e30": small(model_max_length=1e30),
    "sliding_window: text": small(sliding_window="all"),
    "sliding_window: -1": small(sliding_window=-1),
    "sliding_window: a list": small(sliding_window=[4096, None]),
    "layer_types: numbers": small(sliding_window=128, layer_types=[1, 2]),
    "use_sliding_window: text": small(use_sliding_window="no"),
    "rope_scaling: text": small(rope_scaling="linear"),
    "rope_scaling: a factor of text": small(rope_scaling={"type": "linear", "factor": "4.0"}),
    "rope_scaling: a factor below 0": small(rope_scaling={"type": "linear", "factor": -1.0}),
    "rope_scaling: a factor of 0": small(rope_scaling={"type": "linear", "factor": 0}),
    "rope_scaling: a factor that is nan": small(rope_scaling={"type": "linear", "factor": NAN}),
    "rope_scaling: a factor of 10**400": small(rope_scaling={"type": "linear", "factor": 10**400}),
    "rope_scaling: a type that is a list": small(rope_scaling={"type": ["linear"], "factor": 2.0}),
    "rope_scaling: llama3 and yarn": small(rope_scaling={"factor": 8.0, "rope_type": "llama3", "type": "yarn"}),
    "rope_scaling: two types": small(rope_scaling={"type": "linear", "rope_type": "dynamic", "factor": 2.0}),
    "num_experts: text": mixture(num_experts="8"),
    "num_local_experts: missing": mixture(num_experts=None),
    "moe_intermediate_size: text": mixture(moe_intermediate_size="1"),
    "shared_expert_intermediate_size: text": mixture(shared_expert_intermediate_size="x"),
    "mlp_only_layers: text": mixture(mlp_only_layers="0,1"),
    "mlp_only_layers: a list of text": mixture(mlp_only_layers=["0"]),
    "qk_rope_head_dim: missing": small(architectures=["DeepseekV3ForCausalLM"], kv_lora_rank=512, n_routed_experts=8,
                                       num_experts_per_tok=2, moe_intermediate_size=8),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_CHECKED)
def test_what_cannot_be_told_is_not_checked_and_not_refused(tmp_path: Path, name: str) -> None:
    known = look(tmp_path, NOT_CHECKED[name])
    assert known.shape is None
    (note,) = known.notes
    assert note.startswith("memory is not checked: ")
    assert f"'{name.partition(':')[0]}'" in note or name.startswith("rope_scaling")
    assert note.isprintable()
    note.encode()


UNSIZED: dict[str, Any] = {
    "text": "fp8", "a list": ["fp8"], "true": True, "no method": {"bits": 4}, "null method": {"quant_method": None},
    "an unknown method": {"quant_method": "zebra"}, "a hostile method": {"quant_method": "a\nb\udcff"},
    "bits of text": {"quant_method": "awq", "bits": "4", "group_size": 128},
    "no bits": {"quant_method": "gptq", "group_size": 128},
    "groups of text": {"quant_method": "awq", "bits": 4, "group_size": "128"},
    "config_groups as a list": {"quant_method": "compressed-tensors", "config_groups": []},
    "config_groups of nothing": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": None}}},
    "num_bits of text": {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": "4"}}}},
    "load_in_4bit of text": {"quant_method": "bitsandbytes", "load_in_4bit": "yes"},
    "a producer": {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}},
}  # fmt: skip


@pytest.mark.parametrize("table", UNSIZED.values(), ids=UNSIZED)
def test_a_quantisation_that_cannot_be_sized_leaves_the_layout_known(tmp_path: Path, table: Any) -> None:
    known = look(tmp_path, small(quantization_config=table))
    assert known.shape is not None
    assert known.shape.quantization is not None
    assert known.shape.quantization.bits is None
    assert (known.unweighed or "").startswith("memory is not checked: ")
    assert (known.unweighed or "").isprintable()


def test_the_quantisation_in_a_file_of_its_own_is_read(tmp_path: Path) -> None:
    (tmp_path / "hf_quant_config.json").write_text('{"producer": {"name": "modelopt"}, "quantization": {}}')
    shape = look(tmp_path, SMALL_CONFIG).shape
    assert shape is not None and shape.quantization is not None
    assert shape.quantization.method == "modelopt"


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        (b'{"a": NaN, "b": [Infinity, -Infinity], %s', 16),
        (b"\xef\xbb\xbf{%s", 16),
        (b'{"num_hidden_layers": 99, "hidden_size": "x", %s', 16),
        (b'{"a": 123456789012345678901234567890, "b": 1e400, %s', 16),
        (b'{"a": "\\ud800", "\\udfff": 1, %s', 16),
        (b'{"a": %s, %%s' % (b"[" * 300 + b"]" * 300), 16),
        (b'\r\n\t {"%s": 1, %%s' % (b"x" * 100_000), 16),
    ],
    ids=["nan", "byte order mark", "key twice", "large numbers", "lone surrogates", "deep", "long key"],
)
def test_a_config_is_read_as_python_reads_it(tmp_path: Path, text: bytes, layers: int) -> None:
    (tmp_path / "config.json").write_bytes(text % json.dumps(SMALL_CONFIG).encode()[1:])
    known = inspect_model(Model(str(tmp_path), "model"))
    assert known.shape is not None
    assert known.shape.layers == layers
    assert any("byte order mark" in note for note in known.notes) == text.startswith(b"\xef")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"), (b"{", "not valid JSON"), (b"[]", "one JSON object"), (b"NaN", "one JSON object"),
        (b'"x"', "one JSON object"), (b"{'a': 1}", "not valid JSON"), (b'{"a": 1,}', "not valid JSON"),
        (b'{"a": 1} x', "not valid JSON"), (b"\x00" * 10, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"), ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": "\xff"}', "not UTF-8"), (b"[" * 100_000, "not valid JSON"), (b"\xef\xbb\xbf", "not valid JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not valid JSON"),
    ],
    ids=["empty", "cut", "list", "nan", "text", "quotes", "comma", "more", "zeros", "digits", "utf-16", "bytes", "deep",
         "mark", "lfs"],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=said) as refusal:
        read_object(path)
    assert str(refusal.value).endswith("copy the model again")
    assert str(refusal.value).isprintable()


def test_a_file_that_is_too_large_or_no_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ModelError, match="too large"):
        read_object(tmp_path / "config.json")
    with pytest.raises(ModelError, match="cannot read"):
        read_object(tmp_path)
    with pytest.raises(ModelError, match="cannot read"):
        read_object(tmp_path / "none")


OVERRIDES: tuple[tuple[dict[str, Any], dict[str, Any], dict[str, Any]], ...] = (
    (SMALL_CONFIG, {"num_hidden_layers": 4}, {"layers": 4}),
    (SMALL_CONFIG, {"max_position_embeddings": 9000}, {"positions": 9000}),
    (small(model_type="zebra", architectures=None), {"architectures": ["LlamaForCausalLM"]}, {"layers": 16}),
    (small(architectures=["ZebraForCausalLM"]), {"architectures": ["MistralForCausalLM"]}, {"layers": 16}),
    (SMALL_CONFIG, {"rope_scaling": LINEAR}, {"positions": 8192}),
    (SMALL_CONFIG, {"rope_parameters": LINEAR}, {"positions": 8192}),
    (small(rope_scaling=LINEAR), {"rope_parameters": {"rope_type": "default"}}, {"positions": 4096}),
    (small(rope_parameters=LINEAR), {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, {"positions": 4096}),
    (small(rope_scaling=LINEAR), {"rope_scaling": None}, {"positions": 4096}),
    (small(quantization_config={"quant_method": "fp8"}), {"quantization_config": None}, {"quantization": None}),
    (small(quantization_config={"quant_method": "fp8"}), {"quantization_config": {"a": 4}},
     {"quantization.bits": None}),
    ({"architectures": ["LlamaForCausalLM"], "text_config": SMALL_CONFIG}, {"text_config": {"num_hidden_layers": 3}},
     {"layers": 3, "hidden": 1024}),
    ({"architectures": ["LlamaForCausalLM"], "text_config": SMALL_CONFIG}, {"num_hidden_layers": 3}, {"layers": 16}),
    (small(num_hidden_layers="x"), {"num_hidden_layers": 2}, {"layers": 2}),
    (SMALL_CONFIG, {"num_attention_heads": 32, "head_dim": 64}, {"heads": 32, "head_dim": 64}),
    (SMALL_CONFIG, {}, {"layers": 16}),
)  # fmt: skip


@pytest.mark.parametrize(("config", "overrides", "expected"), OVERRIDES)
def test_overrides_come_before_the_plan(
    tmp_path: Path, config: dict[str, Any], overrides: dict[str, Any], expected: dict[str, Any]
) -> None:
    expect(look(tmp_path, config, hf_overrides=overrides), expected)


@beside_vllm
@pytest.mark.parametrize(
    "overrides",
    [{"num_hidden_layers": 4}, {"max_position_embeddings": 9000}, {"rope_scaling": LINEAR}, {"sliding_window": 0},
     {"rope_parameters": LINEAR | {"rope_theta": 1e4}}, {"architectures": ["MistralForCausalLM"]}, {"head_dim": 32},
     {"vocab_size": 64}],
    ids=str,
)  # fmt: skip
def test_overrides_are_those_of_vllm(
    tmp_path: Path, overrides: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.config import ModelConfig
    from vllm.model_executor.models import registry

    monkeypatch.setattr(registry, "_run_in_subprocess", lambda look: look())
    shape = look(tmp_path, SMALL_CONFIG, hf_overrides=overrides).shape
    theirs = ModelConfig(model=str(tmp_path), skip_tokenizer_init=True, dtype="float32", hf_overrides=overrides)
    assert shape is not None
    assert (theirs.max_model_len, theirs.get_total_num_hidden_layers()) == (shape.positions, shape.layers)
    assert (theirs.architectures, theirs.get_sliding_window()) == ([shape.architecture], shape.window)
    assert (theirs.get_head_size(), theirs.get_vocab_size()) == (shape.head_dim, shape.vocabulary)


def test_overrides_that_keep_an_unknown_head_dim_are_not_checked(tmp_path: Path) -> None:
    """LlamaConfig computes head_dim before vLLM overrides the heads; Qwen2Config does not."""
    assert "add it" in look(tmp_path, SMALL_CONFIG, hf_overrides={"num_attention_heads": 32}).notes[0]


BLAMED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # config.json, the overrides, what is said
    "no number": ({}, {"num_hidden_layers": "x"}, "--engine hf_overrides: 'num_hidden_layers' is 'x', not a"),
    "impossible": ({}, {"num_hidden_layers": 0}, "--engine hf_overrides: 'num_hidden_layers' must be .*: correct it$"),
    "heads": ({}, {"num_key_value_heads": 3}, "--engine hf_overrides: .* attention heads .*: correct it$"),
    "of the file": ({"num_hidden_layers": 0}, {"rope_theta": 1}, "config.json': 'num_hidden_layers' .*: copy config"),
}  # fmt: skip


@pytest.mark.parametrize("name", BLAMED)
def test_a_bad_value_is_blamed_on_where_it_stands(tmp_path: Path, name: str) -> None:
    config, overrides, said = BLAMED[name]
    try:
        told = look(tmp_path, {**SMALL_CONFIG, **config}, hf_overrides=overrides).notes[0]
    except ModelError as error:
        told = str(error)
    assert re.search(said, told), told


@pytest.mark.parametrize("overrides", ["x", [1], 3, True])
def test_overrides_that_are_no_object_are_refused(tmp_path: Path, overrides: Any) -> None:
    with pytest.raises(RequestError, match="hf_overrides must be a JSON object"):
        look(tmp_path, SMALL_CONFIG, hf_overrides=overrides)


def test_overrides_and_formats_of_the_command_line_reach_the_planner(model: Path, run_cli: Cli) -> None:
    (model / "config.json").write_text(json.dumps(small(architectures=None, model_type=None)))
    assert plan(run_cli, "model")["model"] is None
    found = plan(run_cli, "model", "--engine", 'hf_overrides={"architectures": ["LlamaForCausalLM"]}')
    assert (found["fits"], found["model"]["layers"]) == (True, 16)
    assert plan(run_cli, "model", "--engine", "config_format=hf", "--engine", "tokenizer_mode=slow")["model"] is None
    for engine in ("config_format=zebra", "hf_config_path=org/other"):
        reasons = plan(run_cli, "model", "--engine", engine)["reasons"]
        assert any("memory is not checked: the planner does not" in reason for reason in reasons), reasons


def test_a_quantised_model_is_checked_whatever_kernels_are_named(model: Path, run_cli: Cli) -> None:
    quantization = {"quant_method": "awq", "bits": 4, "group_size": 128}
    (model / "config.json").write_text(json.dumps(small(quantization_config=quantization)))
    assert plan(run_cli, "model", "--engine", "quantization=awq_marlin")["fits"] is True


@beside_vllm
def test_the_class_of_a_model_type_is_that_of_transformers() -> None:
    from transformers.models.auto import modeling_auto as auto

    theirs = {**auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, **auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    assert {kind: theirs.get(kind) for kind in CLASSES if kind not in ("internlm3", "kimi_k2")} == {
        kind: name for kind, name in CLASSES.items() if kind not in ("internlm3", "kimi_k2")
    }
    assert set(CLASSES.values()) == set(FAMILIES) - {"PixtralForConditionalGeneration", "KimiK2ForCausalLM"}


# What other programs, and people, may have written in the place of a value.
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 200), st.floats(), st.text(max_size=8),
    st.sampled_from([10**18, -(10**18), 1e308, "4096", "auto", [], {}, [16] * 4, [None], {"a": 1}, "a\nb",
                     "\udcff", "torch.bfloat16", {"rope_type": "linear", "factor": "2"}, ["full_attention"],
                     {"quant_method": 3}]),
)  # fmt: skip
KEYS = sorted({key for published in PUBLISHED for key in published.config} | {
    "head_dim", "sliding_window", "layer_types", "rope_scaling", "rope_parameters", "max_position_embeddings",
    "quantization_config", "text_config", "vision_config", "model_max_length", "dtype", "attention_bias", "mlp_bias",
    "n_shared_experts", "mlp_only_layers", "sliding_window_pattern", "use_sliding_window", "word_embed_proj_dim",
})  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    published=st.sampled_from(PUBLISHED), changes=st.dictionaries(st.sampled_from(KEYS), ODD, max_size=3),
    nested=st.dictionaries(st.sampled_from(KEYS), ODD, max_size=2),
    overrides=st.one_of(st.none(), st.dictionaries(st.sampled_from(KEYS), ODD, max_size=2)),
)  # fmt: skip
def test_whatever_a_config_holds_it_is_planned_or_refused_in_one_line(
    tmp_path: Path, published: Any, changes: dict[str, Any], nested: dict[str, Any], overrides: dict[str, Any] | None
) -> None:
    config = published.config | changes
    for key in ("text_config", "vision_config", "quantization_config"):
        if isinstance(config.get(key), dict):
            config = config | {key: config[key] | nested}
    try:
        known = look(tmp_path, config, hf_overrides=overrides)
    except ModelError as refusal:
        assert str(refusal).isprintable()
        return
    assert all(note.isprintable() for note in known.notes)
    if known.shape and known.shape.layers <= 200:  # more take the planner seconds
        try:
            json.dumps(
                plan_only(str(tmp_path), scheduler="slurm", gpu="h100-80", engine={"hf_overrides": overrides}).to_json()
            )
        except RefusedError as refusal:
            assert str(refusal).isprintable()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(published=st.sampled_from(PUBLISHED), key=st.sampled_from(KEYS), value=ODD)
def test_a_single_odd_value_never_refuses_unless_it_is_an_impossible_number(
    tmp_path: Path, published: Any, key: str, value: Any
) -> None:
    try:
        look(tmp_path, published.config | {key: value})
    except ModelError as refusal:
        assert isinstance(value, int | float) and not isinstance(value, bool), refusal


def test_numbers_that_contradict_each_other_are_still_refused() -> None:
    for changes in (
        {"num_attention_heads": 0},
        {"num_key_value_heads": 7},
        {"hidden_size": 1001},
        {"vocab_size": 10**30},
    ):
        with pytest.raises(ModelError, match=r"copy config\.json again"):
            read_shape(small(**changes), "config.json")
