"""Folders of other programs, which vLLM does not load: told by a file that only they have."""

from __future__ import annotations

from pathlib import Path, PurePath

import msgspec

_SOURCE = "vLLM does not load it: use the model that it was made from, with config.json and safetensors files"
_BESIDE = "and copy config.json and the tokenizer into OUT"


class Format(msgspec.Struct, frozen=True):
    """What a folder is, or holds, if it has a file or folder of one of these names; and what to do."""

    names: tuple[str, ...]
    what: str
    advice: str

    def told_by(self, name: str) -> str:
        """The sentence without its subject."""
        return f"{self.what} ({name!r}): {self.advice}"


# The first that matches counts. Names may have a folder and wildcards.
FORMATS = (
    Format(("model_index.json",), "is a pipeline of diffusers, which makes images or sound", "name a language model"),
    Format(
        ("zero_to_fp32.py", "global_step*/*_states.pt", "zero_pp_rank_*_states.pt", "*_zero_pp_rank_*_states.pt"),
        "is a checkpoint of DeepSpeed ZeRO, in shards",
        f"join them with 'python zero_to_fp32.py . OUT --safe_serialization' in it, {_BESIDE}",
    ),
    Format(
        ("model_world_size_*_rank_*.pt", "actor/model_world_size_*_rank_*.pt"),
        "is a checkpoint of verl, in shards",
        "join them with 'python -m verl.model_merger merge'",
    ),
    Format(
        ("*.nemo", "model_weights/*", "weights/common.pt", "context/model.yaml"),
        "is a model of NeMo",
        "export it to Hugging Face's format (in NeMo 2: llm.export_ckpt with target='hf')",
    ),
    Format(
        ("latest_checkpointed_iteration.txt", "iter_*/mp_rank_*", "iter_*/*.distcp", "mp_rank_*", "common.pt"),
        "is a checkpoint of Megatron",
        "export it to Hugging Face's format, for example with Megatron Bridge",
    ),
    Format(
        ("*.distcp", "pytorch_model_fsdp_*", "*/*.distcp"),
        "is a checkpoint of PyTorch (FSDP), in shards",
        f"join them with 'accelerate merge-weights SHARDS OUT', where SHARDS is the folder with the *.distcp files, "
        f"{_BESIDE}",
    ),
    Format(
        ("_CHECKPOINT_METADATA", "_METADATA", "*/_METADATA"),
        "is a checkpoint of JAX (Orbax)",
        "export it to Hugging Face's format",
    ),
    Format(("rank[0-9]*.safetensors", "*.engine"), "is made for TensorRT-LLM", _SOURCE),
    Format(("mlc-chat-config.json", "ndarray-cache.json", "tensor-cache.json"), "is made for MLC", _SOURCE),
    Format(("openvino*.xml",), "is made for OpenVINO", _SOURCE),
    Format(("*.onnx", "*/*.onnx", "genai_config.json"), "is made for ONNX", _SOURCE),
    Format(("shared_vocabulary.*", "vocabulary.json", "vocabulary.txt"), "is made for CTranslate2", _SOURCE),
    Format(("*.mlpackage", "*.mlmodelc", "*.mlmodel"), "is made for Core ML", _SOURCE),
    Format(("*.tflite", "*.task", "*.litertlm", "*.pte", "*.rkllm"), "is made for phones and other devices", _SOURCE),
    Format(
        ("tf_model*.h5", "flax_model*.msgpack", "*.ckpt.index", "saved_model.pb"),
        "is a model of TensorFlow or Flax",
        "use its safetensors files, or save it again from PyTorch",
    ),
    Format(
        ("lit_model.pth", "lit_config.json"),
        "is a model of LitGPT",
        "convert it with 'litgpt convert_from_litgpt'",
    ),
    Format(("*.ckpt",), "is a checkpoint of Lightning", "save its model with save_pretrained()"),
    Format(
        ("*.gguf", "*.llamafile"),
        "holds GGUF files",
        "vLLM by itself does not load GGUF files: use the model with config.json and safetensors files",
    ),
    Format(
        ("consolidated.*.pth",),
        "holds weights in Meta's own format, *.pth",
        "vLLM does not load these: use the model with config.json and safetensors files",
    ),
)


def other_format(folder: Path) -> str | None:
    """What a folder of another program is, and what to do; None if it is not known. Raises OSError."""
    for one in FORMATS:
        for name in one.names:
            if found := next(folder.glob(name), None):
                return f"{str(folder)!r} {one.told_by(str(found.relative_to(folder)))}"
    return None


def format_of(names: list[str]) -> str | None:
    """The same of a repository with these files, without a subject."""
    paths = sorted({str(path) for name in names for path in (PurePath(name), *PurePath(name).parents)})
    for one in FORMATS:
        for name in one.names:
            if found := next((path for path in paths if PurePath(f"/{path}").match(f"/{name}")), None):
                return one.told_by(found)
    return None
