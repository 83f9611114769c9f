"""The options that say which fields a row has its prompt and its id in, and which are kept.

--prompt-column, --prompt-template, --id-column, --keep and --rename; in Python ``prompt`` and ``id``, too.
"""

from __future__ import annotations

import re
from typing import Any

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.repeats import first_repeated

# A template is compiled, and a job.toml may hold a long one.
_MOST_CHARACTERS = 1 << 20
# A field as Python's own format() has it.
_SINGLE = re.compile(r"\{\s*([A-Za-z_]\w*)\s*\}")
_BOTH = "--prompt-column and --prompt-template are both given: keep one"


class Files(list[str]):
    """Inputs that are names of files: those of the command line. From Python, a list of texts may be prompts."""


def check_prompt_options(column: str | None, template: str | None, rename: dict[str, str]) -> None:
    """Refuse options that contradict each other. Raises RequestError. A template is compiled later, with the rows."""
    if column is not None and template is not None:
        raise RequestError(_BOTH)
    if column is not None and not column.strip():
        raise RequestError("--prompt-column must be the name of a column")
    if template is not None and not template.strip():
        raise RequestError("--prompt-template must be a text such as 'Summarise: {{ abstract }}'")
    if template is not None and len(template) > _MOST_CHARACTERS:
        raise RequestError(f"--prompt-template has {len(template)} characters: use at most {_MOST_CHARACTERS}")
    for old, new in rename.items():
        if not old.strip() or not new.strip():
            raise RequestError(f"--rename must be OLD=NEW, two names, not '{old}={new}'")
    if twice := first_repeated(rename.values()):
        raise RequestError(f"--rename gives two fields the name {twice!r}: give each its own")


def check_columns(id_column: str | None, prompt_column: str | None, keep: list[str] | None) -> None:
    """Refuse columns that contradict each other, or have no name. Raises RequestError."""
    if id_column is not None and not id_column.strip():
        raise RequestError("--id-column must be the name of a column")
    if id_column in ("prompt", "messages"):
        raise RequestError(f"--id-column {id_column} is what the model reads: name the column with the ids")
    if id_column is not None and id_column == prompt_column:
        raise RequestError(f"--id-column and --prompt-column are both {id_column!r}: a row needs one for each")
    if keep and not all(name.strip() for name in keep):
        raise RequestError("--keep must be the names of columns")


def with_columns(options: dict[str, Any]) -> dict[str, Any]:
    """Options with ``prompt`` and ``id``, as from Python, under the names of a request. Raises RequestError."""
    options = with_prompt(options)
    if "id" in options:
        if "id_column" in options:
            raise RequestError("id and id_column are both given: keep one")
        if not isinstance(options["id"], str):
            raise RequestError("id must be the name of the column with the ids")
        options = {("id_column" if key == "id" else key): value for key, value in options.items()}
    if isinstance(options.get("keep"), str):
        options = {**options, "keep": [options["keep"]]}
    return options


def with_prompt(options: dict[str, Any]) -> dict[str, Any]:
    """Options with ``prompt`` (from Python) as the column or the template that it is. Raises RequestError."""
    if "prompt" not in options:
        return options
    options = dict(options)
    prompt = options.pop("prompt")
    if not isinstance(prompt, str):
        raise RequestError("prompt must be the name of a column, or a template such as 'Summarise: {{ abstract }}'")
    if given := {"prompt_column", "prompt_template"} & options.keys():
        raise RequestError(f"prompt and {min(given)} are both given: keep one")
    is_template = "{{" in prompt or "{%" in prompt
    if not is_template and (field := _SINGLE.search(prompt)):
        template = _SINGLE.sub(r"{{ \1 }}", prompt)
        raise RequestError(f"prompt {prompt!r} has {field[0]!r}: a template has double braces, as in {template!r}")
    return {**options, "prompt_template" if is_template else "prompt_column": prompt}


def check_has_rows(options: dict[str, Any]) -> None:
    """Refuse ``prompt`` without the input that it is about, such as a question itself. Raises RequestError."""
    if options.get("prompt") is not None and options.get("input") is None:
        raise RequestError(
            "prompt is the name of a column, or a template, for the rows of 'input', which is missing: write the "
            "prompts themselves into a file, such as prompts.txt with one on each line, and use input='prompts.txt'"
        )


def without_overridden(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """job.toml's options without its column or template, if ``above`` says otherwise."""
    if not {"prompt_column", "prompt_template"} & above.keys():
        return below
    return {key: value for key, value in below.items() if key not in ("prompt_column", "prompt_template")}
