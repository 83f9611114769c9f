"""The environment that scripts' templates are rendered in: Jinja's sandbox, a cache, and whose files are taken.

A template says what runs as whoever submits, so that it must be the user's own, or of someone they trust. What it does
while it is rendered is bounded too, against mistakes: a script's size, and the steps of its loops and calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.bccache import Bucket, FileSystemBytecodeCache
from jinja2.exceptions import SecurityError
from jinja2.loaders import split_template_path
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment
from jinja2.visitor import NodeTransformer

from vllm_hpc import __version__
from vllm_hpc.schedulers.template_layers import LayeredLoader
from vllm_hpc.spec.errors import TemplateError
from vllm_hpc.spec.ownership import open_mine
from vllm_hpc.spec.trusted_owners import NotTrustedError, read_trusted
from vllm_hpc.spec.user_cache import cache_folder

# Increased when the environment below changes: templates compiled in an earlier one are not used.
_CODE_FORMAT = 4
# What Slurm takes by default (slurm.conf, SchedulerParameters: max_script_size).
MOST_BYTES = 4 << 20
# Turns of all loops, and calls of macros and functions. A script of ours takes some hundred.
MOST_STEPS = 300_000
# Memory that a script may take to be made: it holds for all filters, methods and operators. Ours take a few MiB.
MOST_MEMORY = 256 << 20
# Whole numbers, which take longer than they take memory.
_MOST_BITS, _LARGEST_BASE, _MOST_POWER = 4096, 1 << 63, 64
_STEP = "step "  # with a space: no template can name it


def make_environment(
    packaged: Path, folders: Sequence[str | Path], installed: Path | None, filters: dict[str, Callable[..., Any]]
) -> Environment:
    """The environment for one script. Its templates are those of ``folders``, which must be trusted, then others.

    ``folders`` are layers, the highest first: a template that extends its own name extends that of the next below.
    ``installed`` is the folder of a package that adds a scheduler, ``packaged`` our own: Python runs what is there.
    """
    own = jinja2.FileSystemLoader(packaged)
    layers: list[jinja2.BaseLoader] = [TrustedLoader(Path(folder)) for folder in folders]
    if installed is not None:
        layers.append(jinja2.FileSystemLoader(installed))
    layers.append(jinja2.ChoiceLoader([own, jinja2.PrefixLoader({"packaged": own})]))
    environment = Environment(
        layers=LayeredLoader(layers),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # shell scripts, not HTML: |sh and |directive do the quoting
        trim_blocks=False,
        keep_trailing_newline=True,
        bytecode_cache=_CompiledTemplates.of_user(),
    )
    environment.filters.update(filters)
    return environment


class TrustedLoader(jinja2.BaseLoader):
    """The templates of a folder: files that nobody but the user, root and trusted owners can have written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool] | None]:
        """Its text and its file. Raises jinja2.TemplateNotFound, and TemplateError for a file that is not read."""
        path = self._folder.joinpath(*split_template_path(template))
        if not os.path.lexists(path):
            raise jinja2.TemplateNotFound(template)
        try:
            return read_trusted(path).decode(), str(path), None
        except NotTrustedError as error:
            raise TemplateError(str(error)) from None
        except UnicodeDecodeError as error:
            raise TemplateError(f"{str(path)!r} must be UTF-8: {error}") from None
        except OSError as error:
            why = "a link to no file" if isinstance(error, FileNotFoundError) else error.strerror
            raise TemplateError(f"no such template: {template!r}: {str(path)!r} is in its place: {why}") from None


class Environment(SandboxedEnvironment):
    """Jinja's sandbox, in which a script can neither grow nor be made without an end; for one script."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, layers: LayeredLoader, **options: Any) -> None:
        super().__init__(loader=layers, **options)
        self.layers = layers
        self._steps = 0
        del self.globals["lipsum"]
        self.filters[_STEP] = self._counted

    def render_script(self, template: str, **values: Any) -> str:
        """The text of that template with these values. Raises TemplateError, and whatever a template raises."""
        pieces, size = [], 0
        for piece in self.get_template(template).generate(**values):
            pieces.append(piece)
            size += len(piece.encode())
            if size > MOST_BYTES:
                raise TemplateError(f"template {template!r} makes more than {MOST_BYTES >> 20} MiB")
        return "".join(pieces)

    def join_path(self, template: str, parent: str) -> str:
        """The template that another one extends, includes or imports by that name."""
        return self.layers.seen_from(template, parent)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in jinja2
        """Call a macro or a function, which may call itself."""
        __self._step()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute, unless the result would be a huge number."""
        if operator == "**" and not (abs(left) < _LARGEST_BASE and abs(right) < _MOST_POWER):
            raise SecurityError("a power must be of small numbers")
        if operator == "*" and _is_huge(left, right):
            raise SecurityError("a product is too large")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return cast(nodes.Template, _CountedLoops(self).visit(super()._parse(source, name, filename)))

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise SecurityError(f"its loops and calls take more than {MOST_STEPS:,} steps")


def _is_huge(left: Any, right: Any) -> bool:
    """Whether a product would be."""
    both = (left, right)
    return all(isinstance(one, int) for one in both) and sum(one.bit_length() for one in both) > _MOST_BITS


class _CountedLoops(NodeTransformer):
    """Has each loop count its turns."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - jinja2 looks for this name
        self.generic_visit(node)
        counted = nodes.Filter(cast(nodes.Expr, node.iter), _STEP, [], [], None, None, lineno=node.lineno)
        counted.set_environment(self._environment)
        node.iter = counted
        return node


class _CompiledTemplates(FileSystemBytecodeCache):
    """Jinja's cache of compiled templates: compiling takes most of the rendering time (27 of 33 ms).

    Jinja compares a digest of the template's source and its bytecode version. The environment's class and options are
    not compared, and code that was compiled outside the sandbox is not held by it: the folder's name stands for them.
    """

    @classmethod
    def of_user(cls) -> _CompiledTemplates | None:
        """The cache in the user's cache folder, None if no folder can be made there."""
        try:
            folder = cache_folder() / f"templates-{__version__}-sandboxed-{_CODE_FORMAT}"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            return None
        return cls(str(folder))

    def load_bytecode(self, bucket: Bucket) -> None:
        """Load only what this user has written."""
        with suppress(OSError), open_mine(Path(self._get_cache_filename(bucket))) as file:
            bucket.load_bytecode(file)

    def dump_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError):  # a full or read-only disk only makes the next rendering slower
            super().dump_bytecode(bucket)
