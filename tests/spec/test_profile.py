"""Profiles: where they are looked for, what they may hold, and how a wrong one is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import Cli
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.spec.errors import ProfileError, RefusedError
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.profile_layers import load_profile


def write_project(desk: Path, text: str) -> Path:
    path = desk / "vllm-hpc.toml"
    path.write_text(text, encoding="utf-8")
    return path


def write_user(desk: Path, text: str) -> Path:
    path = desk / "config" / "vllm-hpc" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_no_name_is_an_empty_profile(desk: Path) -> None:
    write_project(desk, "not even TOML")
    assert load_profile(None) == Profile()


def test_the_project_comes_before_the_user(desk: Path) -> None:
    write_project(desk, '[profiles.big]\npartition = "project"\n')
    write_user(desk, '[profiles.big]\npartition = "user"\nqos = "user"\n[profiles.small]\npartition = "user"\n')
    assert load_profile("big") == Profile(partition="project", qos="user"), "key by key"
    assert load_profile("small") == Profile(partition="user")


def test_the_user_file_follows_home_where_xdg_is_unset(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = desk / "home" / ".config" / "vllm-hpc" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[profiles.mine]\nqos = "q"\n')
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(desk / "home"))
    assert load_profile("mine").qos == "q"


def test_the_sites_files_come_last(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the XDG specification has it: a list of folders, the first one first, relative ones passed over."""
    folders = [desk / "module", desk / "etc"]
    monkeypatch.setenv("XDG_CONFIG_DIRS", ":".join(["relative", *map(str, folders)]))
    for folder, names in zip([desk / "relative", *folders], (["lost"], ["all"], ["all", "site"]), strict=True):
        (folder / "vllm-hpc").mkdir(parents=True)
        tables = "".join(f'[profiles.{name}]\nqos = "{folder.name}"\ntemplate_dir = "."\n' for name in names)
        (folder / "vllm-hpc/config.toml").write_text(tables)
    write_user(desk, '[profiles.site]\nqos = "user"\n')
    assert load_profile("all").qos == "module"
    assert load_profile("all").template_dir == str(desk / "module/vllm-hpc")
    assert load_profile("site").qos == "user"
    with pytest.raises(ProfileError, match=r"no profile 'lost' in .*etc/vllm-hpc/config\.toml: known: all, site$"):
        load_profile("lost")
    monkeypatch.delenv("XDG_CONFIG_DIRS")
    with pytest.raises(ProfileError, match=r"or /etc/xdg/vllm-hpc/config\.toml: known: site$"):
        load_profile("all")


def test_a_file_that_cannot_be_read_is_named(desk: Path) -> None:
    (desk / "vllm-hpc.toml").symlink_to("vllm-hpc.toml")
    with pytest.raises(ProfileError, match=r"vllm-hpc\.toml: cannot be read: Too many levels"):
        load_profile("any")


def test_what_is_no_file_is_not_waited_for(desk: Path) -> None:
    os.mkfifo(desk / "vllm-hpc.toml")
    with pytest.raises(ProfileError, match=r"vllm-hpc\.toml: cannot be read: it must be a regular file"):
        load_profile("any")


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_other_files_are_read(desk: Path) -> None:
    write_project(desk, '[profiles.mine]\nqos = "q"\n')
    assert load_profile("mine").qos == "q"
    with pytest.raises(ProfileError, match=r"known: mine$"):
        load_profile("other")


def test_what_editors_put_first_is_passed_over(desk: Path) -> None:
    (desk / "vllm-hpc.toml").write_text('[profiles.mine]\nqos = "q"\n', encoding="utf-8-sig")
    assert load_profile("mine").qos == "q"


def test_a_number_that_no_program_reads_is_refused_with_its_file(desk: Path, run_cli: Cli) -> None:
    huge = "9" * 5000
    write_project(desk, f"[profiles.mine]\ncpus_per_rank = {huge}\n")
    (desk / "job").mkdir()
    (desk / "job/job.toml").write_text(f'model = "demo"\nseed = {huge}\n')
    for words in (["plan", "demo", "--profile", "mine"], ["submit", "job"]):
        outcome = run_cli(*words)
        assert (outcome.code, outcome.out) == (2, "")
        assert ".toml: not valid TOML: Exceeds the limit" in outcome.err
        assert len(outcome.err.splitlines()) == 1


def test_many_profiles_are_not_all_listed(desk: Path) -> None:
    write_project(desk, "".join(f"[profiles.p{number:03}]\n" for number in range(100)))
    with pytest.raises(ProfileError, match=r"known: p000, .*, p029, \.\.\.$"):
        load_profile("other")


