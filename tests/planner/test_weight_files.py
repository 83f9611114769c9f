"""Folders whose weights vLLM would not load: none, pointers, halves of a download, other programs' files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.crafted import make_folder
from tests.planner.test_model_folders import cached
from tests.planner.test_models import safetensors
from tests.published_models import SMALL_CONFIG
from vllm_hpc.planner.models.find import find_model
from vllm_hpc.planner.models.inspect import inspect_model
from vllm_hpc.planner.models.other_formats import FORMATS, other_format
from vllm_hpc.planner.models.weight_files import lacks_weights
from vllm_hpc.spec.errors import ModelError

pytestmark = pytest.mark.inputs

# As git checks it out without Git LFS (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 4943162336\n"
)
INDEX = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}


def bare(folder: Path) -> Path:
    """A model folder without weights."""
    (make_folder(folder) / "pytorch_model.bin").unlink()
    return folder


def add(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def lack(folder: Path, **engine: Any) -> str:
    return lacks_weights(Path(find_model(str(folder), engine=engine).path), engine) or ""


# -- no weights ------------------------------------------------------------------------------------------------------
LEFTOVERS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "README.md", "consolidated.txt")


@pytest.mark.parametrize("names", [(), LEFTOVERS], ids=["nothing", "what trainers leave"])
def test_a_folder_without_weights_is_told(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = add(bare(tmp_path / "model"), dict.fromkeys(names, "x"))
    said = f"{str(folder)!r} has no weights that vLLM loads (*.safetensors, *.bin or *.pt): copy or download"
    assert lack(folder).startswith(said)


@pytest.mark.parametrize(
    ("names", "engine", "is_told"),
    [
        (["model.safetensors"], {}, False),
        (["model.pt"], {}, False),
        (["model.bin"], {"load_format": "safetensors"}, True),
        (["model.bin"], {"load_format": "npcache"}, False),
        (["model.safetensors"], {"load_format": "mistral"}, True),
        (["consolidated-00001-of-00002.safetensors"], {"load_format": "mistral"}, False),
        ([], {"load_format": "dummy"}, False),
        ([], {"load_format": "tensorizer"}, False),
        ([], {"load_format": "gguf"}, False),
        ([], {"load_format": "of a plug-in"}, False),
        ([], {"model_weights": "s3://bucket/model"}, False),
    ],
    ids=range(11),
)
def test_what_counts_is_what_the_load_format_reads(
    tmp_path: Path, names: list[str], engine: dict[str, Any], is_told: bool
) -> None:
    folder = bare(tmp_path / "model")
    for name in names:
        if name.endswith(".safetensors"):
            safetensors(folder / name, {})
        else:
            (folder / name).write_text("x")
    assert bool(lack(folder, **engine)) == is_told


@pytest.mark.parametrize(
    "name",
    ["model.safetensors.incomplete", ".cache/huggingface/download/Abc=.4d7a.incomplete", "model.safetensors.aria2",
     "model.safetensors.part", "model.safetensors.crdownload"],
)  # fmt: skip
def test_an_unfinished_download_is_told(tmp_path: Path, name: str) -> None:
    folder = add(bare(tmp_path / "model"), {name: "x"})
    assert f"but an unfinished download, {name.rpartition('/')[2]!r}: download the model again" in lack(folder)


def test_an_unfinished_download_of_a_cache_is_told(tmp_path: Path) -> None:
    folder = add(cached(tmp_path, "abc"), {"blobs/4d7a.incomplete": "x"})
    assert "but an unfinished download, '4d7a.incomplete'" in lack(folder)


def test_an_adapter_beside_a_whole_config_is_told(tmp_path: Path) -> None:
    folder = add(bare(tmp_path / "model"), {"adapter_config.json": {}, "adapter_model.bin": "x"})
    assert "but an adapter's: name its base model, with --lora and this folder" in lack(folder)


def test_random_weights_and_rehearsals_need_none(desk: Path, run_cli: Cli) -> None:
    bare(desk / "model")
    assert run_cli("submit", "model", "--scheduler", "slurm").code == 2
    assert not (desk / "runs").exists()
    assert run_cli("submit", "model", "--scheduler", "slurm", "--engine", "load_format=dummy").code == 0
    assert "no weights" not in run_cli("plan", "model", "--scheduler", "slurm", "--rehearse").err


# -- placeholders and halves -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model-00001-of-00002.safetensors": POINTER, "model-00002-of-00002.safetensors": POINTER},
         "model-00001-of-00002.safetensors' and 1 more are pointers of Git LFS, without the content: run 'git lfs"),
        ({"pytorch_model.bin": POINTER}, "'pytorch_model.bin' is a pointer of Git LFS"),
        ({"pytorch_model.bin": "x", "tokenizer.model": POINTER}, "'tokenizer.model' is a pointer of Git LFS"),
        ({"pytorch_model.bin": "x", "tokenizer.json": POINTER}, "'tokenizer.json' is a pointer of Git LFS"),
        ({"pytorch_model.bin": ""}, "pytorch_model.bin' is empty: copy it again"),
        ({"model.safetensors": "x", "model.safetensors.aria2": "x"}, "is not whole: model.safetensors.aria2 is beside"),
        ({"pytorch_model-00001-of-00003.bin": "x"},
         "is missing 2 of its 3 files of weights ('pytorch_model-00002-of-00003.bin' first): copy the model again"),
        ({"pytorch_model-00001-of-00002.bin": "x", "pytorch_model.bin.index.json": INDEX}, "is missing 1 of its 2"),
    ],
    ids=["pointers", "a pointer", "a tokenizer's", "a tokenizer's in json", "empty", "aria2", "numbers", "an index"],
)  # fmt: skip
@pytest.mark.parametrize("changes", [{}, {"architectures": ["OfNobodyForCausalLM"]}], ids=["known", "unknown"])
def test_files_that_are_not_whole_are_refused(
    tmp_path: Path, files: dict[str, Any], said: str, changes: dict[str, Any]
) -> None:
    folder = add(bare(tmp_path / "model"), {"config.json": SMALL_CONFIG | changes, **files})
    with pytest.raises(ModelError) as caught:
        find_model(str(folder))
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_files_that_vllm_does_not_read_may_be_anything(tmp_path: Path) -> None:
    folder = add(bare(tmp_path / "model"), {"pytorch_model-00001-of-00002.bin": POINTER, "picture.png": POINTER})
    safetensors(folder / "model.safetensors", {})
    assert find_model(str(folder)).path == str(folder)
    add(folder, {"model.safetensors": POINTER})
    assert find_model(str(folder), engine={"load_format": "dummy"}).path == str(folder)


@pytest.mark.parametrize("changes", [{}, {"architectures": ["OfNobodyForCausalLM"]}], ids=["known", "unknown"])
def test_shards_that_are_missing_are_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = make_folder(tmp_path / "model", SMALL_CONFIG | changes)
    shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    add(folder, {"model.safetensors.index.json": {"weight_map": dict(zip("abc", shards, strict=True))}})
    safetensors(folder / shards[0], {})
    said = f"is missing 2 of the 3 files that its index names ('{shards[1]}' first): copy the model again"
    for is_indexed in (True, False):
        with pytest.raises(ModelError) as caught:
            inspect_model(find_model(str(folder)))
        assert (said if is_indexed else "has 1 of 3 weight files: copy the model again") in str(caught.value)
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model-00001-of-00001.bin"])
def test_a_link_to_what_is_gone_is_refused(tmp_path: Path, name: str) -> None:
    folder = bare(tmp_path / "model")
    (folder / name).symlink_to("../../blobs/gone")
    with pytest.raises(ModelError, match="is not a file, or is a broken link"):
        find_model(str(folder))


def test_what_becomes_embeddings_is_said(tmp_path: Path) -> None:
    """A decoder for embeddings looks like any other: only modules.json tells vLLM."""
    modules = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]
    folder = add(make_folder(tmp_path / "model"), {"modules.json": modules})
    said = "vLLM takes it for an embedding model, since modules.json has a pooling module"
    assert any(said in note for note in inspect_model(find_model(str(folder))).notes)
    for other, engine in ((modules, {"runner": "generate"}), (modules[:1], {}), ({"a": 1}, {}), ("{", {})):
        add(folder, {"modules.json": other})
        assert not any(said in note for note in inspect_model(find_model(str(folder)), engine=engine).notes)


# -- other programs' folders -----------------------------------------------------------------------------------------
# What each of them has, and what is said.
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "diffusers": ({"model_index.json": {}, "text_encoder/config.json": SMALL_CONFIG}, "is a pipeline of diffusers"),
    "deepspeed": (
        {"latest": "global_step5", "zero_to_fp32.py": "", "global_step5/mp_rank_00_model_states.pt": "x"},
        "is a checkpoint of DeepSpeed ZeRO, in shards ('zero_to_fp32.py'): join them with 'python zero_to_fp32.py .",
    ),
    "deepspeed's inner folder": ({"zero_pp_rank_0_mp_rank_00_optim_states.pt": "x"}, "is a checkpoint of DeepSpeed"),
    "fsdp": ({"pytorch_model_fsdp_0/__0_0.distcp": "x"}, "is a checkpoint of PyTorch (FSDP)"),
    "fsdp's inner folder": ({"__0_0.distcp": "x", ".metadata": "x"}, "'accelerate merge-weights SHARDS OUT'"),
    "verl": ({"model_world_size_8_rank_0.pt": "x", "huggingface/config.json": SMALL_CONFIG}, "verl.model_merger"),
    "megatron": (
        {"latest_checkpointed_iteration.txt": "100", "iter_0000100/mp_rank_00/model_optim_rng.pt": "x"},
        "is a checkpoint of Megatron",
    ),
    "megatron's inner folder": ({"mp_rank_00/model_optim_rng.pt": "x"}, "is a checkpoint of Megatron"),
    "megatron core": ({"common.pt": "x", "__0_0.distcp": "x", "metadata.json": {}}, "is a checkpoint of Megatron"),
    "nemo 1": ({"llama.nemo": "x"}, "is a model of NeMo ('llama.nemo'): export it"),
    "nemo 2": ({"context/model.yaml": "", "weights/common.pt": "x", "weights/__0_0.distcp": "x"}, "is a model of NeMo"),
    "orbax": ({"_CHECKPOINT_METADATA": {}, "d/manifest.ocdbt": "x"}, "is a checkpoint of JAX"),
    "litgpt": ({"lit_model.pth": "x", "model_config.yaml": ""}, "'litgpt convert_from_litgpt'"),
    "lightning": ({"epoch=1-step=10.ckpt": "x"}, "is a checkpoint of Lightning"),
    "gguf": ({"m-Q4_K_M.gguf": "x"}, "holds GGUF files ('m-Q4_K_M.gguf'): vLLM by itself does not load GGUF files"),
    "onnx": ({"onnx/model.onnx": "x"}, "is made for ONNX ('onnx/model.onnx'): vLLM does not load it"),
    "onnx genai": ({"genai_config.json": {}}, "is made for ONNX"),
    "openvino": ({"openvino_model.xml": "", "openvino_model.bin": "x"}, "is made for OpenVINO"),
    "ctranslate2": ({"model.bin": "x", "shared_vocabulary.json": "[]"}, "is made for CTranslate2"),
    "tensorrt": ({"rank0.engine": "x"}, "is made for TensorRT-LLM"),
    "tensorrt's checkpoint": ({"rank0.safetensors": "x"}, "is made for TensorRT-LLM"),
    "mlc": ({"mlc-chat-config.json": {}, "params_shard_0.bin": "x"}, "is made for MLC"),
    "core ml": ({"m.mlpackage/Manifest.json": {}}, "is made for Core ML"),
    "litert": ({"gemma.task": "x"}, "is made for phones"),
    "flax": ({"flax_model.msgpack": "x"}, "is a model of TensorFlow or Flax"),
    "tensorflow": ({"tf_model.h5": "x"}, "is a model of TensorFlow or Flax"),
    "meta": ({"consolidated.00.pth": "x", "params.json": {"dim": 1024}}, "holds weights in Meta's own format"),
}  # fmt: skip
# The config.json of CTranslate2 and of TensorRT-LLM: of no model that transformers knows.
OWN_CONFIGS: dict[str, dict[str, Any]] = {
    "none": {}, "theirs": {"config.json": {"layer_norm_epsilon": None, "unk_token": "<unk>", "architecture": "Llama"}},
}  # fmt: skip


@pytest.mark.parametrize("config", OWN_CONFIGS)
@pytest.mark.parametrize("name", OTHERS)
def test_other_programs_folders_are_told_as_what_they_are(tmp_path: Path, name: str, config: str) -> None:
    files, said = OTHERS[name]
    folder = add(tmp_path / "folder", {**files, **OWN_CONFIGS[config]})
    with pytest.raises(ModelError) as caught:
        find_model(str(folder))
    assert said in str(caught.value)


@pytest.mark.parametrize("name", sorted(OTHERS.keys() - {"ctranslate2", "openvino", "mlc", "tensorrt's checkpoint"} - {
    name for name in OTHERS if any(file.endswith(".pt") and "/" not in file for file in OTHERS[name][0])
}))  # fmt: skip
def test_with_a_models_config_it_is_a_lack_of_weights(tmp_path: Path, name: str) -> None:
    """A trainer's checkpoint has the config.json beside its shards, and an export the one of its source."""
    files, said = OTHERS[name]
    folder = add(bare(tmp_path / "folder"), files)
    assert said in lack(folder)
    safetensors(folder / "model.safetensors", {})
    assert lack(folder) == "", "with weights it is a model, whatever else is there"


