"""What is checked of a site's own templates and of their scripts: mistakes that Jinja lets pass in silence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches

import jinja2
from jinja2 import nodes

from vllm_hpc.schedulers.template_layers import plain_name
from vllm_hpc.spec.bash_syntax import find_fault
from vllm_hpc.spec.errors import TemplateError

# The first line of a script that bash can parse, if it has one for the kernel.
_SHELL = re.compile(r"#!.*\b(ba|da)?sh\b")


def check_blocks(environment: jinja2.Environment, template: str) -> None:
    """Refuse what a template that extends another one would lose. Raises TemplateError with file and line.

    That is a block that the other does not have, and text outside of blocks. Comments may stand there. Nothing is
    checked where it is computed which template is extended.
    """
    parsed, file = _parse(environment, template)
    parent = parent_of(environment, parsed, template)
    if parent is None:
        return
    check_blocks(environment, parent)
    known = _blocks(environment, parent)
    if known is None:
        return
    for node in parsed.body:
        for block in _outer_blocks(node):
            if block.name not in known:
                raise TemplateError(f"{file}:{block.lineno}: {_no_such_block(block.name, plain_name(parent), known)}")
    line = next(_lost_lines(parsed), None)
    if line is not None:
        raise TemplateError(
            f"{file}:{line}: text outside of blocks does not get into the script: put it into a block of "
            f"{plain_name(parent)!r} ({', '.join(known)})"
        )


def check_script(script: str, template: str) -> None:
    """Refuse a script that bash cannot parse. Raises TemplateError, which quotes the line of the script."""
    if template.endswith((".yaml.j2", ".yml.j2")):  # a manifest, whose script a filter has checked
        return
    if "\0" in script:
        raise TemplateError(f"template {template!r} makes a script with a NUL byte: remove it")
    if script.startswith("#!") and not _SHELL.match(script):
        return
    fault = find_fault(script)
    if fault is None:
        return
    hint = ": is the block 'launch' empty?" if "token `}'" in fault else ""
    raise TemplateError(
        f"template {template!r} makes a script that is not valid bash: {_with_line(fault, script)}{hint}"
    )


def _with_line(fault: str, script: str) -> str:
    """bash's words with the line of the script that they are about."""
    number = re.match(r"line (\d+): ", fault)
    if number is None:
        return fault
    line = "".join(script.splitlines()[int(number[1]) - 1 :][:1]).strip()  # none: the end of the file
    quoted = f" ({line[:80]!r})" if line else ""
    return f"line {number[1]} of the script{quoted}: {fault.removeprefix(number[0])}"


def _parse(environment: jinja2.Environment, template: str) -> tuple[nodes.Template, str]:
    assert environment.loader is not None
    source, file, _ = environment.loader.get_source(environment, template)
    return environment.parse(source, template, file), file or template


def parent_of(environment: jinja2.Environment, parsed: nodes.Template, template: str) -> str | None:
    """The template that this one always extends; None if there is none, or it is computed."""
    found = [node.template for node in parsed.find_all(nodes.Extends)]
    is_fixed = len(found) == 1 and any(isinstance(node, nodes.Extends) for node in parsed.body)
    if not is_fixed or not isinstance(found[0], nodes.Const):
        return None
    return environment.join_path(str(found[0].value), template)


def _blocks(environment: jinja2.Environment, template: str) -> list[str] | None:
    """The blocks of a template and of those that it extends; None if it is computed which these are."""
    parsed, _ = _parse(environment, template)
    own = [block.name for block in parsed.find_all(nodes.Block)]
    parent = parent_of(environment, parsed, template)
    if parent is None:
        return None if parsed.find(nodes.Extends) else own
    above = _blocks(environment, parent)
    return None if above is None else [*above, *(name for name in own if name not in above)]


def _outer_blocks(node: nodes.Node) -> Iterator[nodes.Block]:
    """The blocks in a node that are not in another block: those inside one are rendered with it."""
    if isinstance(node, nodes.Block):
        yield node
        return
    for child in node.iter_child_nodes():
        yield from _outer_blocks(child)


def _lost_lines(parsed: nodes.Template) -> Iterator[int]:
    """Lines behind {% extends %} that would be in a script if they were in a block."""
    is_behind = False
    for node in parsed.body:
        is_behind = is_behind or isinstance(node, nodes.Extends)
        for part in node.nodes if is_behind and isinstance(node, nodes.Output) else []:
            if not isinstance(part, nodes.TemplateData):
                yield part.lineno
                continue
            for number, line in enumerate(part.data.splitlines(), part.lineno):
                if line.strip() and not line.lstrip().startswith("#"):
                    yield number


def _no_such_block(name: str, parent: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"its blocks are {', '.join(known)}"
    return f"no such block in {parent!r}: {name!r}: {advice}"
