"""What reads images and audio before the decoder: the parameters of its towers, and the tokens of an image.

A tower is a stack of transformer layers, embeddings of patches or mel bins, and a projector to the decoder's width. The
layers decide; projectors differ by class, so that what is counted is off by a few percent (``doubt``).
"""

from __future__ import annotations

import re

from vllm_hpc.planner.models.fields import MOST_LAYERS, MOST_WIDTH, Fields, NotCheckedError
from vllm_hpc.planner.models.shape import Encoder

# Parts of a config.json that are no encoder, or that vLLM does not load.
_OTHERS = re.compile(r"text|llm|language|decoder|quantiz|compress|rope|talker|token2wav|code2wav|draft|mtp|generation")
_IS_TOWER = re.compile(r"vision|visual|image|vit|audio|sound|speech|whisper")
_UNKNOWN = 600_000_000  # parameters of a tower of which nothing can be told: most have 0.3 to 1.2 billion
_WIDTH = ("embed_dim", "hidden_size", "width", "d_model", "n_embd", "hidden_dim")
_DEPTH = ("num_hidden_layers", "depth", "encoder_layers", "num_layers", "n_layers", "layers", "num_hidden_blocks")
_INNER = ("intermediate_size", "encoder_ffn_dim", "ffn_dim", "mlp_dim", "intermediate_dim")
_HEADS = ("num_attention_heads", "num_heads", "encoder_attention_heads", "n_heads", "heads")
# Towers whose MLPs have a gate.
_GATED = ("pixtral", "qwen2_5_vl", "qwen2_5_omni_vision", "glm4v", "glm_ocr", "dots", "aimv2", "siglip2_navit", "mimo")
# Layers with two MLPs and a convolution.
_CONFORMERS = ("parakeet", "conformer", "granite_speech", "nemo")
_KNOWN = (
    "siglip", "clip", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "pixtral", "intern", "whisper", "glm4v",
    "voxtral", "qwen2_audio", "moonvit", "idefics3", "smolvlm",
)  # fmt: skip
_DOUBT, _FAR = 0.1, 0.5  # of towers that are known, and of others
# Qwen's image processors, if a folder has none of its own: pixels of the smallest and the largest image.
_QWEN_PIXELS, _QWEN_3_PIXELS = (56 * 56, 12_845_056), (65_536, 16_777_216)
_FIXED = ("image_seq_length", "mm_tokens_per_image", "num_image_tokens", "image_token_length", "num_img_tokens")


def read_encoder(top: Fields, hidden: int) -> Encoder | None:
    """The encoders of a model whose decoder is ``hidden`` wide; None if it has none. Raises NotCheckedError."""
    place = top.inside("thinker_config")
    towers = {
        name: Fields(table, f"{top.origin}: {name}") for name, table in place.tables() if not _OTHERS.search(name)
    }
    if top.has("encoder_layers") and top.has("decoder_layers"):  # Whisper
        towers["audio"] = top
    towers = {name: tower for name, tower in towers.items() if _IS_TOWER.search(name) or _has_layers(tower)}
    if not towers:
        return None
    counts = [_count(tower, top, hidden) for tower in towers.values()]
    image = next((one for name, one in towers.items() if not _is_audio(name, one)), None)
    return Encoder(
        parameters=sum(_UNKNOWN if count is None else count for count in counts),
        image_tokens=_image_tokens(image, place) if image else None,
        heads=image.optional_count(*_HEADS, most=MOST_WIDTH) if image else None,
        doubt=1.0 if None in counts else _DOUBT if all(_is(one, _KNOWN) for one in towers.values()) else _FAR,
    )


def _has_layers(tower: Fields) -> bool:
    return any(tower.has(name) for name in _WIDTH) and any(tower.has(name) for name in _DEPTH)


def _is(tower: Fields, kinds: tuple[str, ...]) -> bool:
    return any(kind in tower.word("model_type") for kind in kinds)


def _is_audio(name: str, tower: Fields) -> bool:
    return any(word in name for word in ("audio", "sound", "speech", "whisper")) or tower.has("num_mel_bins")


def _count(tower: Fields, top: Fields, hidden: int) -> int | None:
    """The parameters of a tower with its projector; None if its widths cannot be told."""
    width = tower.size(*_WIDTH, most=MOST_WIDTH)
    depth = tower.size(*_DEPTH, most=MOST_LAYERS)
    if width is None or depth is None:
        return None
    inner = _inner(tower, width)
    if _is(tower, _CONFORMERS):
        layer = 4 * width * width + 4 * width * inner + 3 * width * width + 10 * width
    else:
        layer = 4 * width * width + (3 if _is(tower, _GATED) else 2) * width * inner + 4 * width + inner
    return depth * layer + _inputs(tower, width) + _projector(tower, top, width, hidden)


