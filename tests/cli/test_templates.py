"""vllm-hpc templates: what an admin sees of the templates, and what check finds before a job does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.real_jobs import require
from vllm_hpc.schedulers.check_templates import Checked, check_templates
from vllm_hpc.schedulers.template_folders import packaged_names
from vllm_hpc.schedulers.template_matrix import sample_cases
from vllm_hpc.spec.profile import Profile

pytestmark = pytest.mark.admins

SLURM, PBS = "slurm.sbatch.j2", "pbs.sh.j2"


def block(name: str, text: str, template: str = SLURM) -> str:
    return f'{{% extends "{template}" %}}{{% block {name} %}}{text}{{% endblock %}}'


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shellcheck, and of the sample jobs the first with each number of nodes, and the last, with odd names."""
    monkeypatch.setattr("vllm_hpc.schedulers.check_templates.shutil.which", lambda name: name == "bash" or None)

    def cases(scheduler: str, profile: Profile | None = None) -> Any:
        found = sample_cases(scheduler, profile)
        return [found[0], *[case for case in found if case.nodes > 1][:1], found[-1]]

    monkeypatch.setattr("vllm_hpc.schedulers.check_templates.sample_cases", cases)


def checked(folder: Path, text: str, template: str = SLURM, profile: Profile | None = None) -> Checked:
    (folder / template).write_text(text)
    return check_templates([str(folder)], profile)


def said(result: Checked, level: str = "fail") -> list[str]:
    return [f"{one.found}: {one.advice}" for one in result.findings if one.status == level]


@pytest.mark.parametrize("tool", ["bash", pytest.param("shellcheck", marks=pytest.mark.full)])
def test_the_packaged_templates_are_without_fault(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require(shutil.which(tool) is not None, f"not installed: {tool}")
    monkeypatch.setattr("vllm_hpc.schedulers.check_templates.shutil.which", lambda name: name == tool or None)
    result = check_templates(())
    assert (result.findings, result.is_good) == ((), True)
    assert result.templates == ("kubernetes.yaml.j2", "local.sh.j2", PBS, SLURM)
    assert result.scripts > 100


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("enviroment", "x=1", "no such block in 'slurm.sbatch.j2': 'enviroment': did you mean 'environment'?"),
        ("launch", "  srun hostname", 'block launch starts no rank: end the launcher\'s line with "${task[@]}"'),
        ("launch", '  srun hostname # "${task[@]}"', "block launch starts no rank"),
        ("launch", "", "is the block 'launch' empty?"),
        ("environment", "export PATH=/x:$PATH", "block environment has lost rank_environment, SAMPLE"),
        ("environment", "rank_environment", "block environment has lost PATH, SAMPLE"),
        ("rendezvous", "slurm_nodes", "block rendezvous has lost VLLM_HPC_HEAD, VLLM_HPC_PORT"),
        ("rendezvous", "VLLM_HPC_HEAD=x\nVLLM_HPC_PORT=1\nnodes=(x)", "lost VLLM_HPC_HEAD, VLLM_HPC_PORT: write"),
        ("rendezvous", "export VLLM_HPC_HEAD=x VLLM_HPC_PORT=1", "block rendezvous has lost nodes"),
        ("directives", "", "block directives has lost --cpus-per-task, --gpus-per-node, --job-name, --nodes"),
        ("directives", "{{ super() }}#SBATCH --nodes=3", "asks for --nodes twice (lines 6 and"),
        ("directives", "{{ super() }}#SBATCH -N 3", "asks for --nodes 3, where the job has"),
        ("directives", "{{ super() }}#SBATCH --no-requeue", "asks for --requeue twice"),
        ("directives", "{{ super() }}#SBATCH --comment='x", "is no option of the scheduler"),
        ("directives", "{{ super()|replace('--nodes=2', '--nodes=1') }}", "asks for --nodes 1, where the job has 2"),
        ("environment", "{{ super() }}\ncd {{ job.folder }}", "is a value without |sh?"),
        ("environment", "{{ super() }}\nif true", "not valid bash"),
        ("environment", "{{ super() }}\n{{ job.nodez }}", "no attribute 'nodez'"),
    ],
)  # fmt: skip
def test_what_a_block_has_lost_is_found(tmp_path: Path, name: str, text: str, message: str) -> None:
    result = checked(tmp_path, block(name, text))
    assert any(message in one for one in said(result)), said(result)
    assert not result.is_good


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("launch", '  srun --mpi=none --nodes={{ job.nodes }} "${task[@]}"'),
        ("launch", '  for node in "${!nodes[@]}"; do\n    ssh "${nodes[node]}" "${task[*]@Q} $node" &\n  done'),
        ("environment", "export A=1\n{{ super() }}"),
        ("directives", "{{ super() }}#SBATCH --reservation=x"),
        ("directives", "{{ super()|replace('--gpus-per-node=', '--gres=gpu:a100:') }}"),
    ],
)
def test_what_an_admin_may_change_is_not(tmp_path: Path, name: str, text: str) -> None:
    assert checked(tmp_path, block(name, text)).findings == ()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (block("launch", "  exec torchrun -m vllm_hpc.in_job rank x"), "a node that does not join cannot be told"),
        (
            block("directives", "{{ super()|replace('--time=1:00:00', '--time=5') }}"),
            "asks for --time 5, where the job",
        ),
        ("#!/bin/bash\n#SBATCH --comment=x\necho\n", "a whole script of its own"),
    ],
)
def test_what_may_be_meant_is_a_warning(tmp_path: Path, text: str, message: str) -> None:
    result = checked(tmp_path, text)
    assert any(message in one for one in said(result, "warn")), result.findings
    assert result.is_good


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ super() }}#PBS -l walltime=1", ": qsub takes the first, silently"),
        ("{{ super() }}#PBS -l select=9", "asks for -l select twice"),
        ("{{ super()|replace('select=', 'select=9') }}", "asks for -l select 91:"),
        ("{{ super() }}#PBS -N other", "asks for -N twice"),
        ("#PBS -N x", "block directives has lost -S, -W umask, -j, -k, -l place, -l select, -l walltime, -o, -r"),
    ],
)  # fmt: skip
def test_the_same_of_pbs(tmp_path: Path, text: str, message: str) -> None:
    result = checked(tmp_path, block("directives", text, PBS), PBS)
    assert any(message in one for one in said(result)), said(result)