def test_every_field_is_read(desk: Path) -> None:
    (desk / "templates").mkdir()
    write_project(
        desk,
        """
        [profiles.site]
        scheduler = "slurm"
        partition = "gpu"
        account = "abc"
        qos = "high"
        time = "1-00"
        mem = "0"
        cpus_per_rank = 6
        gpus_per_node = 4
        gpu_memory_gib = 80
        gpu_flag = "gres"
        exclusive = true
        setup = ["module load cuda", "ulimit -l unlimited"]
        env = { NCCL_DEBUG = "WARN" }
        template_dir = "templates"
        """,
    )
    assert load_profile("site") == Profile(
        scheduler="slurm", partition="gpu", account="abc", qos="high", time="1-00", mem="0", cpus_per_rank=6,
        gpus_per_node=4, gpu_memory_gib=80.0, gpu_flag="gres", exclusive=True,
        setup=("module load cuda", "ulimit -l unlimited"), env={"NCCL_DEBUG": "WARN"}, template_dir="templates",
    )  # fmt: skip


def test_an_unknown_profile_names_those_that_are_there(desk: Path) -> None:
    write_project(desk, "[profiles.big]\n[profiles.small]\n")
    with pytest.raises(ProfileError, match=r"no profile 'bgi'.*known: big, small"):
        load_profile("bgi")


def test_without_any_file_it_says_what_to_write_and_where(desk: Path) -> None:
    with pytest.raises(ProfileError, match=r"vllm-hpc\.toml or .*config\.toml.*\[profiles\.big\]"):
        load_profile("big")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[profiles.a]\n\npartitoin = "x"\n', 3, "unknown key 'partitoin'"),
        ('[profiles.b]\nqos = "q"\n[profiles.a]\n"odd" = 1\n', 4, "unknown key 'odd'"),
        ("[profiles.a]\n[profiles.a.nodes]\nx = 1\n", 2, "unknown key 'nodes'"),
        ("top = 1\n[profiles.a]\n", 1, "unknown key 'top'"),
        ("[profiles.a]\n[site]\n", 2, "unknown key 'site'"),
        ('[profiles.a]\nqos = "q"\ngpus_per_node = "8"\n', 3, "'gpus_per_node'"),
        ("[profiles.b]\ngpus_per_node = 8\n[profiles.a]\ngpus_per_node = 0\n", 4, "'gpus_per_node'"),
        ("[profiles.a]\nscheduler = 'lsf'\n", 2, "'scheduler'"),
        ("[profiles.a]\nsetup = 'module load'\n", 2, "'setup'"),
        ("[profiles.a]\nsetup = ['x', 1]\n", 2, "'setup'"),
        ("[profiles.a]\nexclusive = 'yes'\n", 2, "'exclusive'"),
        ("[profiles.a]\n[profiles.a.env]\nA = 1\n", 2, "'env'"),
        ("[profiles.a]\n\ntime = 'soon'\n", 3, "soon"),
        ("[profiles.a]\n\nmem = 'lots'\n", 3, "lots"),
        ("[profiles.a]\n\nenv = { HF_TOKEN = 'hunter2' }\n", 3, "HF_TOKEN"),
        ('[profiles.a]\n\npartition = "a\\nb"\n', 3, "partition"),
        ("[profiles.a]\n\ntime = 120\n", 3, """'time' must be a string such as "2:00:00\""""),
        (
            "[profiles.a]\n\nscheduler = 'lsf'\n",
            3,
            """'scheduler' must be one of "kubernetes", "local", "pbs", "slurm\"""",
        ),
        ("[profiles.a]\n\ngpu_flag = 'gpu'\n", 3, """'gpu_flag' must be one of "gpus-per-node", "gres", "none\""""),
        ("[profiles.a]\n\nexclusive = 1\n", 3, "'exclusive' must be true or false"),
        ("[profiles.a]\n\nsetup = 'module load'\n", 3, "'setup' must be a list of strings"),
        ("[profiles.a]\n\ngpus_per_node = 0\n", 3, "'gpus_per_node' must be a whole number from 1 to"),
        ("[profiles.a]\n\ngpu_memory_gib = 0\n", 3, "gpu_memory_gib"),
        ("[profiles.a]\n\ngpu_memory_gib = -80.0\n", 3, "gpu_memory_gib"),
        ("[profiles.a]\n\ngpu_memory_gib = inf\n", 3, "gpu_memory_gib"),
        ("[profiles.a]\n\ngpu_memory_gib = nan\n", 3, "gpu_memory_gib"),
        ("[profiles.a]\n\nhead_suffix = 'a b'\n", 3, "head_suffix"),
        ('[profiles.a]\n\nhead_suffix = "i\\n"\n', 3, "head_suffix"),
        ("[profiles.a]\n\nhead_suffix = '$(id)'\n", 3, "head_suffix"),
        ("[profiles.a]\nhead_suffix = 'i'\nhead_command = 'hostname -i'\n", 3, "choose one"),
        ("[profiles.a]\n\nhead_command = 'hostname -i)'\n", 3, "head_command"),
        ("[profiles.a]\n\nhead_command = 'hostname # x'\n", 3, "head_command"),
        ("[profiles.a]\n\nsetup = ['if true', 'then']\n", 3, "setup must be valid bash.*syntax error"),
        ("[profiles.a]\n\nsetup = ['echo \"a']\n", 3, "setup must be valid bash"),
        ("[profiles.a]\n\nsetup = ['cat <<X']\n", 3, "setup must be valid bash.*here-document"),
        ("[profiles.a]\n\nsetup = ['module load \\']\n", 3, "setup must be valid bash.*backslash"),
        ("[profiles.a]\n\nsetup = ['export HF_TOKEN=hunter2']\n", 3, "setup HF_TOKEN=... looks like a secret"),
        ("[profiles.a]\n\nenv = { job = 'x' }\n", 3, "env job cannot be set"),
        ("[profiles.a]\n\ntemplate_dir = 'nowhere'\n", 3, "'template_dir': no such folder: .*nowhere"),
        ("[profiles.a]\n\ntemplate_dir = '~no-such-user/x'\n", 3, "no-such-user"),
        ("\n[profiles]\na = 3\n", 3, "'profiles.a'"),
        ("\nprofiles = 3\n", 2, "'profiles'"),
    ],
    ids=lambda value: value.replace("\n", "|") if isinstance(value, str) else str(value),
)
def test_a_wrong_profile_is_refused_with_file_and_line(
    desk: Path, model: Path, text: str, line: int, said: str
) -> None:
    write_project(desk, text)
    with pytest.raises(RefusedError, match=said) as caught:
        prepare(str(model), profile="a")
    assert f"vllm-hpc.toml:{line}: " in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert isinstance(caught.value, ProfileError)


