"""Template folders as layers: a template that extends its own name extends that of the next folder below."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.schedulers.test_script import CONTEXT
from vllm_hpc.schedulers.find_templates import find_templates, template_files
from vllm_hpc.schedulers.script import render_script
from vllm_hpc.schedulers.template_folders import distinct_folders, unused_files
from vllm_hpc.spec.errors import TemplateError

pytestmark = pytest.mark.admins

NAME = "slurm.sbatch.j2"
OTHERS = 61_999


def layer(folder: Path, line: str, extends: str = NAME, name: str = NAME) -> str:
    folder.mkdir(exist_ok=True)
    text = f'{{% extends "{extends}" %}}{{% block environment %}}{{{{ super() }}}}\n{line}{{% endblock %}}'
    (folder / name).write_text(text)
    return str(folder)


def exports(script: str) -> list[str]:
    return re.findall(r"^export L=(\S+)$", script, re.M)


def test_three_layers_extend_one_another(tmp_path: Path) -> None:
    folders = [layer(tmp_path / f"my {name}", f"export L={name}") for name in ("option", "user", "site")]
    script = render_script(NAME, CONTEXT, *folders)
    assert exports(script) == ["site", "user", "option"]
    packaged = render_script(NAME, CONTEXT)
    assert [line for line in script.splitlines() if not line.startswith("export L=")] == packaged.splitlines()


def test_a_layer_without_the_template_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folders = [layer(tmp_path / "a", "export L=a"), str(tmp_path / "empty"), layer(tmp_path / "c", "export L=c")]
    assert exports(render_script(NAME, CONTEXT, *folders)) == ["c", "a"]


def test_packaged_stays_the_lowest(tmp_path: Path) -> None:
    folders = [layer(tmp_path / "a", "export L=a", f"packaged/{NAME}"), layer(tmp_path / "b", "export L=b")]
    assert exports(render_script(NAME, CONTEXT, *folders)) == ["a"]
    assert exports(render_script(f"packaged/{NAME}", CONTEXT, *folders)) == []


def test_macros_go_a_layer_down_too(tmp_path: Path) -> None:
    macros = '{% import "_torchrun.sh.j2" as below %}'
    names = ["runs(job)", "begin(job)", "environment(job)", "rendezvous(job, id)", "ranks(job, l)", "start(job, l)"]
    for name in names:
        said = "{{ below." + name + " }}" + (" # ours" if name.startswith("runs") else "")
        macros += f"{{% macro {name} -%}}{said}{{%- endmacro %}}\n"
    (tmp_path / "_torchrun.sh.j2").write_text(macros)
    script = render_script(NAME, CONTEXT, tmp_path)
    assert "DP 1. # ours\n" in script
    assert script.replace(" # ours", "") == render_script(NAME, CONTEXT)


@pytest.mark.parametrize("name", [f"./{NAME}", f".//{NAME}"])
def test_another_way_to_write_the_name_is_the_same(tmp_path: Path, name: str) -> None:
    assert exports(render_script(NAME, CONTEXT, layer(tmp_path / "a", "export L=a", name))) == ["a"]


def test_a_template_by_another_name_extends_the_highest(tmp_path: Path) -> None:
    folders = [layer(tmp_path / "a", "export L=a"), layer(tmp_path / "b", "export L=big", name="big.j2")]
    assert exports(render_script("big.j2", CONTEXT, *folders)) == ["a", "big"]


def test_below_the_lowest_there_is_nothing(tmp_path: Path) -> None:
    folders = [layer(tmp_path / name, "true", "own.j2", "own.j2") for name in ("a", "b")]
    with pytest.raises(TemplateError, match=r"no such template: 'own.j2' below '.*/b/own.j2', which extends it"):
        render_script("own.j2", CONTEXT, *folders)


@pytest.mark.parametrize("said", ["{% extends 'x.j2' %}", "{% include 'x.j2' %}", "{% import 'x.j2' as x %}"])
def test_a_circle_is_refused_in_one_line(tmp_path: Path, said: str) -> None:
    (tmp_path / NAME).write_text(said)
    (tmp_path / "x.j2").write_text(f'{{% extends "{NAME}" %}}')
    with pytest.raises(TemplateError, match="by way of another: extend its own name, which is the next folder's"):
        render_script(NAME, CONTEXT, tmp_path)
    (row,) = [one for one in find_templates([str(tmp_path)]) if one.name == NAME]
    assert bool(row.fault) == said.startswith("{% extends")


def test_a_circle_through_three_folders_is_refused(tmp_path: Path) -> None:
    circle = {"a": (NAME, "x.j2"), "b": ("x.j2", "y y.j2"), "c": ("y y.j2", NAME)}
    folders = [layer(tmp_path / name, "true", extends, own) for name, (own, extends) in circle.items()]
    with pytest.raises(TemplateError, match="by way of another"):
        render_script(NAME, CONTEXT, *folders)
    assert "extends itself by way of another" in next(one.fault for one in find_templates(folders) if one.name == NAME)


def test_steps_are_counted_over_all_layers(tmp_path: Path) -> None:
    loop = "{% for i in range(90000) %}{% endfor %}true"
    folders = [layer(tmp_path / name, loop) for name in ("a", "b", "c")]
    assert render_script(NAME, CONTEXT, *folders)
    folders.append(layer(tmp_path / "d", loop))
    with pytest.raises(TemplateError, match="more than 300,000 steps"):
        render_script(NAME, CONTEXT, *folders)


def test_a_misspelt_block_is_found_in_every_layer(tmp_path: Path) -> None:
    folders = [layer(tmp_path / name, "export L=1") for name in ("a", "b", "c")]
    (tmp_path / "c" / NAME).write_text(f'{{% extends "{NAME}" %}}\n{{% block enviroment %}}{{% endblock %}}')
    with pytest.raises(TemplateError, match=r"/c/slurm.sbatch.j2:2: no such block in 'slurm.sbatch.j2': 'enviroment'"):
        render_script(NAME, CONTEXT, *folders)


@pytest.mark.parametrize("which", ["a", "b", "c"])
def test_what_others_can_write_is_refused_in_every_layer(tmp_path: Path, which: str) -> None:
    folders = [layer(tmp_path / name, "export L=1") for name in ("a", "b", "c")]
    (tmp_path / which / NAME).chmod(0o666)
    with pytest.raises(TemplateError, match=f"others can write to '.*/{which}/{NAME}'"):
        render_script(NAME, CONTEXT, *folders)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file of another user needs root")
def test_another_users_template_or_link_is_refused_below(tmp_path: Path) -> None:
    folders = [layer(tmp_path / name, "export L=1") for name in ("a", "b")]
    os.chown(tmp_path / "b" / NAME, OTHERS, OTHERS)
    with pytest.raises(TemplateError, match="belongs to another user"):
        render_script(NAME, CONTEXT, *folders)
    (tmp_path / "b" / NAME).rename(tmp_path / "own")
    os.chown(tmp_path / "own", 0, 0)
    (tmp_path / "b" / NAME).symlink_to(tmp_path / "own")
    assert exports(render_script(NAME, CONTEXT, *folders)) == ["1", "1"]
    os.chown(tmp_path / "b" / NAME, OTHERS, OTHERS, follow_symlinks=False)
    with pytest.raises(TemplateError, match=r"the link .* belongs to another user"):
        render_script(NAME, CONTEXT, *folders)


def test_a_folder_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    folder = layer(tmp_path / "a", "export L=a")
    (tmp_path / "link").symlink_to("a")
    folders = distinct_folders([str(tmp_path / "link"), folder, folder + "/"])
    assert folders == (str(tmp_path / "link"),)
    assert exports(render_script(NAME, CONTEXT, *folders)) == ["a"]
    assert distinct_folders([]) == ()


def test_the_files_of_a_template_are_told_from_the_top(tmp_path: Path) -> None:
    folders = [layer(tmp_path / name, f"export L={name}") for name in ("a", "b")]
    found = [file for file, _ in template_files(NAME, folders)]
    assert found[:2] == [f"{tmp_path}/a/{NAME}", f"{tmp_path}/b/{NAME}"]
    assert len(found) == 3


def test_the_profiles_template_lies_below_the_options(desk: Path, model: Path, run_cli: Cli) -> None:
    layer(desk / "of option", "export L=option")
    layer(desk / "of profile", "export L=profile")
    (desk / "vllm-hpc.toml").write_text('[profiles.x]\ntemplate_dir = "of profile"\n')
    ran = run_cli("render", model, "--scheduler", "slurm", "--profile", "x", "--template-dir", "of option")
    assert (ran.code, exports(ran.out)) == (0, ["profile", "option"])
    assert exports(run_cli("render", model, "--scheduler", "slurm", "--profile", "x").out) == ["profile"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("slurm.sh.j2", "", r"is 'slurm.sh.j2' meant to be 'slurm.sbatch.j2'\?"),
        ("my launch", "", "a job's template is kubernetes.yaml.j2, local.sh.j2, pbs.sh.j2, slurm.sbatch.j2, or what"),
        ("slurm.sbatch.j2~", "", "meant to be"),
        ("README.md", "", None), (".hidden", "", None), ("_torchrun.sh.j2", "", None), ("pbs.sh.j2", "", None),
        ("part.j2", "{% include 'part.j2' %}", None), ("part.j2", "{% import './part.j2' as x %}", None),
        ("part.j2", "{% include ['no.j2', 'part.j2'] %}", None), ("part.j2", "{% include job.name %}", None),
        ("part.j2", "{# {% include 'part.j2' %} #}", "'part.j2' in the template folder"),
    ],
)  # fmt: skip
def test_a_file_that_nothing_uses_is_said(tmp_path: Path, name: str, text: str, said: str | None) -> None:
    (tmp_path / NAME).write_text(text)
    (tmp_path / name).touch()
    found = unused_files([str(tmp_path)])
    assert (found == []) if said is None else re.search(said, found[0])
    assert unused_files([str(tmp_path)], name) == []


def test_render_and_submit_say_it(desk: Path, model: Path, run_cli: Cli) -> None:
    layer(desk / "t", "true")
    (desk / "t" / "slurm.sh.j2").touch()
    (desk / "t" / "alternates").mkdir()
    layer(desk / "t" / "alternates", "true", name="big.j2")
    note = "Note: nothing uses 'slurm.sh.j2' in the template folder 't': is 'slurm.sh.j2' meant to be"
    for command in ("render", "submit"):
        ran = run_cli(command, model, "--scheduler", "slurm", "--template-dir", "t", "--name", "x")
        assert ran.code == 0, ran.err
        *samples, of_template = ran.err.splitlines()
        assert samples == ["Note: without --input, two sample prompts are run"] * (command == "submit")
        assert of_template.startswith(note)
    ran = run_cli("render", model, "--scheduler", "slurm", "--template-dir", "t", "--template", "alternates/big.j2")
    assert ran.code == 0


def test_a_templates_name_may_have_spaces(desk: Path, model: Path, run_cli: Cli) -> None:
    layer(desk / "my templates", "export L=1", name="it's my own.j2")
    words = ["--scheduler", "slurm", "--template-dir", "my templates", "--template", "it's my own.j2"]
    ran = run_cli("render", model, *words)
    assert (ran.code, ran.err, exports(ran.out)) == (0, "", ["1"])


def test_a_folder_that_cannot_be_listed_is_searched(tmp_path: Path) -> None:
    assert unused_files([str(tmp_path / "none")]) == []


def test_a_script_of_ours_alone_is_read_by_bash_too(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_hpc.schedulers.template_checks.find_fault", lambda script: "line 1: a fault")
    ran = run_cli("submit", model, "--scheduler", "slurm")
    assert (ran.code, ran.out) == (2, "")
    assert "makes a script that is not valid bash: line 1 of the script" in ran.err
    assert not (desk / "runs").exists()
