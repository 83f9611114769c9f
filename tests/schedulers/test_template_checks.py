"""Mistakes in a site's own templates that Jinja lets pass: refused where the job is made, not found out in a queue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.schedulers.test_script import CONTEXT
from vllm_hpc.schedulers.script import render_script
from vllm_hpc.spec.bash_syntax import find_fault
from vllm_hpc.spec.errors import TemplateError

EXTENDS = '{% extends "packaged/slurm.sbatch.j2" %}\n'
OWN_BLOCK = "{% block launch %}{% block inner %}  true{% endblock %}{% endblock %}"


def render(folder: Path, text: str, name: str = "site.j2") -> str:
    (folder / name).write_text(text)
    return render_script(name, CONTEXT, str(folder))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% block enviroment %}x=1{% endblock %}", ":2: no such block .*: 'enviroment': did you mean 'environment'?"),
        ("\n{% block Launch %}x=1{% endblock %}", ":3: no such block .*: 'Launch': did you mean 'launch'?"),
        ("{% block prolog %}x=1{% endblock %}", "its blocks are directives, environment, rendezvous, launch"),
        ("{% if job.dp %}{% block setup %}x=1{% endblock %}{% endif %}", "no such block"),
        ("{% for _ in [1] %}{% block setup %}x=1{% endblock %}{% endfor %}", "no such block"),
        ("{% block launch %}  true{% endblock %}{% block prolog scoped %}x=1{% endblock %}", "'prolog'"),
        ("# ours\nexport A=1\n", ":3: text outside of blocks"),
        ("{{ job.name }}\n", ":2: text outside of blocks"),
        ("{% block launch %}  true{% endblock %}\n\n\nsrun hostname", ":5: text outside of blocks"),
    ],
)
def test_what_extending_would_lose_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TemplateError, match=re.escape("site.j2") + ".*" + said):
        render(tmp_path, EXTENDS + text)


@pytest.mark.parametrize(
    "text",
    [
        EXTENDS + "# a comment of the site's\n\n  # another\n{# one of Jinja's #}\n",
        EXTENDS + "{% set gpus = job.tp %}{% block launch %}  true {{ gpus }}{% endblock %}",
        EXTENDS + '{% import "packaged/_torchrun.sh.j2" as shared %}{% macro m() %}x{% endmacro %}',
        EXTENDS + OWN_BLOCK,
        '{% set base = "slurm.sbatch.j2" %}{% extends "packaged/" ~ base %}{% block nowhere %}{% endblock %}',
        '{% if job.tp %}{% extends "packaged/slurm.sbatch.j2" %}{% endif %}{% block nowhere %}{% endblock %}',
        "#!/bin/bash\n{% block mine %}true{% endblock %}\nsrun hostname\n",
    ],
)
def test_what_is_meant_is_not(tmp_path: Path, text: str) -> None:
    assert render(tmp_path, text)


def test_a_template_over_a_template_may_use_the_blocks_of_both(tmp_path: Path) -> None:
    (tmp_path / "base.j2").write_text(EXTENDS + OWN_BLOCK)
    over = '{% extends "base.j2" %}{% block inner %}  hostname{% endblock %}{% block environment %}x=1{% endblock %}'
    assert "  hostname\n" in render(tmp_path, over)
    (tmp_path / "base.j2").write_text(EXTENDS + "{% block prolog %}{% endblock %}")
    with pytest.raises(TemplateError, match=r"base\.j2:2: no such block .*'prolog'"):
        render(tmp_path, '{% extends "base.j2" %}')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (EXTENDS + "{% block launch %}  if then torchrun{% endblock %}", r"\('if then torchrun'\): syntax error"),
        (EXTENDS + "{% block launch %}{% endblock %}", r"\('}'\): .*: is the block 'launch' empty\?"),
        (EXTENDS + "{% block launch %}  # later\n{% endblock %}", "is the block 'launch' empty"),
        (EXTENDS + "{% block environment %}cat <<X\n{% endblock %}", "here-document"),
        (EXTENDS + "{% block environment %}export A='b\n{% endblock %}", "unexpected EOF|unexpected end of file"),
        (EXTENDS + "{% block rendezvous %}{{ super() }}\nfi\n{% endblock %}", r"line \d+ of the script \('fi'\)"),
        ("#!/bin/sh\nfor x in 1 2; done\n", "line 2 of the script"),
        ("#!/bin/bash -l\n(true\n", "unexpected end of file"),
        ("echo )\n", "unexpected token"),
    ],
)
def test_a_script_that_bash_cannot_parse_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TemplateError, match=f"template 'site.j2' makes a script that is not valid bash: .*{said}"):
        render(tmp_path, text)


@pytest.mark.parametrize("shebang", ["#!/usr/bin/env python3", "#!/bin/csh", "#!/usr/bin/zsh", "#!/bin/ksh"])
def test_another_shells_script_is_left_to_it(tmp_path: Path, shebang: str) -> None:
    assert render(tmp_path, f"{shebang}\nif then ( fi\n")


def test_a_macro_file_of_the_sites_is_checked_where_the_packaged_template_uses_it(tmp_path: Path) -> None:
    (tmp_path / "_torchrun.sh.j2").write_text(
        '{% import "packaged/_torchrun.sh.j2" as packaged %}'
        "{% macro runs(job) %}{% endmacro %}{% macro begin(job) %}if{% endmacro %}"
        "{% macro environment(job) %}{% endmacro %}{% macro rendezvous(job, id) %}{% endmacro %}"
        "{% macro ranks(job, launcher) %}{% endmacro %}{% macro start(job, launcher) %}true{% endmacro %}"
    )
    with pytest.raises(TemplateError, match="not valid bash"):
        render_script("slurm.sbatch.j2", CONTEXT, str(tmp_path))


def test_without_bash_it_is_left_to_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_fault("if then") is None


@pytest.mark.parametrize("code", ["echo 'é \udcff'", "# " + "x" * 300_000, "echo a\0b", ""])
def test_any_text_can_be_asked_about(code: str) -> None:
    assert find_fault(code) is None


def test_render_and_submit_refuse_it_before_anything_is_made(desk: Path, model: Path, run_cli: Cli) -> None:
    (desk / "site").mkdir()
    (desk / "site" / "slurm.sbatch.j2").write_text(EXTENDS + "{% block launch %}{% endblock %}")
    for command in ("render", "submit"):
        ran = run_cli(command, "model", "--template-dir", "site")
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert ran.err.startswith("Error: template 'slurm.sbatch.j2' makes a script that is not valid bash: line ")
    assert not (desk / "runs").exists()
