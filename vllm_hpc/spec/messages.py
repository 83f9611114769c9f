"""Turns msgspec's errors about wrong types into plain words: "must be a string such as "2:00:00""."""

from __future__ import annotations

import re

import msgspec

_PLACE = re.compile(r" - at `\$\.(?P<key>\w+)")
# Example strings, lists and tables, by key.
_EXAMPLES = {
    "time": '"2:00:00"', "mem": '"64G"', "name": '"first"', "model": '"demo"', "input": '"prompts.jsonl"',
    "partition": '"gpu"', "account": '"my_project"', "profile": '"my_site"', "job_dir": '"runs"',
    "template_dir": '"templates"', "template": '"slurm.sbatch.j2"', "head_suffix": '"i"',
    "head_command": '"hostname -i"', "setup": '["module load cuda"]', "directive": '["--constraint=h100"]',
    "chunk": '["system=polaris"]', "resources": '["filesystems=home"]', "launcher_options": '["--cpu-bind=none"]',
    "prompt_column": '"question"', "prompt_template": '"Summarise: {{ abstract }}"',
    "id_column": '"qid"', "keep": '["url"]', "allow": '["quantization"]',
    "script_args": '["--steps", "3"]',
    "rename": '{ question = "prompt" }',
    "pass_env": '["HF_TOKEN"]',
    "env": '{ NCCL_DEBUG = "INFO" }', "sampling": "{ top_k = 20 }", "engine": "{ max_num_seqs = 64 }",
}  # fmt: skip


def explain_mismatch(error: msgspec.ValidationError, struct: type[msgspec.Struct]) -> tuple[str, str] | None:
    """The key of ``struct`` that an error is about, and what its value must be; None if it is about no key."""
    place = _PLACE.search(str(error))
    key = place["key"] if place else None
    # Imported only after an error: it inspects every type of the struct.
    from msgspec import inspect

    kind = inspect.type_info(struct)
    fields = {field.encode_name: field for field in kind.fields} if isinstance(kind, inspect.StructType) else {}
    if key not in fields:
        return None
    return key, f"must be {_expected(fields[key].type, _EXAMPLES.get(key, ''))}"


def _expected(kind: msgspec.inspect.Type, example: str) -> str:
    from msgspec import inspect

    kind = getattr(kind, "type", kind)  # of an Annotated type
    such_as = f" such as {example}" if example else " in quotes"
    match kind:
        case inspect.UnionType(types=types):
            one, *more = (_expected(kind, example) for kind in types if not isinstance(kind, inspect.NoneType))
            return " or ".join([one.removesuffix(such_as), *more]) if more else one
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(f'"{value}"' for value in values)
        case inspect.IntType(ge=least, le=most):
            limits = f" from {least} to {most}" if least is not None and most is not None else ""
            return f"a whole number{limits}"
        case inspect.FloatType():
            return "a number"
        case inspect.BoolType():
            return "true or false"
        case inspect.ListType() | inspect.VarTupleType():
            return f"a list of strings{such_as}"
        case inspect.DictType(value_type=inspect.StrType()):
            return f"a table of strings{such_as.removesuffix(' in quotes')}"
        case inspect.DictType():
            return f"a table{such_as.removesuffix(' in quotes')}"
        case _:
            return f"a string{such_as}"
