"""rich's console, which prints its own escape sequences and nobody else's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment

from vllm_hpc.cli.visible import visible


def make_console(**options: Any) -> Console:
    """A console that shows every text as ``visible`` does, and as it is: a name may have ``[red]`` or ``:x:``."""
    console = Console(highlight=False, markup=False, emoji=False, **options)
    console.push_render_hook(_Filter())
    return console


class _Filter(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Called by rich for whatever is printed."""
        return [_Visible(one) for one in renderables]


class _Visible:
    """What is printed, with its text made visible; rich's own control segments stay."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return _seen(console.render(self._inner, options))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._inner)


def _seen(segments: Iterable[Segment]) -> Iterator[Segment]:
    for segment in segments:
        yield segment if segment.control else segment._replace(text=visible(segment.text))