def _inner(tower: Fields, width: int) -> int:
    if _is(tower, ("glm4v", "glm_ocr")) and tower.has("out_hidden_size"):
        return (tower.size("out_hidden_size", most=MOST_WIDTH) or width) if _is(tower, ("glm4v",)) else 4 * width
    inner = tower.size(*_INNER, most=MOST_WIDTH)
    ratio = tower.ratio("mlp_ratio")
    return inner or int(width * (ratio or 4))


def _inputs(tower: Fields, width: int) -> int:
    """Embeddings of patches and positions, or the two convolutions of Whisper's mel bins."""
    if mels := tower.optional_count("num_mel_bins", most=MOST_WIDTH):
        positions = tower.optional_count("max_source_positions", most=MOST_WIDTH) or 0
        return 3 * mels * width + 3 * width * width + positions * width
    patch = tower.size("patch_size", "spatial_patch_size", most=MOST_WIDTH) or 14
    frames = tower.size("temporal_patch_size", most=100) or 1
    image = tower.size("image_size", most=MOST_WIDTH)
    table = tower.size("num_position_embeddings", most=MOST_WIDTH) or 0
    positions = (image // patch) ** 2 if image and not _is(tower, ("pixtral", "qwen2")) else table
    return 3 * patch * patch * frames * width + positions * width


def _merge(tower: Fields, top: Fields) -> int:
    """How many patches to a side become one token."""
    for fields in (tower, top):
        if merge := fields.size("spatial_merge_size", "scale_factor", "downsample_factor", most=100):
            return merge
        if ratio := (fields.ratio("downsample_ratio") or fields.ratio("pixel_shuffle_ratio")):
            return max(1, round(1 / ratio)) if ratio <= 1 else round(ratio)
    return 1


def _projector(tower: Fields, top: Fields, width: int, hidden: int) -> int:
    merge = _merge(tower, top)
    joined = width * merge * merge
    out = tower.size("out_hidden_size", most=MOST_WIDTH) or hidden
    if _is(tower, ("glm4v", "glm_ocr")):
        return joined * out + out * out + 3 * out * (tower.size("intermediate_size", most=MOST_WIDTH) or out)
    if _is(tower, ("qwen", "moonvit", "paddleocr")):
        more = len(tower.numbers("deepstack_visual_indexes") or ())
        return (1 + more) * (joined * joined + joined * out)
    if _is(tower, ("pixtral",)) and merge > 1:
        return joined * width + width * hidden + hidden * hidden
    if _is(top, ("paligemma", "gemma3", "qwen2_audio")):
        return width * hidden
    return joined * hidden + hidden * hidden


def _image_tokens(tower: Fields, top: Fields) -> tuple[int, int] | None:
    """The fewest and most tokens of an image; None if config.json does not tell."""
    for fields in (top, top.inside("text_config"), tower):
        if fixed := fields.optional_count(*_FIXED, most=MOST_WIDTH):
            return fixed, fixed * _tiles(top)
    patch = tower.size("patch_size", "spatial_patch_size", most=MOST_WIDTH)
    if patch is None:
        return None
    side = patch * _merge(tower, top)
    image = tower.size("image_size", most=MOST_WIDTH)
    if _is(tower, ("qwen", "glm", "moonvit", "keye", "paddleocr", "dots")) or image is None:
        least, most = _QWEN_3_PIXELS if _is(tower, ("qwen3", "qwen4")) else _QWEN_PIXELS
        return max(1, least // (side * side)), most // (side * side)
    whole = max(1, image // side) ** 2
    return (1, whole) if _is(tower, ("pixtral",)) else (whole, whole * _tiles(top))


def _tiles(top: Fields) -> int:
    """Tiles that a large image is cut into, with a small copy of the whole."""
    if most := top.optional_count("max_dynamic_patch", "max_patches", most=1000):
        return most + 1
    if top.word("model_type") == "llama4":
        return 17
    return 5 if top.is_list("image_grid_pinpoints") else 1


def encoder_or_none(top: Fields, hidden: int) -> Encoder | None:
    """The same, where what cannot be read is an encoder of unknown size."""
    try:
        return read_encoder(top, hidden)
    except NotCheckedError:
        return Encoder(parameters=_UNKNOWN, doubt=1.0)
