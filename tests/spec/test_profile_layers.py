"""Layers of a profile: merged key by key, with the origin of each value."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import Cli
from vllm_hpc.jobs.find import find_job
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.spec.errors import ProfileError, RefusedError
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.profile_layers import find_profile

pytestmark = pytest.mark.admins

SITE = """[profiles.big]
scheduler = "slurm"
partition = "batch"
gpus_per_node = 4
setup = ["module load cuda"]
env = { A = "site", B = "site" }
engine = { max_num_seqs = 64 }
[profiles.big.queues.batch]
max_nodes = 91
max_time = "2:00:00"
"""


@pytest.fixture
def layered(desk: Path) -> Path:
    """A site's file, a user's and a project's, with the same profile."""
    write(Path(os.environ["XDG_CONFIG_DIRS"], "vllm-hpc", "config.toml"), SITE)
    user = '[profiles.big]\naccount = "mine"\nsetup = ["+", "module load mine"]\nenv = { B = "user" }\n'
    write(desk / "config" / "vllm-hpc" / "config.toml", user)
    write(desk / "vllm-hpc.toml", '[profiles.big]\ntime = "1:00:00"\nenv = { C = "project" }\n')
    return desk


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_three_files_are_merged_key_by_key(layered: Path) -> None:
    found = find_profile("big")
    profile = found.profile
    assert (profile.partition, profile.account, profile.time) == ("batch", "mine", "1:00:00")
    assert profile.setup == ("module load cuda", "module load mine")
    assert profile.env == {"A": "site", "B": "user", "C": "project"}
    site = Path(os.environ["XDG_CONFIG_DIRS"], "vllm-hpc", "config.toml")
    user, project = layered / "config/vllm-hpc/config.toml", layered / "vllm-hpc.toml"
    keys = [("partition",), ("account",), ("time",), ("env", "B"), ("env", "C")]
    assert {key: found.origins[key] for key in keys} == {
        ("partition",): f"{site}:3", ("account",): f"{user}:2", ("time",): f"{project}:2",
        ("env", "B"): f"{user}:4", ("env", "C"): f"{project}:3",
    }  # fmt: skip
    assert found.origins["setup",] == f"{site}:5, {user}:3"
    assert found.origins["queues", "batch", "max_nodes"] == f"{site}:9"


def test_job_toml_and_options_come_on_top(layered: Path, model: Path) -> None:
    write(
        layered / "job/job.toml",
        f'model = "{model}"\nprofile = "big"\naccount = "jobs"\n[engine]\nseed = 1\n'.replace("seed", "block_size"),
    )
    request = prepare("job", time="0:30:00").request
    assert (request.account, request.time, request.partition) == ("jobs", "0:30:00", "batch")
    assert request.engine == {"max_num_seqs": 64, "block_size": 1}


def test_plan_says_what_newly_counts(layered: Path, model: Path) -> None:
    said = [reason for reason in plan_only(str(model), profile="big").reasons if "lower files" in reason]
    assert len(said) == 1
    assert "setup, account of" in said[0]
    assert "scheduler, partition, gpus_per_node, engine, queues of" in said[0]
    write(layered / "vllm-hpc.toml", '[profiles.big]\nreplace = true\nscheduler = "slurm"\ntime = "1:00:00"\n')
    assert not [reason for reason in plan_only(str(model), profile="big").reasons if "lower files" in reason]
    assert find_profile("big").profile == Profile(scheduler="slurm", time="1:00:00")


