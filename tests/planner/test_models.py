"""What is known of models: counted against what was published, against transformers, and read from damaged files."""

from __future__ import annotations

import copy
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.marks import beside_vllm
from tests.published_models import PUBLISHED, SMALL_CONFIG, Published
from vllm_hpc.planner.kv_cache import kv_bytes_per_token
from vllm_hpc.planner.load import Load
from vllm_hpc.planner.memory import weigh
from vllm_hpc.planner.models.config import read_shape
from vllm_hpc.planner.models.count import count_parameters
from vllm_hpc.planner.models.families import FAMILIES
from vllm_hpc.planner.models.fields import NotCheckedError
from vllm_hpc.planner.models.inspect import Knowledge, inspect_model
from vllm_hpc.planner.models.weights import read_weights
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.resolved_job import Model

LOAD = Load(max_model_len=2048, max_num_seqs=256, max_num_batched_tokens=8192)


def names(model: Published) -> str:
    return model.name


@pytest.mark.parametrize("model", PUBLISHED, ids=names)
def test_parameters_and_kv_cache_are_as_published(model: Published) -> None:
    shape = read_shape(model.config, model.name)
    assert count_parameters(shape) == pytest.approx(model.parameters, rel=0.0001)
    assert kv_bytes_per_token(shape) == model.kv_bytes


@beside_vllm
@pytest.mark.parametrize("model", PUBLISHED, ids=names)
def test_transformers_builds_as_many_parameters(model: Published) -> None:
    import torch
    import transformers

    config = {key: value for key, value in model.config.items() if key != "quantization_config"}
    built = transformers.AutoConfig.for_model(**copy.deepcopy(config))
    architecture = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in architecture._from_config(built).parameters())
    counted = count_parameters(read_shape(config, model.name))
    # It keeps DeepSeek's router bias as a buffer, and gives SigLIP a pooling head that Gemma 3 does not publish.
    allowed = {"DeepSeek-V3": 58 * 256, "DeepSeek-R1": 58 * 256, "Gemma-3-27B": 15_238_352}
    assert counted is not None
    assert abs(counted - parameters) == allowed.get(model.name, 0)


def test_the_table_has_every_family_of_the_published_models() -> None:
    assert len(PUBLISHED) >= 25
    assert {model.config["architectures"][0] for model in PUBLISHED} <= set(FAMILIES)


@beside_vllm
def test_vllm_has_every_family_of_the_table() -> None:
    from vllm.model_executor.models import ModelRegistry

    assert set(FAMILIES) - set(ModelRegistry.get_supported_archs()) <= {"KimiK2ForCausalLM"}


@pytest.mark.parametrize(
    ("quantization", "gib"),
    [
        (None, 14.96),
        ({"quant_method": "fp8"}, 8.46),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 5.34),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 5.34),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8.46),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 5.62),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}, 8.46),
    ],
    ids=["bf16", "fp8", "awq", "gptq", "gptq-8", "bnb", "compressed"],
)
def test_quantised_weights_are_counted_in_their_bits(quantization: dict[str, Any] | None, gib: float) -> None:
    llama = PUBLISHED[0].config | ({"quantization_config": quantization} if quantization else {})
    total, _ = weigh(read_shape(llama, "config.json"), None, LOAD)
    assert total / 2**30 == pytest.approx(gib, abs=0.01)


# What is odd and not impossible is in test_odd_configs.py.
HOSTILE: dict[str, Any] = {
    "zero heads": {"num_attention_heads": 0},
    "negative layers": {"num_hidden_layers": -1},
    "huge layers": {"num_hidden_layers": 10**18},
    "layers as a float": {"num_hidden_layers": 2.5},
    "a hidden size that heads do not divide": {"hidden_size": 1001},
    "a vocabulary of 10**30": {"vocab_size": 10**30},
    "kv heads of zero": {"num_key_value_heads": 0},
    "quantisation of no bits": {"quantization_config": {"quant_method": "awq", "bits": 0, "group_size": 128}},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_config_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path, SMALL_CONFIG | change)
    refused(tmp_path, "config.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "bytes", "deep"],
)  # fmt: skip
def test_a_damaged_config_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    refused(tmp_path, "config.json")


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        ("MixtralForCausalLM", {"num_local_experts": 0, "num_experts_per_tok": 2}),
        ("MixtralForCausalLM", {"num_local_experts": 8, "num_experts_per_tok": 9}),
        ("Gemma3ForCausalLM", {"sliding_window": 512, "sliding_window_pattern": 0}),
    ],
)
def test_a_hostile_mixture_or_attention_is_refused(tmp_path: Path, architecture: str, change: dict[str, Any]) -> None:
    write(tmp_path, SMALL_CONFIG | {"architectures": [architecture]} | change)
    refused(tmp_path, "config.json")


def test_an_unknown_architecture_is_read_by_its_keys_and_said_to_be(tmp_path: Path) -> None:
    write(tmp_path, SMALL_CONFIG | {"architectures": ["HyenaForCausalLM"]})
    known = look(tmp_path)
    assert known.shape is not None
    assert known.shape.doubt
    assert "HyenaForCausalLM is not in the planner's table" in known.notes[0]
    with pytest.raises(NotCheckedError, match="'hidden_size' is missing"):
        read_shape({"architectures": ["HyenaForCausalLM"]}, "config.json")