@pytest.mark.parametrize("text", [b"[profiles.a\n", b"x = \xff\n", b"x = " + b"[" * 5000], ids=["open", "utf8", "deep"])
def test_what_is_no_toml_is_refused(desk: Path, text: bytes) -> None:
    (desk / "vllm-hpc.toml").write_bytes(text)
    with pytest.raises(ProfileError, match=r"vllm-hpc\.toml: not valid TOML"):
        load_profile("a")


@pytest.mark.parametrize(
    "text",
    [
        "setup = ['if true', 'then module load cuda', 'fi', 'f() { echo $1; }', 'export HF_TOKEN=$(cat ~/.hf)']",
        "head_command = \"hostname -i | awk '{print $1}'\"",
        "head_suffix = '.hsn.cm.polaris.alcf.anl.gov'",
        "head_suffix = ''\nhead_command = 'hostname -i'",
        "gpu_memory_gib = 79.6",
    ],
)
def test_what_a_site_may_say(desk: Path, text: str) -> None:
    write_project(desk, f"[profiles.a]\n{text}\n")
    load_profile("a")


def test_no_code_of_a_profile_runs_when_it_is_checked(desk: Path) -> None:
    write_project(desk, "[profiles.a]\nsetup = ['touch ran', 'x=$(touch ran)']\nhead_command = 'touch ran'\n")
    load_profile("a")
    assert not (desk / "ran").exists()


def test_the_template_folder_is_relative_to_the_profile_file(desk: Path) -> None:
    path = write_user(desk, '[profiles.a]\ntemplate_dir = "templates"\n')
    (path.parent / "templates").mkdir()
    assert load_profile("a").template_dir == str(path.parent / "templates")


def test_a_profile_fills_in_only_what_was_not_asked(desk: Path, model: Path) -> None:
    write_project(
        desk,
        '[profiles.a]\npartition = "gpu"\naccount = "site"\ngpus_per_node = 4\nenv = { A = "1", B = "1" }\n'
        'scheduler = "slurm"\n',
    )
    prepared = prepare(str(model), profile="a", account="mine", env={"B": "2"}, tp=8)
    request = prepared.request
    assert (request.partition, request.account, request.env) == ("gpu", "mine", {"A": "1", "B": "2"})
    assert (prepared.plan.layout.nodes, prepared.plan.layout.procs_per_node) == (2, 4)
    assert prepared.scheduler == "slurm"


def test_an_asked_scheduler_wins_over_the_profile(desk: Path, model: Path) -> None:
    write_project(desk, '[profiles.a]\nscheduler = "slurm"\n')
    assert prepare(str(model), profile="a", scheduler="local").scheduler == "local"