def test_extends_puts_another_profile_beneath(layered: Path) -> None:
    write(layered / "vllm-hpc.toml", '[profiles.own]\nextends = "big"\npartition = ""\nenv = { A = "" }\n')
    found = find_profile("own")
    assert (found.profile.partition, found.profile.account, found.profile.env["A"]) == (None, "mine", "")
    assert "partition" not in {key[0] for key in found.origins if len(key) == 1}
    assert found.news is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[profiles.a]\nextends = "b"\n[profiles.b]\nextends = "a"\n', r":4: 'extends' leads back to 'a'"),
        ('[profiles.a]\nextends = "a"\n', r":2: 'extends' leads back to 'a'"),
        ('[profiles.a]\nextends = "none"\n', r":2: 'extends': no profile 'none'"),
        ('[profiles.a]\nextends = "site/nowhere"\n', r":2: 'extends': no profile 'site/nowhere' in the gallery"),
        ('[profiles.a]\nsetup = ["+", "+"]\n', r":2: 'setup' must have \"\+\""),
        ('[profiles.a]\nrequired = ["acount"]\n', r":2: 'required' must name keys of a profile, not 'acount'"),
        ('[profiles.a]\n[profiles.a.queues.q]\nmin_node = 1\n', r":3: unknown key 'min_node': did you mean 'min_"),
        ('[profiles.a]\n[profiles.a.queues.q]\nmin_nodes = 0\n', r":3: 'min_nodes' must be a whole number"),
        ('[profiles.a]\n[profiles.a.queues.q]\nmin_nodes = 3\nmax_nodes = 2\n', r":3: 'min_nodes' must be at most"),
        ('[profiles.a]\n[profiles.a.queues.q]\nmax_time = "soon"\n', r":3: max_time must be a walltime"),
        ('[profiles.a]\nqueues = { q = 1 }\n', r":2: 'queues.q' must be a table"),
        ('[profiles.a]\ncontainer = "x.sif"\n', r":2: 'container' must be a table"),
        ('[profiles.a]\ncpus_per_node = 8\n', r":2: 'cpus_per_node' needs gpus_per_node"),
        ('[profiles.a]\njob_dir = "$(id)"\n', r":2: 'job_dir' '\$\(id\)': after '\$' must come a variable"),
        ('[profiles.a]\nenv = { A = "${X%y}" }\n', r":2: 'env' .*after '\$' must come a variable"),
        ('[profiles.a]\naccount = "$HF_TOKEN"\nscheduler = "slurm"\n', r"\$HF_TOKEN is a secret"),
        ('[profiles.a]\naccount = "$NOT_THERE"\n', r"\$NOT_THERE is not set here: export it"),
    ],
)  # fmt: skip
def test_a_wrong_layer_is_refused_with_its_line(desk: Path, model: Path, text: str, said: str) -> None:
    write(desk / "vllm-hpc.toml", text)
    with pytest.raises(ProfileError, match=said):
        prepare(str(model), profile="a")


def test_a_strangers_file_counts_only_for_its_own_profiles(layered: Path) -> None:
    project = layered / "vllm-hpc.toml"
    project.chmod(0o666)
    with pytest.raises(ProfileError, match="others can write"):
        find_profile("big")
    write(project, "[profiles.other]\n")
    assert find_profile("big").profile.account == "mine"


