"""What a plan says of a model whose class is not in the planner's table, and of what it reads besides text."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_hpc.planner.models.count import parameter_range
from vllm_hpc.planner.models.shape import Shape
from vllm_hpc.planner.models.weights import Weights


def explain_shape(shape: Shape, file: str, weights: Weights | None) -> list[str]:
    """What is not known exactly, with its range; nothing for a plain decoder of the table."""
    return [*_of_class(shape, file, weights), *_of_layers(shape), *_of_encoder(shape)]


def _of_class(shape: Shape, file: str, weights: Weights | None) -> Iterator[str]:
    if not shape.doubt:
        return
    sized = "; the size of its weights is that of its files or its index" if weights else ""
    yield (
        f"{shape.architecture} is not in the planner's table: its layers are read from the keys of {file}, "
        f"{_billions(shape)} parameters{sized}; KV cache and speed are estimates"
    )


def _billions(shape: Shape) -> str:
    found = parameter_range(shape)
    if found is None:
        return "an unknown number of"
    low, high = (f"{one / 1e9:.3g}" for one in found)
    return f"{low} B" if low == high else f"{low} to {high} B"


def _of_layers(shape: Shape) -> Iterator[str]:
    if shape.state:
        beside = "beside attention" if shape.state.beside else "in place of keys and values"
        kib = shape.state.bytes * shape.state.layers / 1024
        yield (
            f"{shape.state.layers} of {shape.layers} layers keep a state ({shape.state.kind}) {beside}: {kib:,.0f} KiB "
            "a sequence, however long it is"
        )


def _of_encoder(shape: Shape) -> Iterator[str]:
    encoder = shape.encoder
    if encoder is None or not encoder.parameters:
        return
    off = f" ± {100 * encoder.doubt:.0f} %" if encoder.doubt else ""
    images = ""
    if encoder.image_tokens:
        least, most = encoder.image_tokens
        images = f"; an image is {least} tokens" if least == most else f"; an image is {least} to {most} tokens"
    yield f"its encoders have {encoder.parameters / 1e9:.2g} B parameters{off}, on every rank{images}"
