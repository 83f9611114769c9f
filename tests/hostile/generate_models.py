"""Model folders with a config.json and headers of weights that somebody has mutated."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tests.hostile.cases import Case, Edit
from tests.hostile.generate_options import ROWS
from tests.hostile.generate_values import broken_json, changed, json_bytes, number, value
from tests.published_models import PUBLISHED, SMALL_CONFIG

_TOKENIZER = {"chat_template": "{{ messages }}", "eos_token": "</s>", "model_max_length": 4096}
_PART = "model-00001-of-00001.safetensors"
# A model, and its size in bytes; its tensors are not named one by one.
_DATA = 69632
_TINY = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 32, "tie_word_embeddings": True,
}  # fmt: skip
_HEADER = {
    "__metadata__": {"format": "pt"},
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [32, 64], "data_offsets": [0, 4096]},
    "model.layers.0.mlp.up_proj.weight": {"dtype": "BF16", "shape": [64, 512], "data_offsets": [4096, _DATA]},
}
_INDEX = {
    "metadata": {"total_size": _DATA},
    "weight_map": {name: _PART for name in _HEADER if name != "__metadata__"},
}
_DAMAGE = ("folder", "fifo", "loop", "zeros", "away", "sparse", "empty")


def config(random: Random) -> Case:
    """A model's own files, of which one is hostile."""
    base = random.choice((SMALL_CONFIG, random.choice(PUBLISHED).config))
    files = {"config.json": base, "tokenizer_config.json": _TOKENIZER, "tokenizer.json": {"model": {"vocab": {"a": 0}}}}
    files["generation_config.json"] = {"temperature": 0.5, "eos_token_id": 2}
    name = random.choice(("config.json",) * 6 + tuple(files))
    edits = [_file(random, one, files[one], one == name) for one in files]
    return _case(random, [*edits, Edit("model/pytorch_model.bin", content=b"weights")])


def weights(random: Random) -> Case:
    """The header of a safetensors file, or the index of several, is hostile."""
    wrong = random.choice(("header", "header", "index", "both"))
    name = "model.safetensors" if wrong == "header" else _PART
    edits = [
        Edit("model/config.json", content=json_bytes({**SMALL_CONFIG, **_TINY})),
        Edit("model/tokenizer.json", content=b"{}"),
    ]
    header = _header(random) if wrong != "index" else safetensors(json_bytes(_HEADER))
    edits.append(Edit(f"model/{name}", content=header) if random.random() < 0.9 else _damaged(random, f"model/{name}"))
    if wrong != "header":
        edits.append(_file(random, "model.safetensors.index.json", _INDEX, True))
    return _case(random, edits)


def _case(random: Random, edits: list[Edit]) -> Case:
    command = random.choice(("plan", "plan", "submit", "render"))
    more = ("--gpu", random.choice(("h100-80", "80G"))) if random.random() < 0.5 else ()
    shape = ("--tp", random.choice(("2", "4"))) if random.random() < 0.5 else ()
    rehearse = () if command == "plan" else ("--rehearse",)
    asked = (command, "./model", *rehearse, "--scheduler", "slurm", "--input", ROWS.path, *more, *shape)
    return Case((asked,), (ROWS, *edits))


def _file(random: Random, name: str, content: dict[str, Any], is_hostile: bool) -> Edit:
    path = f"model/{name}"
    if not is_hostile:
        return Edit(path, content=json_bytes(content))
    kind = random.random()
    if kind < 0.15:
        return Edit(path, content=broken_json(random, content))
    if kind < 0.25:
        return _damaged(random, path)
    made: Any = content
    for _ in range(random.choice((1, 1, 2, 4))):
        made = changed(random, made)
    return Edit(path, content=json_bytes(made))


def _damaged(random: Random, path: str) -> Edit:
    return Edit(path, random.choice(_DAMAGE))  # type: ignore[arg-type]


def safetensors(header: bytes, length: int | None = None) -> bytes:
    """A safetensors file: the header's length in eight bytes, the header, the tensors."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + bytes(_DATA)


def _header(random: Random) -> bytes:
    kind = random.randrange(6)
    if kind == 0:
        return safetensors(broken_json(random, _HEADER))
    if kind == 1:
        lengths = (0, 1, 2**63, 2**64 - 1, 2**31, 100_000_000, 8)
        return safetensors(json_bytes(_HEADER), random.choice(lengths))
    if kind == 2:
        return random.choice((b"", b"\0" * 8, b"\x08", random.randbytes(100), safetensors(b"{}")))
    if kind == 3:
        entry = {
            "dtype": random.choice(("BF16", "F8", "", "I64", "é")),
            "shape": value(random),
            "data_offsets": value(random),
        }
        return safetensors(json_bytes({**_HEADER, "more": entry}))
    if kind == 4:
        sizes = [number(random) for _ in range(random.randrange(1, 4))]
        return safetensors(json.dumps({"a": {"dtype": "BF16", "shape": sizes, "data_offsets": [0, 4]}}).encode())
    return safetensors(json_bytes(changed(random, _HEADER)))
