"""`profiles list`, `show` and `check`: layers of files together, where each value is from, and what is wrong."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.cli.test_profiles_init import CLIENTS
from tests.conftest import Cli
from vllm_hpc.spec.profile_layers import load_profile

pytestmark = pytest.mark.admins

SITE = """\
[profiles.borealis]
description = "Borealis"
scheduler = "slurm"
setup = ["module load cuda"]
env = { NCCL_DEBUG = "WARN", A = "site" }

[profiles.borealis.queues.h100]
min_nodes = 2
max_nodes = 10
max_time = "12:00:00"
gpus_per_node = 8
gpu_type = "h100"

[profiles.borealis.queues.l40s]
gpus_per_node = 4
max_nodes = 4
"""
USER = """\
[profiles.borealis]
account = "pi_kim"
setup = ["+", "module load vllm"]
"""
PROJECT = """\
[profiles.borealis]
required = ["account", "time"]
[profiles.borealis.env]
A = "project"
[profiles.borealis.queues.h100]
max_nodes = 4
[profiles.other]
extends = "borealis"
qos = "high"
[profiles.lone]
scheduler = "local"
"""


@pytest.fixture
def site(desk: Path) -> Path:
    """A site's file, the user's and the project's, on a machine with the recorded Slurm."""
    files = {"../site": SITE, "config": USER}
    for folder, text in files.items():
        path = desk / folder / "vllm-hpc" / "config.toml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (desk / "vllm-hpc.toml").write_text(PROJECT)
    for name, line in CLIENTS.items():
        client = desk / "bin" / name
        client.write_text(f"#!/bin/sh\n{line}\n")
        client.chmod(0o755)
    return desk


def add(desk: Path, text: str) -> None:
    path = desk / "vllm-hpc.toml"
    path.write_text(path.read_text() + text)


def test_list_says_of_which_files_each_profile_is(site: Path, run_cli: Cli) -> None:
    listed = run_cli("profiles", "list")
    assert (listed.code, listed.err) == (0, "")
    own = listed.out.splitlines()[:3]
    site_file = site.parent / "site/vllm-hpc/config.toml"
    layers = f"./vllm-hpc.toml over ./config/vllm-hpc/config.toml over {site_file}"
    assert own[0].endswith(f"Borealis  [{layers}]")
    assert own[2].split() == ["lone", "(no", "description)", "[./vllm-hpc.toml]"]
    rows = json.loads(run_cli("profiles", "list", "--json").out)
    assert [row["name"] for row in rows][:3] == ["borealis", "other", "lone"]
    assert rows[1]["files"][0] == "./vllm-hpc.toml" and rows[1]["files"][1].endswith("[borealis]")


def test_list_goes_on_after_a_profile_that_is_broken(site: Path, run_cli: Cli) -> None:
    add(site, "[profiles.bad]\nnodez = 1\n")
    listed = run_cli("profiles", "list")
    assert listed.code == 0
    assert "broken: " in listed.out and "unknown key 'nodez'" in listed.out
    rows = json.loads(run_cli("profiles", "list", "--json").out)
    assert [bool(row.get("fault")) for row in rows if not row["name"].startswith("site/")] == [
        False,
        False,
        False,
        True,
    ]


