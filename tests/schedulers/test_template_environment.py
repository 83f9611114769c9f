"""What a template may do while it is rendered, and whose files are taken for one."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.schedulers.test_script import CONTEXT
from vllm_hpc.schedulers.script import render_script
from vllm_hpc.spec.errors import TemplateError

pytestmark = pytest.mark.trust

_MANY = "range(99999)"
_SYSTEM = "__globals__['os'].system('touch ran')"
OTHERS = 61_999


def refusal(folder: Path, text: str) -> str:
    """Why a template is refused: in one line, and soon."""
    (folder / "site.j2").write_text(text)
    began = time.process_time()
    with pytest.raises(TemplateError) as refused:
        render_script("site.j2", CONTEXT, folder)
    assert time.process_time() - began < 20  # of this process: other tests run beside it
    assert "\n" not in str(refused.value)
    return str(refused.value).replace(str(folder), "")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}", "{{ ''|attr('__class__') }}", "{{ ''['__class__'] }}",
        f"{{{{ launcher.words.{_SYSTEM} }}}}", f"{{{{ (launcher.words|attr('__globals__')).os.{_SYSTEM} }}}}",
        f"{{{{ cycler.__init__.{_SYSTEM} }}}}", f"{{{{ joiner.__init__.{_SYSTEM} }}}}",
        f"{{{{ namespace.__init__.{_SYSTEM} }}}}", f"{{{{ self.__init__.{_SYSTEM} }}}}",
        f"{{{{ job.__init__.{_SYSTEM} }}}}", "{{ self._TemplateReference__context }}",
        "{{ '{0.__class__}'.format(1) }}", "{{ [job]|map(attribute='__class__.__mro__')|list }}",
        f"{{{{ lipsum.{_SYSTEM} }}}}",
    ],
)  # fmt: skip
def test_a_template_does_not_get_out_of_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert "unsafe" in (said := refusal(tmp_path, text)) or "undefined" in said
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../outside", "./../outside"])
@pytest.mark.parametrize("tag", ["include", "import", "extends"])
def test_nothing_outside_of_the_folder_is_included(tmp_path: Path, name: str, tag: str) -> None:
    (tmp_path / "outside").write_text("x")
    (tmp_path / "templates").mkdir()
    as_name = " as x" if tag == "import" else ""
    assert "no such template" in refusal(tmp_path / "templates", f"{{% {tag} '{name}'{as_name} %}}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        (f"{{% for i in {_MANY} %}}{{% for j in {_MANY} %}}{{% endfor %}}{{% endfor %}}", "more than 300,000 steps"),
        ("{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}", "steps"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "includes itself"),
        (f"{{% for i in {_MANY} %}}{{{{ 'x' * 1000 }}}}{{% endfor %}}", "makes more than 4 MiB"),
        ("{{ 10 ** 100000000 }}", "small numbers"),
        ("{% set n = namespace(v=3) %}{% for i in range(99) %}{% set n.v = n.v * n.v %}{% endfor %}", "too large"),
        ("{{ lipsum(n=10**7) }}", "undefined"),
        ("a\0b", "NUL byte"),
        ("{{ 1 / 0 }}", "/site.j2:1: cannot be rendered: division by zero"),
    ],
    ids=range(10),
)
def test_a_template_that_would_not_end_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "'x' * 10**9", "10**9 * [1]", "'%1000000000d' % 1", "'%*d' % (10**9, 1)", "'%1000000000d'|format(1)",
        "'{:>1000000000}'.format(1)", "'x'.ljust(10**9)", "'x'.center(10**9)", "'x'|center(1000000000)",
        "'x'.zfill(10**9)", "'\t'.expandtabs(10**9)", "'x\ny'|indent(10**9)", "[1]|batch(10**9, 1)|list",
        "[1]|slice(10**9, 1)|list", "('x' * 10**6).replace('x', 'x' * 10**6)", "('x' * 10**6).join('x' * 10**6)",
        "range(99999)|map('string')|join('x' * 10**6)",
    ],
    ids=range(17),
)  # fmt: skip
def test_what_takes_much_memory_is_refused(tmp_path: Path, text: str) -> None:
    """Whatever makes it: nothing of it is printed, so that the length of the script is no reason."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    assert refusal(tmp_path, f"{{{{ ({text})|length }}}}").endswith("takes more than 256 MiB of memory")
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_what_scripts_need_is_computed(tmp_path: Path) -> None:
    text = "{{ 1048576 * 4096 * job.tp }} {{ '-' * 70 }} {{ 2 ** 10 }} {{ '%05d' % 7 }} {{ [1] + [2] }}"
    (tmp_path / "site.j2").write_text(f"#!/usr/bin/env python3\n{text}")
    made = render_script("site.j2", CONTEXT, tmp_path).splitlines()[1]
    assert made == f"{1048576 * 4096 * CONTEXT.tp} {'-' * 70} 1024 00007 [1, 2]"


def _foreign(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a file of another user needs root")
    path.write_text("true")
    os.chown(path, OTHERS, OTHERS)


def _shared(path: Path) -> None:
    path.write_text("true")
    path.chmod(0o646)


def _linked_by_another(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a link of another user needs root")
    path.symlink_to("/etc/passwd")
    os.chown(path, OTHERS, OTHERS, follow_symlinks=False)


def _binary(path: Path) -> None:
    path.write_bytes(b"\xff")


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(os.mkfifo, "'{}' is in its place: it must be a regular file", id="fifo"),
        pytest.param(os.mkdir, "'{}' is in its place: it must be a regular file", id="folder"),
        pytest.param(lambda path: path.symlink_to("nowhere"), "'{}' is in its place: a link to no file", id="broken"),
        pytest.param(lambda path: path.symlink_to(path.name), "Too many levels", id="loop"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "it must be a regular file", id="device"),
        pytest.param(_foreign, "'{}' belongs to another user (61999)", id="another user's"),
        pytest.param(_linked_by_another, "'{}' belongs to another user (61999)", id="another user's link"),
        pytest.param(_shared, "others can write to '{}'", id="everybody's"),
        pytest.param(_binary, "'{}' must be UTF-8", id="binary"),
        pytest.param(_huge, "'{}' is in its place: it must be at most 512 KiB", id="huge"),
    ],
)
@pytest.mark.parametrize("name", ["slurm.sbatch.j2", "_torchrun.sh.j2"])
def test_what_is_in_a_templates_place_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], None], said: str, name: str
) -> None:
    """It was passed over, and the packaged template of that name taken."""
    make(tmp_path / name)
    text = "{% import '_torchrun.sh.j2' as shared %}" if name.startswith("_") else "{% include 'slurm.sbatch.j2' %}"
    assert said.format(f"/{name}") in refusal(tmp_path, text)
