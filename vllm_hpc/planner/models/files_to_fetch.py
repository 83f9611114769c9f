"""Which files of a repository vLLM reads: one kind of weights, and what is beside them, as vLLM chooses by default."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

# What vLLM reads beside the weights: settings, tokenizers, templates, and a model's own code.
_SMALL = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py", ".bpe", ".vocab", ".spm")
# Weights in the model's folder, of which vLLM loads the first kind that there is (default_loader.py).
_WEIGHTS = ("consolidated*.safetensors", "*.safetensors", "*.bin", "*.pt")
_INDEXES = {
    "model.safetensors.index.json": 1,
    "consolidated.safetensors.index.json": 0,
    "pytorch_model.bin.index.json": 2,
}
# What a trainer leaves, and the folders of other programs' formats.
_TRAINERS = ("training_args.bin", "optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json")
_OTHERS = re.compile(
    r"original|onnx|openvino|coreml|gguf|metal|flax|tf|tensorflow|runs|logs|figures|images|checkpoint-.*|\..*"
)
# Folders whose weights are a part of the model: those of sentence-transformers (1_Pooling, 2_Dense).
_MODULES = re.compile(r"\d+_\w+")


def choose_files(names: Iterable[str]) -> list[str]:
    """Those of a repository's files that vLLM reads, by their names."""
    kept = [PurePosixPath(name) for name in names if not _is_foreign(PurePosixPath(name))]
    roots = [path.name for path in kept if len(path.parts) == 1]
    kind = next((number for number, one in enumerate(_WEIGHTS) if any(fnmatchcase(name, one) for name in roots)), -1)
    return sorted(str(path) for path in kept if _is_read(path, kind))


def _is_foreign(path: PurePosixPath) -> bool:
    is_elsewhere = any(_OTHERS.fullmatch(part) for part in path.parts[:-1])
    return is_elsewhere or path.name.startswith(".") or any(fnmatchcase(path.name, one) for one in _TRAINERS)


def _is_read(path: PurePosixPath, kind: int) -> bool:
    """``kind``: the number of the kind of weights that vLLM loads."""
    if path.name in _INDEXES:
        return _INDEXES[path.name] == kind
    if path.suffix in _SMALL:
        return True
    if len(path.parts) == 1:
        return kind >= 0 and fnmatchcase(path.name, _WEIGHTS[kind])
    return bool(_MODULES.fullmatch(path.parts[0])) and path.suffix in (".safetensors", ".bin")
