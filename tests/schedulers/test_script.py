"""Rendering: the quoting filters, templates of a site's own, and a script that is what submit sends."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import Cli
from vllm_hpc.schedulers.script import ScriptContext, directive, render_script, sh
from vllm_hpc.spec.errors import TemplateError

CONTEXT = ScriptContext(
    title="A title", name="name", folder="/runs/name", scheduler_log="/runs/name/logs/scheduler.out", bin="/venv/bin",
    nodes=2, gpus_per_node=8, procs_per_node=8, world_size=16, tp=16, pp=1, dp=1,
)  # fmt: skip
HOSTILE = [
    "",
    " ",
    "a b",
    "it's",
    '"',
    "$HOME",
    "$(id)",
    "`id`",
    "a;b",
    "a\nb",
    "\\",
    "a\\",
    "!x",
    "*",
    "~",
    "-n",
    "é",
    "#",
    "&",
]
shell_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.lists(shell_text, min_size=1, max_size=20))
@example(HOSTILE)
@settings(max_examples=40, deadline=None)
def test_sh_comes_back_from_a_real_shell_as_it_was(values: list[str]) -> None:
    script = "printf '%s\\0' " + " ".join(sh(value) for value in values)
    back = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.decode()
    assert back.split("\0")[:-1] == values


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain-1_2.3/x:y,z@w", "plain-1_2.3/x:y,z@w"),
        ("a b", '"a b"'),
        ("it's", '"it\'s"'),
        ('say "x"', '"say \\"x\\""'),
        ("a#b", '"a#b"'),
        ("a\\b", '"a\\\\b"'),
        ("$(x)", '"$(x)"'),
        ("naïve", '"naïve"'),
        ("100%", "100%%"),
        ("%j", "%%j"),
    ],
)
def test_directive_escapes_what_sbatch_would_take_apart(value: str, written: str) -> None:
    assert directive(value) == written


one_line = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]))


@given(one_line)
def test_directive_is_one_word_to_a_reader_with_posix_quoting(value: str) -> None:
    assert shlex.split(f"--output={directive(value)}", comments=True) == [f"--output={value.replace('%', '%%')}"]


def test_a_template_of_the_site_is_searched_first(tmp_path: Path) -> None:
    (tmp_path / "slurm.sbatch.j2").write_text("#!/bin/sh\necho {{ job.name|sh }}\n")
    assert render_script("slurm.sbatch.j2", CONTEXT, str(tmp_path)) == "#!/bin/sh\necho name\n"
    assert "torchrun" in render_script("slurm.sbatch.j2", CONTEXT)
    assert "torchrun" in render_script("local.sh.j2", CONTEXT, str(tmp_path)), "the others stay as they are"


@pytest.mark.parametrize("block", ["directives", "environment", "rendezvous", "launch"])
def test_a_template_of_the_site_overrides_one_block_of_the_packaged_one(tmp_path: Path, block: str) -> None:
    packaged = render_script("slurm.sbatch.j2", CONTEXT)
    (tmp_path / "slurm.sbatch.j2").write_text(
        '{% extends "packaged/slurm.sbatch.j2" %}\n'
        f"{{% block {block} %}}# ours: {{{{ job.tp }}}}\n{{{{ super() }}}}{{% endblock %}}\n"
    )
    ours = render_script("slurm.sbatch.j2", CONTEXT, str(tmp_path))
    assert "# ours: 16\n" in ours
    left = ours.replace("# ours: 16\n", "")
    assert left.split() == packaged.split(), "all that was not overridden is the packaged script"


def test_a_macro_file_of_the_site_is_used_by_the_packaged_template(tmp_path: Path) -> None:
    (tmp_path / "site.j2").write_text('{% extends "packaged/local.sh.j2" %}{% block launch %}true{% endblock %}')
    script = render_script("site.j2", CONTEXT, str(tmp_path))
    assert script.startswith("#!/usr/bin/env bash\n")
    assert "\ntrue\n" in script
    assert "-m submitit" not in script


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\n{% if %}\n", 2),
        ("{{ job.name \n", 1),
        ("{% block a %}\n\n", 1),
        ("\n\n{{ job.name|quote_it }}", 3),
        ("\n{{ job.nodez }}\n", 2),
        ("\n\n{{ nodes }}\n", 3),
        ("\n{{ 1 / 0 }}\n", 2),
        ("\n{{ job.nodes + job.name }}\n", 2),
        ("\n{{ job.nodes() }}\n", 2),
        ("\n{{ job.env.values().pop }}\n", 2),
    ],
    ids=["if", "open", "block", "filter", "field", "name", "zero", "types", "call", "attribute"],
)
def test_a_template_that_does_not_render_is_refused_with_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "mine.j2").write_text(text)
    with pytest.raises(TemplateError) as caught:
        render_script("mine.j2", CONTEXT, str(tmp_path))
    assert f"mine.j2:{line}: " in str(caught.value)


def test_the_file_of_an_error_is_the_one_that_holds_it(tmp_path: Path) -> None:
    (tmp_path / "outer.j2").write_text('\n\n{% include "inner.j2" %}\n')
    (tmp_path / "inner.j2").write_text("\n{% endif %}\n")
    with pytest.raises(TemplateError, match=r"inner\.j2:2: "):
        render_script("outer.j2", CONTEXT, str(tmp_path))


def test_a_template_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slurm.sbatch.j2").write_text('{% extends "base.j2" %}')
    (tmp_path / "base.j2").write_text('{% extends "slurm.sbatch.j2" %}')
    with pytest.raises(TemplateError, match=r"'slurm\.sbatch\.j2' extends or includes itself by way of another"):
        render_script("slurm.sbatch.j2", CONTEXT, str(tmp_path))


def test_a_template_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.j2").write_bytes(b"# caf\xe9\n")
    with pytest.raises(TemplateError, match=r"mine\.j2"):
        render_script("mine.j2", CONTEXT, str(tmp_path))


def rendered(folder: Path, text: str) -> str:
    (folder / "cached.j2").write_text(text)
    return render_script("cached.j2", CONTEXT, str(folder))


def test_a_changed_template_is_not_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for text in ("one\n", "two\n", "two\n"):
        assert rendered(tmp_path, text) == text
    assert len(list((tmp_path / "cache").rglob("*.cache"))) == 1


@pytest.mark.parametrize("junk", [b"", b"no byte code"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, junk: bytes) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert rendered(tmp_path, "text\n") == "text\n"
    (cached,) = (tmp_path / "cache").rglob("*.cache")
    whole = cached.read_bytes()
    cached.write_bytes(junk)
    assert rendered(tmp_path, "text\n") == "text\n"
    assert cached.read_bytes() == whole


@pytest.mark.parametrize("inside", ["a-file", "/proc/nobody"])
def test_no_room_for_a_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / inside))
    assert rendered(tmp_path, "text\n") == "text\n"


@pytest.mark.parametrize("name", ["nope.j2", "../outside.j2", "/etc/passwd", "folder", "packaged/nope.j2", "a\nb"])
def test_a_missing_template_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "templates" / "folder").mkdir(parents=True)
    (tmp_path / "outside.j2").write_text("escaped")
    with pytest.raises(TemplateError, match="no such template"):
        render_script(name, CONTEXT, str(tmp_path / "templates"))


def test_a_missing_template_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="no such template folder"):
        render_script("slurm.sbatch.j2", CONTEXT, str(tmp_path / "none"))


@pytest.mark.parametrize("name", ["plain", "naïve \"job\" 'of' $(id) & more; #1 100%", "{{ job }} {% if %}"])
def test_render_with_a_name_is_byte_for_byte_what_submit_sends(
    desk: Path, model: Path, run_cli: Cli, name: str
) -> None:
    options = [model, "--nodes", "2", "--tp", "16", "--name", name, "--job-dir", desk / "my runs"]
    rendered = run_cli("render", *options)
    assert (rendered.code, rendered.err) == (0, "")
    assert not (desk / "my runs").exists()
    dry = run_cli("submit", *options, "--dry-run")
    assert dry == rendered
    assert not (desk / "my runs").exists()
    submitted = run_cli("submit", *options)
    assert submitted.code == 0, submitted.err
    script = desk / "my runs" / name / "script.sbatch"
    assert script.read_bytes() == rendered.out.encode()
    assert (desk / "bin" / "received").read_bytes() == rendered.out.encode()