@pytest.mark.usefixtures("few")
def test_what_a_profile_asks_for_over_a_template_is_meant(tmp_path: Path) -> None:
    text = block("directives", "{{ super() }}#SBATCH --comment=a --constraint=gpu\n")
    profile = Profile(scheduler="slurm", directives=("--comment=b", "--comment=c"))
    assert checked(tmp_path, text, profile=profile).findings == ()
    bad = checked(tmp_path, block("directives", "{{ super() }}#SBATCH --comment=a --comment=d"), profile=profile)
    assert [one.found.split(" (")[0] for one in bad.findings] == ["asks for --comment twice"]


@pytest.mark.usefixtures("few")
def test_shared_macros_are_tried_with_every_template(tmp_path: Path) -> None:
    result = checked(tmp_path, "{% macro runs(job) %}{% endmacro %}", "_torchrun.sh.j2")
    assert result.templates == ("kubernetes.yaml.j2", "local.sh.j2", PBS, SLURM)
    assert "'begin'" in said(result)[0]


def test_shellcheck_reads_each_body_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "shellcheck"
    tool.parent.mkdir()
    comment = [{"line": 2, "level": "error", "code": 1000, "message": "wrong"}]
    tool.write_text(f"#!/bin/sh\necho x >> {tmp_path}/calls\ncat > /dev/null\necho '{json.dumps(comment)}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    (tmp_path / "t").mkdir()
    result = checked(tmp_path / "t", block("environment", "{{ super() }}"))
    assert said(result)[0].startswith("SC1000: wrong ('# Rendered by vllm-hpc")
    assert (tmp_path / "calls").read_text().count("x") < result.scripts


def test_list_show_init_and_check(desk: Path, run_cli: Cli) -> None:
    ran = run_cli("templates", "init", "my templates", SLURM)
    assert (ran.code, ran.err) == (0, "")
    path = desk / "my templates" / SLURM
    text = path.read_text()
    again = run_cli("templates", "init", "my templates", SLURM)
    assert (again.code, path.read_text()) == (2, text)
    assert again.err == f"Error: 'my templates/{SLURM}' already exists: remove it, or name another folder\n"
    listed = json.loads(run_cli("templates", "list", "--template-dir", "my templates", "--json").out)
    (row,) = [one for one in listed["templates"] if one["name"] == SLURM]
    assert (row["scheduler"], row["files"][0], len(row["files"])) == ("slurm", f"my templates/{SLURM}", 2)
    ours = run_cli("templates", "show", SLURM)
    shown = run_cli("templates", "show", SLURM, "--template-dir", "my templates")
    assert (shown.code, shown.out) == (0, ours.out)
    source = run_cli("templates", "show", SLURM, "--source", "--template-dir", "my templates").out
    assert source.startswith(f"{{# my templates/{SLURM} #}}\n{text}")
    assert "#SBATCH --nodes={{ job.nodes }}" in source


@pytest.mark.parametrize("name", [name for name, scheduler in packaged_names().items() if scheduler])
def test_each_block_of_what_init_writes_can_be_used(desk: Path, run_cli: Cli, name: str, few: None) -> None:
    assert run_cli("templates", "init", "t", name).code == 0
    path = desk / "t" / name
    lines = [line for line in path.read_text().splitlines() if not line.startswith("{#- ") or "Extends" in line]
    path.write_text("\n".join(lines).replace("{% endblock %} -#}", "{% endblock %}"))
    ran = run_cli("templates", "check", "t")
    assert (ran.code, ran.err) == (0, ""), ran.out
    assert ran.out.startswith("ok: ")
    script = run_cli("templates", "show", name, "--template-dir", "t").out
    assert "NCCL_TOPO_FILE=/etc/nccl/topo.xml" in script
    assert "GLOO_SOCKET_IFNAME=hsn0" in script


def test_a_profiles_own_lines_are_checked_where_its_folder_has_no_template(desk: Path, run_cli: Cli, few: None) -> None:
    (desk / "t").mkdir()
    (desk / "t" / SLURM).write_text(block("launch", "  true"))
    (desk / "vllm-hpc.toml").write_text(
        '[profiles.x]\nscheduler = "pbs"\ntemplate_dir = "t"\nsetup = ["cd $no_quotes"]\nenv = { A = "$USER b" }\n'
    )
    ran = run_cli("templates", "check", "--profile", "x")
    assert (ran.code, ran.out) == (0, "ok: 3 scripts of pbs.sh.j2, read by bash (not here: shellcheck)\n")
    assert "export A=" in run_cli("templates", "show", PBS, "--profile", "x").out


def test_templates_in_a_subfolder_are_listed_shown_and_checked(desk: Path, run_cli: Cli, few: None) -> None:
    (desk / "t" / "big").mkdir(parents=True)
    (desk / "t" / "big" / "two nodes.j2").write_text(block("launch", "  true", f"packaged/{SLURM}"))
    assert "big/two nodes.j2" in run_cli("templates", "list", "--template-dir", "t").out
    assert "\n  true\n}" in run_cli("templates", "show", "big/two nodes.j2", "--template-dir", "t").out
    ran = run_cli("templates", "check", "t")
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.startswith("fail  launch      big/two nodes.j2: block launch starts no rank [")


def test_check_says_what_is_wrong_and_its_code(desk: Path, run_cli: Cli, few: None) -> None:
    (desk / "t").mkdir()
    (desk / "t" / SLURM).write_text(block("launch", "  true"))
    (desk / "t" / "slurm.sh.j2").touch()
    (desk / "vllm-hpc.toml").write_text('[profiles.x]\ntemplate_dir = "t"\nscheduler = "slurm"\ngpus_per_node = 8\n')
    for where in (["t"], ["--profile", "x"]):
        ran = run_cli("templates", "check", *where)
        assert (ran.code, ran.err) == (1, "")
        assert "\nfail  launch      slurm.sbatch.j2: block launch starts no rank [" in ran.out
        assert "warn  unused      nothing uses 'slurm.sh.j2'" in ran.out
        assert ", and 2 more]" in ran.out
        found = json.loads(run_cli("templates", "check", *where, "--json").out)
        assert (found["ok"], found["tools"]["shellcheck"]) == (False, False)
        assert {"check": "launch", "status": "fail", "where": SLURM, "scripts": 3} in [
            {key: one.get(key) for key in ("check", "status", "where", "scripts")} for one in found["findings"]
        ]


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--template-dir", "none"], ["list", "--template-dir", "file"], ["list", "--profile", "none"],
        ["list", "--template-dir", ""], ["list", "--template-dir", "a\nb"], ["show"], ["show", "none.j2"],
        ["show", "../x.j2"], ["show", "_torchrun.sh.j2"], ["show", ""], ["show", SLURM, "--nodes", "0"],
        ["show", "none.j2", "--source"], ["show", SLURM, "--template-dir", "loop"], ["init"], ["init", ""],
        ["init", "file"], ["init", "t", "../x.j2"], ["init", "t", "x"], ["init", "t", ".j2"], ["init", "t", "_x.j2"],
        ["init", "t", "a\nb.j2"], ["init", "t", SLURM, "--scheduler", "pbs"], ["init", "t", "--scheduler", "none"],
        ["check", "none"], ["check", "file"], ["check", "--profile", "none"], ["check", "t", "t"], ["none"],
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(desk: Path, run_cli: Cli, words: list[str]) -> None:
    (desk / "file").touch()
    (desk / "loop").mkdir()
    (desk / "loop" / SLURM).write_text('{% extends "x.j2" %}')
    (desk / "loop" / "x.j2").write_text(f'{{% extends "{SLURM}" %}}')
    ran = run_cli("templates", *words)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert ran.err.startswith("Error: ")
    assert not (desk / "t").exists()


@pytest.mark.usefixtures("few")
def test_hostile_files_end_in_words(desk: Path, run_cli: Cli) -> None:
    folder = desk / "odd"
    folder.mkdir()
    os.mkfifo(folder / "fifo.j2")
    (folder / "loop.j2").symlink_to("loop.j2")
    (folder / "broken.j2").symlink_to("nowhere")
    (folder / os.fsdecode(b"caf\xe9.j2")).touch()
    (folder / "binary.j2").write_bytes(b"\xff\xfe")
    (folder / "deep.j2").write_text("{% if 1 %}" * 5000 + "{% endif %}" * 5000)
    (folder / "steps.j2").write_text(
        "#!/bin/sh\n{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    )
    (folder / "outside.j2").write_text("{% extends '../../etc/passwd' %}")
    (folder / "\x1b[31mred.j2").touch()
    for words in (["list", "--template-dir", "odd"], ["check", "odd"]):
        for more in ([], ["--json"]):
            ran = run_cli("templates", *words, *more)
            assert ran.code in (0, 1)
            assert "\x1b" not in ran.out + ran.err
            assert "Traceback" not in ran.err