def test_show_prints_what_gives_the_same_profile_by_itself(
    site: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("borealis", "other"):
        for origin in ([], ["--origin"]):
            shown = run_cli("profiles", "show", name, *origin)
            assert (shown.code, shown.err) == (0, "")
            before = load_profile(name)
            alone = site / "alone"
            alone.mkdir(exist_ok=True)
            (alone / "vllm-hpc.toml").write_text(shown.out)
            with monkeypatch.context() as patch:
                patch.chdir(alone)
                patch.setenv("XDG_CONFIG_HOME", str(alone))
                patch.setenv("XDG_CONFIG_DIRS", str(alone))
                assert load_profile(name) == before


def test_origin_names_file_and_line_of_each_value(site: Path, run_cli: Cli) -> None:
    shown = run_cli("profiles", "show", "borealis", "--origin").out
    site_file = site.parent / "site/vllm-hpc/config.toml"
    places = {line.split(" = ")[0]: line.rpartition("# ")[2] for line in shown.splitlines() if " = " in line}
    assert places["account"] == "./config/vllm-hpc/config.toml:2"
    assert places["setup"] == f"{site_file}:4, ./config/vllm-hpc/config.toml:3", "the list is of both"
    assert places["required"] == "./vllm-hpc.toml:2"
    assert places["A"] == "./vllm-hpc.toml:4"
    assert places["NCCL_DEBUG"] == f"{site_file}:5"
    assert places["max_time"] == f"{site_file}:10"
    assert places["# cpu_bind"] == "the default"
    assert tomllib.loads(shown)["profiles"]["borealis"]["queues"]["h100"]["max_nodes"] == 4
    assert "# each job must give: time" in shown


def test_a_profile_that_extends_another_shows_whose_values_they_are(site: Path, run_cli: Cli) -> None:
    shown = run_cli("profiles", "show", "other", "--origin").out
    assert shown.splitlines()[0].startswith("# files, the highest first: ./vllm-hpc.toml; ./vllm-hpc.toml [borealis]; ")
    assert 'qos = "high"' in shown and "extends =" not in shown
    assert "# ./config/vllm-hpc/config.toml:2" in shown


def test_a_folder_with_commas_in_its_name(site: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = site / "a, b: c"
    odd.mkdir()
    (odd / "vllm-hpc.toml").write_text(
        PROJECT.replace("[profiles.borealis]", '[profiles.borealis]\nsetup = ["+", "x"]', 1)
    )
    monkeypatch.chdir(odd)
    shown = json.loads(run_cli("profiles", "show", "borealis", "--json").out)
    site_file, user_file = site.parent / "site/vllm-hpc/config.toml", site / "config/vllm-hpc/config.toml"
    assert shown["origins"]["setup"] == f"{site_file}:4, {user_file}:3, ./vllm-hpc.toml:2"


def test_show_json_has_values_and_origins_of_one_shape(site: Path, run_cli: Cli) -> None:
    shown = json.loads(run_cli("profiles", "show", "borealis", "--json").out)

    def shape(value: object) -> object:
        return {name: shape(one) for name, one in value.items()} if isinstance(value, dict) else None

    assert shape(shown["profile"]) == shape(shown["origins"])
    assert shown["origins"]["env"]["A"] == "./vllm-hpc.toml:4"
    assert (shown["missing"], shown["unused"]) == (["time"], [])


def test_the_gallery_is_called_so(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = desk / "sites"
    folder.mkdir()
    (folder / "moon.toml").write_text('[profiles."site/moon"]\ndescription = "Moon"\nscheduler = "pbs"\n')
    for module in ("config_files", "profile_files", "show_profile"):
        monkeypatch.setattr(f"vllm_hpc.spec.{module}.gallery_files", lambda: [folder / "moon.toml"])
    monkeypatch.setattr("vllm_hpc.spec.profile_files.gallery_file", lambda name: folder / "moon.toml")
    (desk / "vllm-hpc.toml").write_text('[profiles.mine]\nextends = "site/moon"\ngpu_type = "x"\n')
    assert "site/moon  Moon  [gallery (moon.toml)]" in run_cli("profiles", "list").out
    shown = run_cli("profiles", "show", "mine", "--origin").out
    assert "# gallery (moon.toml:3)" in shown
    assert "# files, the highest first: ./vllm-hpc.toml; gallery (moon.toml) [site/moon]" in shown
    assert "# not used by pbs: gpu_type" in shown


def checked(run_cli: Cli, *args: str) -> dict[str, list[str]]:
    """What `profiles check` finds, as "status check: found", by profile."""
    found: dict[str, list[dict[str, str]]] = json.loads(run_cli("profiles", "check", *args, "--json").out)
    return {name: [f"{one['status']} {one['check']}: {one['found']}" for one in all] for name, all in found.items()}


def test_check_passes_what_fits_the_cluster(site: Path, run_cli: Cli) -> None:
    done = run_cli("profiles", "check", "borealis")
    assert (done.code, done.err) == (0, ""), done.out
    assert "ok    cluster    Slurm 22.05.8 of borealis has the partitions" in done.out
    assert "with these limits, GPUs, cores and memory\n" in done.out
    assert "ok    script     2 rehearsals can be submitted, says sbatch --test-only\n" in done.out
    assert list(checked(run_cli)) == ["borealis", "other", "lone"], "without NAME all, but for the gallery"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[profiles.x]\nscheduler = "slurm"\npartition = "nope"\n', "fail cluster: queue nope: there is no partition"),
        ('[profiles.x.queues.nope]\n[profiles.x]\nscheduler = "slurm"\n', "fail cluster: queue nope: there is no"),
        (
            '[profiles.x]\nscheduler = "slurm"\nqueues.l40s = { max_nodes = 99, gpus_per_node = 4 }\n',
            "warn cluster: queue l40s: max_nodes is 99, and the cluster's is 4",
        ),
        (
            '[profiles.x]\nscheduler = "slurm"\ngpus_per_node = 8\nqueues.h100 = { max_time = "2-00:00:00" }\n',
            "warn cluster: queue h100: max_time is 2-00:00:00, and the cluster's is 12:00:00",
        ),
        (
            '[profiles.x]\nscheduler = "slurm"\nqueues.l40s = { gpus_per_node = 4, gpu_type = "a100" }\n',
            "fail cluster: queue l40s: gpu_type is a100, and the cluster has nvidia_l40s",
        ),
        *(
            (
                f'[profiles.x]\nscheduler = "slurm"\ngpus_per_node = 4\nqueues.l40s = {{ {text} }}\n',
                f"warn cluster: queue l40s: {said}",
            )
            for text, said in (
                ("cpus_per_node = 256", "cpus_per_node is 256, and the cluster's is 32"),
                ('mem_per_node = "3T"', "mem_per_node is 3T, and the cluster's is 256000M"),
                ('mem = "256001M"', "mem is 256001M, and the cluster's is 256000M"),
                ("cpus_per_rank = 9", "cpus_per_rank is 9, which nodes with 32 cores do not have for 4 GPUs"),
                ('mem_per_gpu = "300G"', "mem_per_gpu is 300G, which nodes with 256000M do not have for 4 GPUs"),
            )
        ),
        (
            '[profiles.x]\nscheduler = "slurm"\ngpus_per_node = 4\npartition = "l40s"\ncpus_per_node = 256\n',
            "warn cluster: queue l40s: cpus_per_node is 256",
        ),
        ('[profiles.x]\nscheduler = "slurm"\nqueues.old = {}\n', "warn cluster: queue old: its State is DOWN"),
        ('[profiles.x]\nscheduler = "pbs"\nqueues.prod = {}\n', "skip cluster: the clients of pbs are not here"),
        ('[profiles.x]\nscheduler = "slurm"\nchunk = ["a=b"]\n', "warn keys: slurm does not use: chunk"),
        (
            '[profiles.x]\nscheduler = "pbs"\nqueues.p = { gpu_type = "x" }\n',
            "warn keys: pbs does not use: queues.p.gpu_type",
        ),
        ("[profiles.x]\nnodez = 1\n", "fail files: "),
        ('[profiles.x]\nextends = "site/none"\n', "fail files: "),
        ('[profiles.x]\nextends = "x"\n', "fail files: "),
        ('[profiles.x]\ntemplate_dir = "gone"\n', "fail files: "),
        ('[profiles.x]\naccount = "$NOT_SET_HERE"\n', "fail variables: "),
        ('[profiles.x]\nscheduler = "local"\ncontainer = { image = "/no/such.sif" }\n', "fail container: there is no"),
        ('[profiles.x]\nscheduler = "local"\nrequired = ["python"]\n', "skip script: only jobs give: python"),
        (
            '[profiles.x]\nscheduler = "slurm"\nqueues.l40s = { gpus_per_node = 4, by_request = true }\n',
            "warn queues: all have by_request",
        ),
        (
            '[profiles.x]\nscheduler = "slurm"\ntime = "90"\ngpus_per_node = 4\nqueues.l40s = { max_time = "60" }\n',
            "fail script: queue l40s: ",
        ),
    ],
)
def test_check_finds(site: Path, run_cli: Cli, text: str, fault: str) -> None:
    add(site, text)
    found = checked(run_cli, "x")["x"]
    assert any(one.startswith(fault) for one in found), found
    assert run_cli("profiles", "check", "x").code == (1 if any(one.startswith("fail") for one in found) else 0)


# A cluster whose default partition has no GPUs: it takes jobs of two partitions, without odd options.
TEST_ONLY = """#!/bin/sh
case "$*" in *--test-only*) for script; do :; done ;; *) echo slurm 22.05.8; exit ;; esac
echo "$*" >> calls
if grep -q bogus "$script"; then echo "sbatch: unrecognized option '--bogus=zzz'" >&2; exit 1; fi
grep -qE '^#SBATCH --partition=(h100|l40s)$' "$script" && exit
echo 'sbatch: error: allocation failure: Requested node configuration is not available' >&2
exit 1
"""
QUEUES = '[profiles.x]\nscheduler = "slurm"\ngpus_per_node = 4\n[profiles.x.queues]\nl40s = {}\nh100 = {}\n'


@pytest.fixture
def trying(site: Path) -> Path:
    """The site, whose sbatch --test-only refuses scripts."""
    (site / "bin" / "sbatch").write_text(TEST_ONLY)
    return site


def test_each_queues_script_is_tried_with_sbatch(trying: Path, run_cli: Cli) -> None:
    add(trying, QUEUES)
    assert "ok script: 2 rehearsals can be submitted, says sbatch --test-only" in checked(run_cli, "x")["x"]
    assert (trying / "calls").read_text().count("--test-only") == 2


def test_what_sbatch_refuses_fails_with_its_words(trying: Path, run_cli: Cli) -> None:
    add(trying, QUEUES.replace("h100 = {}", 'h100 = { directives = ["--bogus=zzz"] }'))
    done = run_cli("profiles", "check", "x")
    assert done.code == 1
    assert "fail  script     queue h100: sbatch --test-only refuses the script: unrecognized option" in done.out
    assert " -> sbatch does not take that option" in done.out
    assert "ok    script     1 rehearsal can be submitted" in done.out
    assert str(trying) not in done.out and "/tmp" not in done.out


def test_a_queue_by_request_may_be_others(trying: Path, run_cli: Cli) -> None:
    add(trying, QUEUES.replace("h100 = {}", "debug = { by_request = true }"))
    found = checked(run_cli, "x")["x"]
    assert any(one.startswith("warn script: queue debug: sbatch --test-only refuses") for one in found), found


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ('required = ["account"]', "2 scripts render, none was tried with the scheduler: only jobs give: account"),
        ('required = ["account", "qos"]\naccount = "a"', "none was tried with the scheduler: only jobs give: qos"),
    ],
)
def test_without_an_account_sbatch_is_not_asked(trying: Path, run_cli: Cli, change: str, why: str) -> None:
    add(trying, QUEUES.replace("gpus_per_node = 4", f"gpus_per_node = 4\n{change}"))
    found = checked(run_cli, "x")["x"]
    assert any(one.startswith("ok script: ") and one.endswith(why) for one in found), found
    assert not (trying / "calls").exists()
    add(trying, '[profiles.y]\nextends = "x"\naccount = "mine"\nqos = "q"\n')
    assert "ok script: 2 rehearsals can be submitted, says sbatch --test-only" in checked(run_cli, "y")["y"]


