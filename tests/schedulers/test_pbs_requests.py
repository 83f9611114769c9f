"""What can be asked of PBS, in the four grammars of its sites, and what is refused before anything is made."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.script import clock, jobname, size
from vllm_hpc.spec.errors import RefusedError


def lines(desk: Path, model: Path, profile: str = "", **options: Any) -> list[str]:
    (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\n{profile}\n")
    (desk / "vllm-hpc.toml").chmod(0o644)
    given = {"scheduler": "pbs", "name": "run", "profile": "p", **options}
    script = prepare(str(model), **given).script
    return [line.removeprefix("#PBS ") for line in script.splitlines() if line.startswith("#PBS ")]


def test_every_grammar_asks_for_the_same_gpus(desk: Path, model: Path) -> None:
    asked: dict[str, Any] = {"nodes": 2, "gpus_per_node": 4, "tp": 4, "dp": 2, "mem": "100G", "cpus_per_rank": 12}
    found = {
        grammar: lines(desk, model, f'gpus_per_node = 4\ngpu_request = "{grammar}"', **asked)
        for grammar in ("select", "queue", "totals", "nodes")
    }
    assert "-l select=2:ncpus=48:ngpus=4:mpiprocs=1:mem=100gb" in found["select"]
    assert "-l select=2:mpiprocs=1:mem=100gb" in found["queue"]  # the queue means the cores, too
    assert {"-l ncpus=96", "-l ngpus=8", "-l mem=200gb"} <= set(found["totals"])
    assert {"-l nodes=2:ppn=48:gpus=4", "-l mem=200gb"} <= set(found["nodes"])
    assert {name: "-l place=scatter" in one for name, one in found.items()} == {
        "select": True, "queue": True, "totals": False, "nodes": False,
    }  # fmt: skip


NODE = "gpus_per_node = 8\ncpus_per_node = 96\nmem_per_node = '1T'"


@pytest.mark.inputs
@pytest.mark.parametrize(
    ("profile", "asked", "found"),
    [
        ("", {}, "ncpus=24:ngpus=2:mpiprocs=1:mem=262144mb"),
        ("", {"cpus_per_rank": 4}, "ncpus=8:ngpus=2:mpiprocs=1:mem=262144mb"),
        ("", {"mem": "100G"}, "ncpus=24:ngpus=2:mpiprocs=1:mem=100gb"),
        ("exclusive = true", {}, "ncpus=96:ngpus=2:mpiprocs=1:mem=1048576mb"),
        ("", {"gpus_per_node": 8, "tp": 8}, "ncpus=96:ngpus=8:mpiprocs=1:mem=1048576mb"),
        ("gpu_request = 'queue'", {}, "mpiprocs=1"),
    ],
)
def test_cores_and_memory_follow_the_nodes_share_of_the_gpus(
    desk: Path, model: Path, profile: str, asked: dict[str, Any], found: str
) -> None:
    given = lines(desk, model, f"{NODE}\n{profile}", **{"nodes": 2, "gpus_per_node": 2, "tp": 2, "dp": 2, **asked})
    assert f"-l select=2:{found}" in given


@pytest.mark.inputs
def test_totals_are_those_of_all_nodes(desk: Path, model: Path) -> None:
    given = lines(desk, model, f"{NODE}\ngpu_request = 'totals'", nodes=2, gpus_per_node=8, tp=8, dp=2)
    assert {"-l ncpus=192", "-l ngpus=16", "-l mem=2097152mb"} <= set(given)


@pytest.mark.inputs
def test_without_what_a_node_has_one_core_a_gpu_is_asked_for(desk: Path, model: Path) -> None:
    given = lines(desk, model, "gpus_per_node = 8", gpus_per_node=2, tp=2)
    assert "-l select=1:ncpus=2:ngpus=2:mpiprocs=1" in given


@pytest.mark.inputs
def test_on_slurm_the_same_is_asked_for(desk: Path, model: Path) -> None:
    (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\n{NODE}\n")
    for launcher, cores in (("torchrun", 24), ("srun", 12)):
        script = prepare(
            str(model), scheduler="slurm", profile="p", nodes=1, gpus_per_node=2, tp=2, launcher=launcher
        ).script
        assert {f"#SBATCH --cpus-per-task={cores}", "#SBATCH --mem=262144M"} <= set(script.splitlines())


@pytest.mark.inputs
@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("cpus_per_node = 96", "'cpus_per_node' needs gpus_per_node"),
        ("mem_per_node = '1T'", "'mem_per_node' needs gpus_per_node"),
        ("gpus_per_node = 8\nmem_per_node = '0'", "'mem_per_node' must be an amount of memory, such as 480G"),
        ("gpus_per_node = 8\nmem_per_node = 'much'", "mem_per_node must be an amount of memory"),
        ("gpus_per_node = 8\ncpus_per_node = 0", "cpus_per_node"),
    ],
)
def test_what_a_node_has_is_checked(desk: Path, model: Path, profile: str, words: str) -> None:
    with pytest.raises(RefusedError, match=re.escape(words)):
        lines(desk, model, profile)


SITES = {
    "polaris": ["-l select=2:mpiprocs=1:system=polaris", "-l place=scatter:excl", "-l filesystems=home:eagle"],
    "derecho": ["-l select=2:ncpus=64:ngpus=4:mpiprocs=1:mem=480gb", "-l place=scatter", "-q main"],
    "gadi": ["-l ncpus=96", "-l ngpus=8", "-l mem=760gb", "-l jobfs=200GB", "-P xy12"],
    "abci": ["-l select=2:mpiprocs=1", "-P gxx50000", "-q rt_HF"],
}


@pytest.mark.parametrize("site", SITES)
def test_the_sites_of_the_docs_are_asked_as_they_want(desk: Path, model: Path, site: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "pbs.md").read_text(encoding="utf-8")
    (desk / "vllm-hpc.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    script = prepare(str(model), profile=site, nodes=2, name="run").script
    assert {f"#PBS {line}" for line in SITES[site]} <= set(script.splitlines())


def test_on_the_cpu_no_gpus_are_asked_for(desk: Path, model: Path) -> None:
    assert "-l select=1:ncpus=2:mpiprocs=1" in lines(desk, model, 'gpu_flag = "none"', tp=2)


# qsub refused each of them with "Illegal attribute or resource value project" (OpenPBS 23.06.06).
@pytest.mark.inputs
@pytest.mark.parametrize("account", ["proj,x", "a/b", "a:b", "a+b", "a;b", 'a"b', "a|b", "a<b", "a*", "a?", "a[1]"])
def test_a_project_of_p_has_no_character_that_pbs_refuses(desk: Path, model: Path, account: str) -> None:
    with pytest.raises(RefusedError) as refused:
        lines(desk, model, 'account_flag = "-P"', account=account)
    odd = next(c for c in account if c not in "abprojx1")
    words = f"account must be one project for -P, whose name cannot contain {odd!r} in PBS, not {account!r}"
    assert str(refused.value) == words


# What qsub took as it is: -P but for those, and -A with all of them.
@pytest.mark.inputs
@pytest.mark.parametrize(
    ("flag", "account", "line"),
    [
        ("-P", "a.b-c_d@e", "-P a.b-c_d@e"), ("-P", "a=b", "-P a=b"), ("-P", "a#b", "-P 'a#b'"),
        ("-P", "a'b", "-P 'a'\"'\"'b'"),
        ("-A", "proj,x", "-A proj,x"), ("-A", "a/b", "-A a/b"), ("-A", "a;b", "-A 'a;b'"),
    ],
)  # fmt: skip
def test_other_accounts_are_named_as_they_are(desk: Path, model: Path, flag: str, account: str, line: str) -> None:
    assert line in lines(desk, model, f'account_flag = "{flag}"', account=account)


@pytest.mark.inputs
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077, 0o007, 0])
def test_a_job_has_the_umask_of_its_submitter(desk: Path, model: Path, umask: int) -> None:
    """PBS gives it 077 by default, with which nobody else in a group's project reads the rows."""
    before = os.umask(umask)
    try:
        found = lines(desk, model)
        assert os.umask(umask) == umask, "asking for it changes nothing"
    finally:
        os.umask(before)
    assert f"-W umask={umask:03o}" in found


