"""Values and scripts in a manifest of YAML, whatever they hold."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from vllm_hpc.spec.bash_syntax import find_fault
from vllm_hpc.spec.errors import TemplateError

# What a YAML stream cannot hold as it is (YAML 1.2, 5.1), or ends a line in some readers; JSON escapes only some.
_UNPRINTABLE = re.compile("[\x7f-\x84\x85\x86-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
# What Linux takes as one argument, without the NUL byte at its end (MAX_ARG_STRLEN).
_LONGEST_ARGUMENT = 32 * 4096 - 1
# Kubernetes puts a variable in the place of $(NAME) in a command, and takes $$ for a dollar.
_EXPANDED = re.compile(r"\$(?=[$(])")


def yaml(value: Any) -> str:
    """A value as JSON in one line, which is YAML too. Raises TemplateError for text that is no Unicode."""
    text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TemplateError(f"a manifest must be UTF-8, and cannot hold {value!r}") from None
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def pod_script(script: str, indent: int) -> str:
    """A bash script as an argument of a pod's command: a block of YAML, of which Kubernetes changes nothing.

    ``indent`` is that of the block's lines. Raises TemplateError for what bash cannot parse or Linux cannot
    pass on.
    """
    size = len(script.encode(errors="replace"))
    if size > _LONGEST_ARGUMENT:
        raise TemplateError(
            f"the script of the pods has {size} bytes, and a pod's command takes at most {_LONGEST_ARGUMENT}: use "
            "shorter values of --env, or put setup into a file that it sources"
        )
    fault = find_fault(script)
    if fault is not None:
        raise TemplateError(f"the script of the pods is not valid bash: {fault}")
    text = _EXPANDED.sub("$$", script.strip("\n")) + "\n"
    if re.search(r"[^\t\n\x20-\x7e]", text):
        return yaml(text)
    lines = [f"{' ' * indent}{line}" if line else "" for line in text.splitlines()]
    return "\n".join(["|", *lines])
