"""Chat templates that a user brings: the one of --chat-template, and those of single rows."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.read_file import open_regular
from vllm_hpc.spec.values import as_path

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

OPTION = "--chat-template"
# The longest published templates have some 30 KB; a longer file is another file.
_MOST_BYTES = 4 << 20
_MARKS = ("{{", "{%")


def is_template_text(given: str) -> bool:
    """Whether a value is a template itself, and not the path of one."""
    return any(mark in given for mark in _MARKS)


def read_chat_template(given: str) -> str:
    """The text of --chat-template, which is a file, or from Python and job.toml a template too. Raises RequestError.

    It must compile, and use the messages: a file that does not is not a chat template.
    """
    if not given:
        raise RequestError(f"{OPTION} is empty: name a Jinja file, or leave it out")
    is_text = is_template_text(given)
    text, what = (given, OPTION) if is_text else (_read(given), f"{OPTION} {given!r}")
    if not text.strip():
        raise RequestError(f"{what} is empty: name a Jinja file that writes the messages of a chat")
    if _is_json(text):
        raise RequestError(f"{what} is JSON: write the template in it into a file of its own")
    try:
        check_compiles(text)
    except ValueError as error:
        raise RequestError(f"{what} does not compile: {error}") from None
    if "messages" not in text:
        raise RequestError(f"{what} does not use 'messages': name a Jinja file that writes the messages of a chat")
    return text


@lru_cache(maxsize=64)
def check_compiles(text: str) -> None:
    """Compile a chat template as transformers does. Raises ValueError, which says what is wrong and in which line."""
    import jinja2

    try:
        _environment().from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno}: {str(error.message).rstrip('.')}") from None
    except (RecursionError, MemoryError):
        raise ValueError("its blocks or expressions are nested too deeply") from None
    except (jinja2.TemplateError, SyntaxError, ValueError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment of transformers 5 (utils/chat_template_utils.py), without what is only used when it renders."""
    from jinja2 import ext, nodes
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        """``{% generation %}`` marks what the assistant says, for training."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Parser) -> list[nodes.Node]:
            """The statements between the two tags."""
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    # Not optimised: jinja2 would compute constants, however large, when it compiles.
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols], optimized=False
    )


def _is_json(text: str) -> bool:
    """Whether a text is a JSON object, such as tokenizer_config.json: which may compile, but is no template."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _read(given: str) -> str:
    path = as_path(given, OPTION)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # opening a pipe could wait for ever
            raise RequestError(f"{OPTION} {given!r} is a pipe or a device: write the template to a file")
        if path.is_dir():
            raise RequestError(f"{OPTION} {given!r} is a folder: name the template's file")
        with open_regular(path) as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise RequestError(f"{OPTION} {given!r}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RequestError(f"{OPTION} {given!r} cannot be read: {reason}") from None
    if len(content) > _MOST_BYTES:
        raise RequestError(f"{OPTION} {given!r} is longer than {_MOST_BYTES >> 20} MiB: name a Jinja file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{OPTION} {given!r} is not UTF-8: convert it, for example with iconv") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