def test_weights_are_what_the_headers_say(tmp_path: Path) -> None:
    write(tmp_path, SMALL_CONFIG)
    safetensors(tmp_path / "a.safetensors", {"model.x": ("F32", [10, 10]), "model.scale": ("F8_E4M3", [7])})
    weights = read_weights(tmp_path, read_shape(SMALL_CONFIG, "config.json"))
    assert weights is not None
    assert weights.loaded_bytes(2) == 100 * 2 + 7
    assert weights.loaded_bytes(4) == 100 * 4 + 7


def test_what_vllm_does_not_load_is_not_counted(tmp_path: Path) -> None:
    write(tmp_path, SMALL_CONFIG | {"tie_word_embeddings": True})
    layers = SMALL_CONFIG["num_hidden_layers"]
    tensors = {"lm_head.weight": ("BF16", [9]), f"model.layers.{layers}.x": ("BF16", [9]), "model.y": ("BF16", [3])}
    safetensors(tmp_path / "a.safetensors", tensors)
    weights = read_weights(tmp_path, read_shape(SMALL_CONFIG | {"tie_word_embeddings": True}, "config.json"))
    assert weights is not None
    assert weights.float_elements == 3


def test_a_part_of_a_copy_is_refused(tmp_path: Path) -> None:
    write(tmp_path, SMALL_CONFIG)
    safetensors(tmp_path / "model-00001-of-00004.safetensors", {"model.x": ("F32", [10, 10])})
    refused(tmp_path, "1 of 4 weight files")
    (tmp_path / "model-00001-of-00004.safetensors").rename(tmp_path / "model.safetensors")
    refused(tmp_path, "only part of the 0.309 B parameters")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    refused(tmp_path, "only part of the 0.309 B parameters")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("nowhere")
    refused(tmp_path, "a broken link")


LENGTHS: tuple[tuple[dict[str, Any], int], ...] = (
    ({"max_position_embeddings": 4096}, 4096),
    ({"max_position_embeddings": None}, 2048),
    ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 8192),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 1024}}, 4096),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}}, 4096),
    ({"model_max_length": 9000}, 9000),
    ({"max_seq_len": 1000}, 1000),
)  # fmt: skip


@pytest.mark.parametrize(("change", "length"), LENGTHS)
def test_the_longest_sequence_is_known(change: dict[str, Any], length: int) -> None:
    config = {key: value for key, value in (SMALL_CONFIG | change).items() if value is not None}
    assert read_shape(config, "config.json").positions == length


@beside_vllm
@pytest.mark.parametrize(("change", "length"), LENGTHS)
def test_the_longest_sequence_is_vllms(tmp_path: Path, change: dict[str, Any], length: int) -> None:
    from vllm.config import ModelConfig

    config = {key: value for key, value in (SMALL_CONFIG | change).items() if value is not None}
    write(tmp_path, config)
    theirs = ModelConfig(model=str(tmp_path), skip_tokenizer_init=True, dtype="float32")
    if "max_position_embeddings" in config:  # without it LlamaConfig has a default of its own
        assert theirs.max_model_len == length


@pytest.mark.slow
def test_the_real_tiny_model_weighs_what_its_file_does(tiny: Path) -> None:
    known = look(tiny)
    assert known.shape is not None
    assert known.weights is not None
    assert known.weights.float_elements == count_parameters(known.shape)
    assert known.max_tokens is None
    assert known.template_bytes


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 8, b"\xff" * 8, struct.pack("<Q", 50) + b"{}", struct.pack("<Q", 2) + b"[]",
     struct.pack("<Q", 10**15) + b"{}", struct.pack("<Q", 7) + b'{"a":1}',
     b'5\x00\x00\x00\x00\x00\x00\x00{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}'],
    ids=["empty", "zeros", "ones", "short", "list", "huge", "number", "negative"],
)  # fmt: skip
def test_a_damaged_weight_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, SMALL_CONFIG)
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path, "model.safetensors")


def test_a_weight_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    write(tmp_path, SMALL_CONFIG)
    path = tmp_path / "model.safetensors"
    safetensors(path, {"model.x": ("F32", [100])})
    path.write_bytes(path.read_bytes()[:-1])
    refused(tmp_path, "truncated")


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ('{"weight_map": {"x": "model-1-of-2.safetensors", "y": "model-2-of-2.safetensors"}}', "2 of the 2"),
        ('{"weight_map": {"x": "../../etc/passwd"}}', "1 of the 1"),
        ('{"weight_map": {"x": 3}}', "index"),
        ('{"weight_map": []}', "index"),
        ("{}", "index"),
        ("{", "index"),
    ],
    ids=["missing", "elsewhere", "number", "list", "nothing", "cut"],
)  # fmt: skip
def test_an_index_that_names_what_is_not_there_is_refused(tmp_path: Path, index: str, said: str) -> None:
    write(tmp_path, SMALL_CONFIG)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    refused(tmp_path, said)


def test_dummy_weights_need_no_files(tmp_path: Path) -> None:
    write(tmp_path, SMALL_CONFIG)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert inspect_model(Model(str(tmp_path), "model"), dummy_weights=True).shape is not None


def write(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def look(folder: Path) -> Knowledge:
    return inspect_model(Model(str(folder), "model"))


def refused(folder: Path, said: str) -> None:
    with pytest.raises(ModelError) as refusal:
        look(folder)
    message = str(refusal.value)
    assert said in message
    assert "copy" in message, "it says what to do"
    assert "\n" not in message
    assert len(message) < 400


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """A file in the format's own layout, with zeros in it, which take no room on the disk."""
    sizes, header, offset = {"F32": 4, "BF16": 2, "F8_E4M3": 1}, {}, 0
    for name, (dtype, shape) in tensors.items():
        length = sizes[dtype]
        for dimension in shape:
            length *= dimension
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + length]}
        offset += length
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