def test_every_kind_of_folder_has_a_test(tmp_path: Path) -> None:
    said = [other_format(add(tmp_path / name, files)) or "" for name, (files, _) in OTHERS.items()]
    assert [one.what for one in FORMATS if not any(f" {one.what} (" in sentence for sentence in said)] == []


# -- quantised for other programs ------------------------------------------------------------------------------------
MLX = {"group_size": 64, "bits": 4}
QUANTIZED: dict[str, tuple[dict[str, Any], str]] = {
    "mlx": ({"quantization": {"group_size": 64, "bits": 4, "mode": "affine"}}, "MLX"),
    "mlx, twice": ({"quantization": MLX, "quantization_config": MLX}, "MLX"),
    "exl2": ({"quantization_config": {"quant_method": "exl2", "bits": 4.0}}, "ExLlama"),
    "exl3": ({"quantization_config": {"quant_method": "exl3"}}, "ExLlama"),
    "quanto": ({"quantization_config": {"quant_method": "quanto"}}, "Quanto"),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_what_vllm_cannot_read_is_refused(tmp_path: Path, name: str) -> None:
    changes, whose = QUANTIZED[name]
    folder = add(make_folder(tmp_path / "model"), {"config.json": SMALL_CONFIG | changes})
    with pytest.raises(ModelError, match=f"quantised for {whose}, which vLLM does not load: use the original model"):
        inspect_model(find_model(str(folder)))
    engine = {"quantization": "of_a_plug_in"}
    assert inspect_model(find_model(str(folder)), engine=engine).shape is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization": {"group_size": 64, "bits": 4}, "quantization_config": {"quant_method": "awq", "bits": 4}},
        {"quantization": "none"},
        {"quantization_config": {"quant_method": "of_a_plug_in"}},
        {"quantization_config": {"bits": 4, "group_size": 128}},
    ],
    ids=range(4),
)
def test_what_it_may_read_is_not(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = add(make_folder(tmp_path / "model"), {"config.json": SMALL_CONFIG | changes})
    inspect_model(find_model(str(folder)))


@pytest.mark.parametrize(
    ("name", "content", "method"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128, "desc_act": False}, "gptq"),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 128, "zero_point": True}, "awq"),
    ],
    ids=["AutoGPTQ", "AutoAWQ"],
)
def test_a_quantisation_in_a_file_of_its_own_is_asked_for(
    tmp_path: Path, name: str, content: dict[str, Any], method: str
) -> None:
    """As both wrote it before transformers knew them: vLLM reads it only if --engine quantization names the method."""
    folder = add(bare(tmp_path / "model"), {name: content})
    safetensors(folder / "model.safetensors", {"model.layers.0.x": ("BF16", [90_000_000])})
    with pytest.raises(ModelError, match=f"they are quantised, says {name}: use --engine quantization={method}"):
        inspect_model(find_model(str(folder)))
    shape = inspect_model(find_model(str(folder)), engine={"quantization": method}).shape
    assert shape is not None
    assert shape.quantization is not None
    assert (shape.quantization.method, shape.quantization.group) == (method, 128)


def test_code_of_the_models_own_is_said(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", {"architectures": ["MyLM"], "auto_map": {"AutoConfig": "my.MyConfig"}})
    said = "names code of the model's own (auto_map)"
    assert any(said in note for note in inspect_model(find_model(str(folder))).notes)
    known = inspect_model(find_model(str(folder)), engine={"trust_remote_code": True})
    assert not any(said in note for note in known.notes)
