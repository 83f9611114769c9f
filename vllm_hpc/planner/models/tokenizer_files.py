"""Whether a folder has a tokenizer with a vocabulary: the names of its files, and whether these are more than empty.

transformers 5.19 was tried: a folder with nothing but tokenizer_config.json, or with an empty vocabulary, raises for
some models, and gives others a tokenizer of a few tokens, with which every answer is nonsense.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vllm_hpc.planner.models.read_json import read_object
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.read_file import open_regular, read_regular

# Names of the files that tokenizers of transformers 5 and vLLM 0.32 load (VOCAB_FILES_NAMES of transformers' models;
# tekken.json and *.tiktoken beside them; a GGUF has its own), and of code that makes one.
_TOKENIZER = (
    "tokenizer*", "tokenization_*.py", "*vocab*", "merges.txt", "tekken.json", "*.tiktoken", "*tiktoken*", "*.model",
    "*.spm", "spm*", "*.gguf", "*.tokenizer", "bpe.codes", "byte_maps.json", "dict.txt", "special_tokens_map.json",
    "added_tokens.json", "word_*.json",
)  # fmt: skip
# Those that only add to a vocabulary.
_BESIDE = frozenset({"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"})
_WHOLE = "tokenizer.json"  # if it is there, no other file is taken in its place
_CONFIG = "tokenizer_config.json"
# The classes of transformers whose tokens are bytes or characters.
_WITHOUT_VOCABULARY = frozenset({"ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"})
_MOST_BLANK = 16  # bytes of a file that holds nothing: {}, [], with spaces
_END = 4096  # bytes at the end of a file
_MOST_NAMED = 3


def lacks_vocabulary(folder: Path) -> str | None:
    """Why the tokenizer's files in a folder make none, as the end of a sentence; None if they may."""
    names = _names(folder)
    if names is None or _is_made_without((_CONFIG in names and _object(folder / _CONFIG)) or {}):
        return None
    if _WHOLE in names and _is_cut(folder / _WHOLE):
        return f"has no tokenizer: its {_WHOLE!r} is empty or not whole"
    full = [name for name in names if not _is_blank(folder / name)]
    if any(name not in _BESIDE for name in full):
        return None
    if not names:
        return "has no tokenizer"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"has no tokenizer: there is no vocabulary in {', '.join(map(repr, names[:_MOST_NAMED]))}{more}"


def has_files(folder: Path) -> bool:
    """Whether there is any file of a tokenizer, or the folder cannot be listed."""
    return _names(folder) != []


def _is_made_without(config: dict[str, Any]) -> bool:
    """Whether tokenizer_config.json names code, or a class that needs no vocabulary."""
    name = config.get("tokenizer_class")
    is_bytes = isinstance(name, str) and name.removesuffix("Fast") in _WITHOUT_VOCABULARY
    return config.get("auto_map") is not None or is_bytes


def _names(folder: Path) -> list[str] | None:
    """The names of a tokenizer's files in a folder, in order; None if it cannot be listed."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError:
        return None
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in _TOKENIZER)]


def _is_blank(file: Path) -> bool:
    """Whether a file holds nothing; not if it cannot be read."""
    if file.suffix == ".py":
        return False
    try:
        return read_regular(file, _MOST_BLANK).strip() in (b"", b"{}", b"[]")
    except FileNotFoundError:  # a broken link
        return True
    except OSError:
        return False


def _is_cut(file: Path) -> bool:
    """Whether a file of one JSON object holds nothing, or has lost its end; not if it cannot be read."""
    if _is_blank(file):
        return True
    try:
        with open_regular(file) as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _END))
            end = stream.read(_END).rstrip()
    except OSError:
        return False
    return bool(end) and not end.endswith(b"}")


def _object(file: Path) -> dict[str, Any] | None:
    try:
        return read_object(file)
    except ModelError:
        return None
