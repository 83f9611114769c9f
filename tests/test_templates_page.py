"""docs/templates.md names every block, field, filter, macro and function that a site's template may use.

After a wanted change: ``VLLM_HPC_UPDATE_DOCS=1 pytest tests/test_templates_page.py``, and read the diff.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jinja2
import msgspec
import pytest
from jinja2 import nodes
from msgspec import inspect

from tests.generated_tables import check_table
from tests.schedulers.test_script import CONTEXT
from vllm_hpc.schedulers.launchers import Launcher
from vllm_hpc.schedulers.script import FILTERS, render_script
from vllm_hpc.schedulers.script_context import ScriptContext

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "templates.md"
TEMPLATES = ROOT / "templates"
LIFECYCLE = (TEMPLATES / "lifecycle.sh").read_text(encoding="utf-8")
MACROS = (TEMPLATES / "_torchrun.sh.j2").read_text(encoding="utf-8")
UPDATE = "VLLM_HPC_UPDATE_DOCS=1 pytest tests/test_templates_page.py"
BLOCKS = {
    "directives": "the lines of `#SBATCH` or `#PBS`; not in the local script",
    "environment": "the profile's `setup`, then `PATH` and what the ranks need",
    "rendezvous": "sets `nodes`, `VLLM_HPC_HEAD`, `VLLM_HPC_PORT` and `VLLM_HPC_SECOND_NODE`; on one node the "
    "head is 127.0.0.1",
    "launch": 'starts `"${task[@]}"` on all nodes; in the local script, torchrun',
}
LAUNCHER = {
    "name": "by which `--launcher` and the profile's `launcher` ask for it",
    "schedulers": "those that it goes with",
    "program": "what it is called in messages",
    "words": 'a function from `job` to the words, quoted, of the line that ends with `"${task[@]}"`',
    "node": "the shell's word by which a task knows its node's number, such as `$SLURM_NODEID`",
    "is_line_per_node": "the line starts one node's task, of number `$node`, which follows the task as its last word",
    "is_task_per_rank": "one task a rank, without torchrun; on Slurm, whose variables number them",
    "wrapper": "words before torchrun on each node; the profile's `wrapper` follows them",
    "says": "what it does, in a sentence for the head of the script: made from the others, not given",
}


def table(first: str, rows: dict[str, str]) -> str:
    lines = [f"| `{name}` | {text} |" for name, text in rows.items()]
    return "\n".join([f"| {first} | |", "| --- | --- |", *lines])


def fields() -> dict[str, str]:
    """Each field of the context, and each property, with what its type says of it."""
    kind = inspect.type_info(ScriptContext)
    assert isinstance(kind, inspect.StructType)
    found = {}
    for field in kind.fields:
        assert isinstance(field.type, inspect.Metadata), f"{field.name} has no description"
        assert field.type.extra_json_schema is not None
        found[field.name] = field.type.extra_json_schema["description"]
    for name, value in vars(ScriptContext).items():
        if isinstance(value, property):
            assert value.__doc__ is not None
            found[name] = value.__doc__.strip().rstrip(".")
    return found


def functions() -> dict[str, str]:
    """The functions of lifecycle.sh whose comment begins with their name: they are for templates."""
    return {
        found[0]: _flat(found[1])
        for found in re.findall(r"^# (\w+(?: [A-Z.]+)*): ((?:.*\n#)*.*)\n\w+\(\)", LIFECYCLE, re.M)
    }


def macros() -> dict[str, str]:
    """The macros, with what the comment above each says."""
    signatures = re.findall(r"{%- macro (\w+)(\(.*?\)) -%}", MACROS)
    said = dict(re.findall(r"{#- (\w+): (.*?)\.? -#}", MACROS, re.S))
    return {name + signature: said[name] for name, signature in signatures}


def filters() -> dict[str, str]:
    return {name: str(made.__doc__).splitlines()[0].rstrip(".") for name, made in FILTERS.items()}


def _flat(text: str) -> str:
    return re.sub(r"\n#\s*", " ", text).rstrip(".").replace("|", "\\|")


TABLES = {
    "blocks": table("block", BLOCKS),
    "functions": table("function", functions()),
    "fields": table("field of `job`", fields()),
    "launcher": table("field of `launcher`", LAUNCHER),
    "filters": table("filter", filters()),
    "macros": table("macro", macros()),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_all_of_them(name: str) -> None:
    check_table(PAGE, name, TABLES[name], UPDATE)


def test_the_example_of_the_page_makes_a_clean_script(tmp_path: Path) -> None:
    (example,) = re.findall(r"```jinja\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (tmp_path / "slurm.sbatch.j2").write_text(example)
    script = render_script("slurm.sbatch.j2", CONTEXT, str(tmp_path))
    assert "srun --mpi=none" in script
    for command in (["bash", "-n"], ["shellcheck", "--shell=bash", "-"]):
        if shutil.which(command[0]):
            check = subprocess.run(command, input=script, text=True, capture_output=True)
            assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_the_blocks_are_those_of_the_templates() -> None:
    for template in ("slurm.sbatch.j2", "pbs.sh.j2"):
        assert [node.name for node in _parsed(template).find_all(nodes.Block)] == list(BLOCKS)


def test_the_fields_of_a_launcher_are_those_of_its_type() -> None:
    made = [name for name, value in vars(Launcher).items() if isinstance(value, property)]
    assert list(LAUNCHER) == [*(field.name for field in msgspec.structs.fields(Launcher)), *made]


def test_every_function_that_a_template_calls_is_on_the_page() -> None:
    """What a template of ours needs, one of a site's may need too."""
    text = "".join(_source(template) for template in ("slurm.sbatch.j2", "pbs.sh.j2", "_torchrun.sh.j2"))
    defined = re.findall(r"^(\w+)\(\)", LIFECYCLE, re.M)
    called = {name for name in defined if re.search(rf"(^|[\s'\"(]){name}([\s'\"\)]|$)", text, re.M)}
    assert called <= {signature.split()[0] for signature in functions()}


def _source(template: str) -> str:
    """A template's lines without its comments, the shell's and Jinja's."""
    text = re.sub(r"{#.*?#}", "", (TEMPLATES / template).read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"(^|\s)#.*", "", text)


def _parsed(template: str) -> nodes.Template:
    return jinja2.Environment().parse((TEMPLATES / template).read_text(encoding="utf-8"))


def _fields_used(template: str) -> Iterator[str]:
    for node in _parsed(template).find_all(nodes.Getattr):
        if isinstance(node.node, nodes.Name) and node.node.name == "job":
            yield node.attr


def test_no_field_is_of_no_use() -> None:
    """All are somewhere in a template, or in a launcher's words, but for what only sites want, or ``gpus`` has."""
    used = {name for template in TEMPLATES.glob("*.j2") for name in _fields_used(template.name)}
    used |= {
        name
        for file in (ROOT / "vllm_hpc" / "schedulers").glob("*/launchers.py")
        for name in re.findall(r"\bjob\.(\w+)", file.read_text())
    }
    assert fields().keys() - used == {"launcher", "gpu_type"}
