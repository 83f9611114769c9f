"""Arguments of vLLM's server that a job takes with --engine, beside the engine's own: how calls of tools are parsed."""

from __future__ import annotations

from typing import Any

from vllm_hpc.spec.errors import RequestError

# Their names in vllm/entrypoints (cli_args.py, BaseFrontendArgs): which parser reads the calls of tools in an answer,
# and a Python file that registers parsers of the user's own.
TOOL_PARSER, PLUGIN = "tool_call_parser", "tool_parser_plugin"
SERVER_ARGUMENTS = (TOOL_PARSER, PLUGIN)


def engine_only(engine: dict[str, Any]) -> dict[str, Any]:
    """The arguments of --engine without those that vLLM's engine does not know."""
    return {name: value for name, value in engine.items() if name not in SERVER_ARGUMENTS}


def check_server_arguments(engine: dict[str, Any], parsers: frozenset[str]) -> None:
    """Refuse values that would fail the job when its engine has started. Raises RequestError.

    ``parsers``: the names of vLLM's own parsers; empty if they are not known here.
    """
    for name in SERVER_ARGUMENTS:
        value = engine.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            raise RequestError(f"--engine {name} must be a string, not {value!r}")
    parser = engine.get(TOOL_PARSER)
    if parser is None:
        if engine.get(PLUGIN):
            raise RequestError(f"--engine {PLUGIN} registers parsers: choose one with --engine {TOOL_PARSER}=NAME")
        return
    if parsers and parser not in parsers and not engine.get(PLUGIN):
        import difflib

        near = difflib.get_close_matches(parser, sorted(parsers), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(sorted(parsers))}"
        raise RequestError(f"--engine {TOOL_PARSER}: the vLLM installed here has no parser {parser!r}: {hint}")
