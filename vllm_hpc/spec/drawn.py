"""Drawn: what a notebook shows as a picture. The drawings are in api/cards, loaded only when one is asked for."""

from __future__ import annotations

from collections.abc import Container
from importlib import import_module


class Drawn:
    """A value that draws itself in a notebook, and is plain text anywhere else."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """Its card: HTML without any file of its own, for light and dark pages."""
        card: str = import_module("vllm_hpc.api.cards").card(self)
        return card

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, str]:
        """Text and HTML, as IPython's rich display wants them."""
        makers = {"text/plain": self.__repr__, "text/html": self._repr_html_}
        wanted = {kind for kind in makers if (include is None or kind in include) and kind not in (exclude or ())}
        return {kind: make() for kind, make in makers.items() if kind in wanted}