@pytest.mark.parametrize(
    ("flag", "line"), [("-A", "-A 'a b'"), ("-P", "-P 'a b'"), ("-W group_list", "-W group_list=a_b")]
)
def test_the_account_is_named_as_the_site_wants(desk: Path, model: Path, flag: str, line: str) -> None:
    account = "a_b" if flag == "-W group_list" else "a b"
    assert line in lines(desk, model, f'account_flag = "{flag}"', account=account)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a qos": ("", {"qos": "high"}, "choose a queue with --queue"),
    "a qos of the profile": ('qos = "high"', {}, "choose a queue with --queue"),
    "all memory": ("", {"mem": "0"}, "PBS cannot be asked for all"),
    "totals without cores": ('gpu_request = "totals"', {"nodes": 2, "dp": 2}, "--cpus-per-rank"),
    "totals of parts of nodes": (
        'gpu_request = "totals"\ngpus_per_node = 4\ncpus_per_node = 48', {"nodes": 2, "gpus_per_node": 2, "dp": 4},
        "totals' must be of whole nodes for a job of 2 nodes",
    ),
    "totals of unknown nodes": (
        'gpu_request = "totals"', {"nodes": 2, "gpus_per_node": 4, "dp": 8, "cpus_per_rank": 12}, "(gpus_per_node)",
    ),
    "setup beyond ASCII": ('setup = ["module load é"]', {}, "setup must be ASCII for PBS"),
    "a directive beyond ASCII": ("", {"directive": ["-m é"]}, "directive must be ASCII for PBS"),
    "a head_command beyond ASCII": ('head_command = "echo é"', {}, "head_command must be ASCII for PBS"),
    "totals of whole nodes": ('gpu_request = "totals"\nexclusive = true', {}, "exclusive = true cannot be expressed"),
    "nodes, whole ones": ('gpu_request = "nodes"\nexclusive = true', {}, "exclusive = true cannot be expressed"),
    "srun": ("", {"launcher": "srun"}, "use one of pbsdsh, pbs_tmrsh, mpiexec, openmpi"),
    "torchrun": ('launcher = "torchrun"', {}, "use one of pbsdsh"),
    "pbsdsh on Slurm": ("", {"launcher": "pbsdsh", "scheduler": "slurm"}, "use one of torchrun, srun"),
    "pbsdsh here": ("", {"launcher": "pbsdsh", "scheduler": "local"}, "--launcher pbsdsh needs a cluster"),
    "a name beyond ASCII": ("", {"name": "é"}, "contains 'é', but PBS takes only ASCII"),
    "a name that PBS fills in": ("", {"name": "a^array_index^"}, "which PBS replaces"),
    "a log": ("", {"directive": ["-o x"]}, "-o cannot be set here"),
    "another's grammar": ('gpu_request = "gres"', {}, 'must be one of "nodes", "queue", "select", "totals"'),
    "another flag": ('account_flag = "-X"', {}, "'account_flag' must be one of"),
    "a chunk of two": ('chunk = ["a=b:ncpus=3"]', {}, "chunk 'a=b:ncpus=3' cannot be added"),
    "a chunk's cores": ('chunk = ["ncpus=3"]', {}, "cannot be added to a chunk"),
    "a chunk that is shell": ('chunk = ["a=$(id)"]', {}, "after '$' must come a variable"),
    "a resource without a value": ('resources = ["filesystems"]', {}, "must be resources as in"),
    "a resource of two words": ('resources = ["a=b c"]', {}, "must be resources as in"),
    "a walltime": ('resources = ["walltime=1"]', {}, "use --time"),
    "a number that is not known": ('resources = ["rt={hosts}"]', {}, "must be resources as in"),
    "a resource behind a comma": ('resources = ["a=home,walltime=99:00:00"]', {}, "one per entry"),
    "a resource twice": ('resources = ["storage=a", "Storage=b"]', {}, "storage is given twice"),
    "a walltime in capitals": ('resources = ["WALLTIME=1"]', {}, "use --time"),
    "a chunk's cores in capitals": ('chunk = ["NCPUS=3"]', {}, "cannot be added to a chunk"),
    "a second chunk": ('chunk = ["host=a+1"]', {}, "cannot be added to a chunk"),
    "a chunk beyond ASCII": ('chunk = ["a=é"]', {}, "cannot be added to a chunk"),
    "a chunk of totals": ('gpu_request = "totals"\nchunk = ["a=b"]', {}, "use resources"),
    "a group that is more": ('account_flag = "-W group_list"', {"account": "a,block=true"}, "must be a group's name"),
    "a queue beyond ASCII": ("", {"partition": "é"}, "must be ASCII for PBS, not 'é'"),
    "other numbers of tasks": ('launcher = "mpiexec"\nlauncher_options = ["-n", "9"]', {}, "follows from the layout"),
    "another place in the node file": ('launcher_options = ["-n"]', {}, "follows from the layout"),
    "a node's number": ("", {"env": {"PMI_RANK": "0"}}, "each node gets its own"),
    "memory of the profile": ('mem = "0"', {}, "mem in the profile 0: PBS"),
    "quotes that even out": ("head_command = \"echo 'a\\\"\"", {}, "must be valid bash"),
    "an option with a line end": ('launcher = "mpiexec"\nlauncher_options = ["a\\nb"]', {}, "launcher_options"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_pbs_cannot_be_asked_for(desk: Path, model: Path, case: str) -> None:
    profile, options, words = REFUSED[case]
    with pytest.raises(RefusedError) as refused:
        lines(desk, model, profile, **options)
    assert words in str(refused.value)
    assert not (desk / "runs").exists()


def test_pbs_forms() -> None:
    assert [clock(seconds) for seconds in (59, 7200, 93_605)] == ["00:00:59", "02:00:00", "26:00:05"]
    assert [size(text) for text in ("64G", "64gb", "64000", "1T", "5K")] == ["64gb", "64gb", "64000mb", "1tb", "5kb"]
    assert size("64G", 4) == "256gb"
    assert [jobname(name) for name in ("a-b_c.d+e", "a b/é", "7b")] == ["a-b_c.d+e", "a_b__", "job-7b"]