def test_variables_are_expanded_where_the_key_says(desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT", "a b")
    text = """[profiles.a]
scheduler = "slurm"
account = "${PROJECT}-gpu"
job_dir = "$HOME/${NOT_SET:-runs}"
directives = ["--comment=$$5"]
env = { T = "/local/$USER/x y", D = "$$", N = "${NOT_SET:-a}" }
"""
    write(desk / "vllm-hpc.toml", text)
    prepared = prepare(str(model), profile="a", env={"L": "$USER"}, name="first")
    assert prepared.folder == f"{os.environ['HOME']}/runs/first"
    for line in (
        '#SBATCH --account="a b-gpu"',
        "#SBATCH --comment=$5",
        """export T=/local/"${USER:?is not set here}"'/x y'""",
        "export D='$'",
        'export N="${NOT_SET:-a}"',
        "export L='$USER'",
    ):
        assert line in prepared.script.splitlines()


def test_variables_of_what_an_option_overrides_need_not_be_set(desk: Path, model: Path) -> None:
    text = '[profiles.a]\nscheduler = "slurm"\njob_dir = "$NOT_THERE/runs"\naccount = "$NOT_THERE"\n'
    write(desk / "vllm-hpc.toml", text)
    with pytest.raises(ProfileError, match=r"NOT_THERE is not set here"):
        prepare(str(model), profile="a", account="x")
    assert prepare(str(model), profile="a", account="x", job_dir="runs").request.account == "x"


def test_what_is_required_must_be_given(desk: Path, model: Path) -> None:
    write(desk / "vllm-hpc.toml", '[profiles.a]\nscheduler = "slurm"\nrequired = ["account", "mem"]\nmem = "1G"\n')
    with pytest.raises(
        RefusedError, match=r"profile 'a' needs account: give --account, or write account in \[profiles\.a\]"
    ):
        prepare(str(model), profile="a")
    assert prepare(str(model), profile="a", account="x").request.account == "x"
    assert prepare(str(model), profile="a", scheduler="local").request.account is None


def test_keys_that_the_scheduler_ignores_are_said(desk: Path, model: Path, run_cli: Cli) -> None:
    write(desk / "vllm-hpc.toml", '[profiles.a]\nsrun_options = ["--x"]\nchunk = ["a=b"]\ncpu_bind = "cores"\n')
    assert (
        "of the profile not used by slurm: chunk"
        in run_cli("plan", str(model), "--profile", "a", "--scheduler", "slurm").out
    )
    assert (
        "of the profile not used by pbs: srun_options, cpu_bind"
        in run_cli("plan", str(model), "--profile", "a", "--scheduler", "pbs").out
    )


@pytest.mark.parametrize(
    ("keys", "words", "said"),
    [
        ('launcher = "srun"\ntorchrun_options = ["--a=b"]\n', [], "slurm: torchrun_options"),
        ('torchrun_options = ["--a=b"]\n', ["--launcher=srun"], "slurm: torchrun_options"),
        ('gpu_type = "h100"\ngpu_flag = "none"\n', [], "slurm: gpu_type"),
        ('gpu_request = "queue"\ngpus_per_node = 4\nmem_per_node = "4G"\nmem_per_gpu = "1G"\n', [],
         "pbs: mem_per_node, mem_per_gpu"),
    ],
)  # fmt: skip
def test_a_key_that_another_makes_useless_is_said(
    desk: Path, model: Path, run_cli: Cli, keys: str, words: list[str], said: str
) -> None:
    write(desk / "vllm-hpc.toml", f"[profiles.a]\n{keys}")
    scheduler = said.partition(":")[0]
    out = run_cli("plan", str(model), "--profile=a", f"--scheduler={scheduler}", *words).out
    assert f"of the profile not used by {said} " in out


@pytest.mark.parametrize("python", ["python3", "bin/python", "/usr/bin/python3.11", "$HERE/python3.12"])
def test_the_python_of_nodes_is_that_of_an_environment(
    desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    """Its folder is put first in PATH: "." would be whoever can write there, and another name would not be called."""
    monkeypatch.setenv("HERE", "/usr/bin")
    write(desk / "vllm-hpc.toml", f'[profiles.a]\nscheduler = "slurm"\npython = "{python}"\n')
    with pytest.raises(ProfileError, match="must be an environment's python by its absolute path"):
        prepare(str(model), profile="a")
    write(desk / "vllm-hpc.toml", '[profiles.a]\nscheduler = "slurm"\npython = "$HERE/python3"\n')
    assert 'export PATH=/usr/bin:"$PATH"' in prepare(str(model), profile="a").script


def test_folders_of_templates_lie_beside_their_files(desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = write(
        desk / "config/vllm-hpc/config.toml", '[profiles.a]\nscheduler = "slurm"\ntemplate_dir = "${T:-own}"\n'
    )
    write(user.parent / "own/slurm.sbatch.j2", '{% extends "packaged/slurm.sbatch.j2" %}')
    write(desk / "vllm-hpc.toml", f'[profiles.a]\ntemplate_dir = "{desk}"\n')
    assert prepare(str(model), profile="a").job.template_dirs == (str(desk), str(user.parent / "own"))
    monkeypatch.setenv("T", "missing")
    with pytest.raises(ProfileError, match=r"config\.toml:3: 'template_dir': no such folder: '.*/vllm-hpc/missing'"):
        prepare(str(model), profile="a")


def test_a_default_may_be_empty(desk: Path, model: Path) -> None:
    write(desk / "vllm-hpc.toml", '[profiles.a]\nscheduler = "slurm"\naccount = "x${NOT_THERE:-}"\n')
    assert prepare(str(model), profile="a").request.account == "x"


def test_a_secret_has_no_value_in_a_profile(desk: Path, model: Path) -> None:
    write(desk / "vllm-hpc.toml", '[profiles.a]\nsecrets = ["MINE"]\nenv = { MINE = "x" }\n')
    with pytest.raises(ProfileError, match=r":2: 'secrets' has MINE, which has a value in 'env': leave out one"):
        prepare(str(model), profile="a")


def test_a_key_takes_those_away_that_would_win(layered: Path) -> None:
    site = Path(os.environ["XDG_CONFIG_DIRS"], "vllm-hpc", "config.toml")
    write(site, SITE.replace("[profiles.big]", '[profiles.big]\nmem = "1G"\ncpus_per_rank = 3\ngpu = "a100-40"', 1))
    keys = 'mem_per_node = "64G"\ncpus_per_node = 32\ngpu_memory_gib = 24\nenv = { mem = "x" }\n'
    write(layered / "vllm-hpc.toml", f"[profiles.big]\n{keys.replace('mem = ', 'MEM = ')}")
    profile = find_profile("big").profile
    assert (profile.mem, profile.cpus_per_rank, profile.gpu) == (None, None, None)
    assert (profile.mem_per_node, profile.cpus_per_node, profile.gpu_memory_gib) == ("64G", 32, 24)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('accont = "x"', "unknown key 'accont': did you mean 'account'?"),
        ('walltime = "1"', "unknown key 'walltime': use 'time'"),
        ("queues = 1", "'queues' must be a table"),
    ],
)
def test_what_was_meant_is_said(desk: Path, text: str, said: str) -> None:
    write(desk / "vllm-hpc.toml", f"[profiles.karolina]\n{text}\n")
    with pytest.raises(ProfileError) as caught:
        find_profile("karolina")
    assert str(caught.value).endswith(said)


@pytest.mark.parametrize(
    ("name", "meant"), [("karolinna", "karolina"), ("Karolina", "karolina"), ("site/polariss", "site/polaris")]
)
def test_a_name_that_is_near_is_said(desk: Path, name: str, meant: str) -> None:
    write(desk / "vllm-hpc.toml", "[profiles.karolina]\n")
    with pytest.raises(ProfileError, match=f"did you mean '{meant}'"):
        find_profile(name)


def test_jobs_are_looked_for_where_the_profile_puts_them(
    desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(desk / "vllm-hpc.toml", f'[profiles.a]\nscheduler = "slurm"\njob_dir = "{desk}/elsewhere"\n')
    assert run_cli("submit", "--rehearse", "--profile=a", "--name=first").code == 0
    assert "first" in run_cli("list", "--profile", "a").out
    with monkeypatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(desk / "another home"))  # else the user's own jobs are found anywhere
        assert "(--job-dir, or --profile for its job_dir), or its id" in run_cli("logs", "first").err
    monkeypatch.setenv("VLLM_HPC_PROFILE", "a")
    assert json.loads(run_cli("status", "first", "--json").out)["job"] == f"{desk}/elsewhere/first"
    assert find_job("first").path == desk / "elsewhere" / "first"
    monkeypatch.setenv("VLLM_HPC_PROFILE", "unknown")
    assert run_cli("list").err == "No jobs under 'runs'.\n"
    assert run_cli("list", "--profile", "unknown").code == 2


def test_queue_is_a_name_for_partition_everywhere(desk: Path, model: Path) -> None:
    write(desk / "job/job.toml", f'model = "{model}"\nqueue = "gpu"\nscheduler = "slurm"\n')
    assert (
        prepare("job").request.partition
        == prepare(str(model), queue="gpu", scheduler="slurm").request.partition
        == "gpu"
    )
    with pytest.raises(RefusedError, match="queue and partition are the same: leave out one"):
        prepare(str(model), queue="gpu", partition="gpu")
