"""Layers of template folders, highest first, ours lowest. A template that extends its own name goes one down."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jinja2
from jinja2.loaders import split_template_path

# Stands before the number of a layer in names that no template's author writes: a path has no NUL.
_MARK = "\0"


class LayeredLoader(jinja2.BaseLoader):
    """Finds a template in the highest layer that has it, or below a layer: the names for that come from ``seen_from``.

    ``packaged/NAME`` is in the lowest layer, whatever stands above it.
    """

    def __init__(self, layers: Sequence[jinja2.BaseLoader]) -> None:
        self._layers = layers
        self._found: dict[str, tuple[int, str]] = {}  # name -> its layer, and the file there

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool] | None]:
        """Its text and its file. Raises jinja2.TemplateNotFound, and whatever a layer raises."""
        first, name = _split(template)
        for number, layer in enumerate(self._layers[first:], start=first):
            try:
                source, file, is_current = layer.get_source(environment, name)
            except jinja2.TemplateNotFound:
                continue
            self._found[template] = (number, file or name)
            return source, file or name, is_current
        raise jinja2.TemplateNotFound(template)

    def seen_from(self, template: str, parent: str) -> str:
        """The name by which a template that ``parent`` names is found: below ``parent``, if that has the same name."""
        if parent not in self._found or _plain(template) != _plain(plain_name(parent)):
            return template
        return f"{_MARK}{self._found[parent][0] + 1}{_MARK}{plain_name(parent)}"

    def why_missing(self, template: str) -> str:
        """What to say of a template that was not found."""
        first, name = _split(template)
        above = [file for number, file in self._found.values() if number == first - 1 and _plain(file).endswith(name)]
        if above:
            return f"no such template: {name!r} below {above[0]!r}, which extends it: no other folder has one"
        return f"no such template: {name!r}: vllm-hpc looks in --template-dir, the profile's folders, then in its own"


def plain_name(template: str) -> str:
    """A template's name without its layer, as its author writes it."""
    return _split(template)[1]


def _split(template: str) -> tuple[int, str]:
    """The first layer to look in, and the name."""
    if not template.startswith(_MARK):
        return 0, template
    number, _, name = template[1:].partition(_MARK)
    return (int(number), name) if number.isdecimal() else (0, template)


def _plain(name: str) -> str:
    """A name as folders have it: ./x is x."""
    try:
        return "/".join(split_template_path(name))
    except jinja2.TemplateNotFound:  # it leads out of the folder: no layer has it
        return name
