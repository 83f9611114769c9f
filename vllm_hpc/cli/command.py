"""A command that refuses what would silently replace an earlier option, or be taken for another argument."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import click

from vllm_hpc.spec.errors import RequestError


def command(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command of vllm-hpc."""
    return click.command(name, cls=_Command)


class _Command(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, but refuse an option with one value that is given twice, of which click uses the last.

        Raises RequestError.
        """
        if ctx.resilient_parsing:  # a shell completes a line that is not whole yet
            return super().parse_args(ctx, args)
        given, rest, order = self.make_parser(ctx).parse_args(list(args))
        if not any(isinstance(param, click.Option) and param.is_flag and param.is_eager for param in order):  # --help
            _check_once([param for param in order if isinstance(param, click.Option)])
            _check_pattern(given, rest)
        return super().parse_args(ctx, args)


def _check_once(order: list[click.Option]) -> None:
    seen: set[click.Option] = set()
    for option in order:
        if option in seen and not (option.multiple or option.is_flag or option.count):
            raise RequestError(f"{'/'.join(option.opts)} was given twice: give it once")
        seen.add(option)


def _check_pattern(given: dict[str, Any], rest: list[str]) -> None:
    """Name the cause where a shell has replaced ``--input *.jsonl`` by ``--input a.jsonl b.jsonl``."""
    inputs = given.get("input")
    suffix = PurePath(inputs[-1]).suffix if rest and inputs else ""
    words = [word for word in (given.get("model") or "", *rest) if suffix and PurePath(word).suffix == suffix]
    if words:
        raise RequestError(
            f"unexpected argument {words[0]!r}: repeat --input, or quote its pattern (--input '*.jsonl')"
        )
