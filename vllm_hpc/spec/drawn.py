"""Drawn: what a notebook shows as a picture. The drawings are in api/cards, loaded only when one is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Drawn:
    """A value that draws itself in a notebook, and is plain text anywhere else."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """Its card: HTML without any file of its own, for light and dark pages."""
        card: str = import_module("vllm_hpc.api.cards").card(self)
        return card

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Text and HTML, as IPython's rich display wants them."""
        return {"text/plain": repr(self), "text/html": self._repr_html_()}