def test_an_sbatch_that_does_not_answer_is_said(trying: Path, run_cli: Cli) -> None:
    (trying / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: connection reset by peer' >&2\nexit 1\n")
    add(trying, QUEUES)
    found = checked(run_cli, "x")["x"]
    assert any("2 scripts render, none was tried with the scheduler: sbatch got no answer" in one for one in found), (
        found
    )


def test_a_template_that_cannot_be_rendered_is_found(site: Path, run_cli: Cli) -> None:
    (site / "templates").mkdir()
    (site / "templates" / "slurm.sbatch.j2").write_text(
        "{% extends 'packaged/slurm.sbatch.j2' %}{% block launch %}{{ x.y }}{% endblock %}"
    )
    add(site, '[profiles.x]\nscheduler = "slurm"\ntemplate_dir = "templates"\ngpus_per_node = 4\n')
    found = checked(run_cli, "x")["x"]
    assert any(one.startswith("fail script: ") and "slurm.sbatch.j2" in one for one in found), found
    assert any(one.startswith("fail templates: ") for one in found), found


def test_templates_are_tried_with_all_kinds_of_jobs(site: Path, run_cli: Cli) -> None:
    (site / "templates").mkdir()
    template = site / "templates" / "slurm.sbatch.j2"
    template.write_text('{% extends "packaged/slurm.sbatch.j2" %}{% block enviroment %}x{% endblock %}')
    add(site, '[profiles.x]\nscheduler = "slurm"\ntemplate_dir = "templates"\ngpus_per_node = 4\n')
    found = checked(run_cli, "x")["x"]
    assert any("enviroment" in one for one in found if "templates: " in one), found
    template.write_text('{% extends "packaged/slurm.sbatch.j2" %}')
    assert any(one.startswith("ok templates: ") for one in checked(run_cli, "x")["x"])


def test_check_writes_and_submits_nothing(site: Path, run_cli: Cli) -> None:
    before = sorted(site.rglob("*"))
    run_cli("profiles", "check")
    assert sorted(site.rglob("*")) == before


@pytest.mark.parametrize("command", ["show", "check"])
@pytest.mark.parametrize("name", ["nope", "site/nope", "", "a b", "../x", "\x1b[2J", "x" * 5000, "$(id)", "é"])
def test_an_unknown_profile_is_refused_in_one_line(site: Path, run_cli: Cli, command: str, name: str) -> None:
    refused = run_cli("profiles", command, name)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("Error: no profile ") and refused.err.count("\n") == 1
    assert "\x1b" not in refused.err and len(refused.err) < 2000


def test_without_any_profile_list_is_the_gallery_and_check_says_so(desk: Path, run_cli: Cli) -> None:
    assert run_cli("profiles", "list").code == 0
    refused = run_cli("profiles", "check")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "write one with 'vllm-hpc profiles init'" in refused.err


@pytest.mark.parametrize("text", ["[profiles", "x = 1\n", "profiles = 3\n", "\x00", "[profiles]\nx = 3\n"])
def test_a_file_that_cannot_be_read_is_told_of(desk: Path, run_cli: Cli, text: str) -> None:
    (desk / "vllm-hpc.toml").write_text(text)
    for command in ("list", "check"):
        said = run_cli("profiles", command)
        assert said.code in (0, 1, 2) and "Traceback" not in said.err + said.out
        assert "vllm-hpc.toml" in said.err + said.out


def test_what_others_can_write_is_not_obeyed(site: Path, run_cli: Cli) -> None:
    (site / "vllm-hpc.toml").chmod(0o666)
    for command in (["list"], ["show", "borealis"], ["check"]):
        refused = run_cli("profiles", *command)
        assert refused.code == 2 and "others can write to" in refused.err


def test_values_with_escapes_do_not_reach_a_terminal(site: Path, run_cli: Cli) -> None:
    add(site, '[profiles.x]\nscheduler = "local"\nsampling = { stop = "a\\u001b[2Jb\\u202e" }\n')
    for command in (["list"], ["show", "x"], ["show", "x", "--json"]):
        said = run_cli("profiles", *command)
        assert said.code == 0 and "\x1b" not in said.out and "\u202e" not in said.out
