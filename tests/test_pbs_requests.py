"""What can be asked of PBS, in the four grammars of its sites, and what is refused before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.errors import RefusedError
from vllm_hpc.render import clock, jobname, size
from vllm_hpc.submission import prepare


def lines(desk: Path, model: Path, profile: str = "", **options: Any) -> list[str]:
    (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\n{profile}\n")
    given = {"scheduler": "pbs", "name": "run", "profile": "p", **options}
    script = prepare(str(model), **given).script
    return [line.removeprefix("#PBS ") for line in script.splitlines() if line.startswith("#PBS ")]


def test_every_grammar_asks_for_the_same_gpus(desk: Path, model: Path) -> None:
    asked: dict[str, Any] = {"nodes": 2, "gpus_per_node": 4, "tp": 4, "dp": 2, "mem": "100G", "cpus_per_rank": 12}
    found = {
        grammar: lines(desk, model, f'gpu_request = "{grammar}"', **asked)
        for grammar in ("select", "queue", "totals", "nodes")
    }
    assert "-l select=2:ncpus=48:ngpus=4:mpiprocs=1:mem=100gb" in found["select"]
    assert "-l select=2:ncpus=48:mpiprocs=1:mem=100gb" in found["queue"]
    assert {"-l ncpus=96", "-l ngpus=8", "-l mem=200gb"} <= set(found["totals"])
    assert {"-l nodes=2:ppn=48:gpus=4", "-l mem=200gb"} <= set(found["nodes"])
    assert {name: "-l place=scatter" in one for name, one in found.items()} == {
        "select": True, "queue": True, "totals": False, "nodes": False,
    }  # fmt: skip


def test_on_the_cpu_no_gpus_are_asked_for(desk: Path, model: Path) -> None:
    assert "-l select=1:ncpus=2:mpiprocs=1" in lines(desk, model, 'gpu_flag = "none"', tp=2)


@pytest.mark.parametrize(
    ("flag", "line"), [("-A", "-A 'a b'"), ("-P", "-P 'a b'"), ("-W group_list", "-W group_list='a b'")]
)
def test_the_account_is_named_as_the_site_wants(desk: Path, model: Path, flag: str, line: str) -> None:
    assert line in lines(desk, model, f'account_flag = "{flag}"', account="a b")


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a qos": ("", {"qos": "high"}, "name one with --queue"),
    "a qos of the profile": ('qos = "high"', {}, "name one with --queue"),
    "all memory": ("", {"mem": "0"}, "PBS has no word for all"),
    "totals without cores": ('gpu_request = "totals"', {"nodes": 2, "dp": 2}, "--cpus-per-rank"),
    "totals of whole nodes": ('gpu_request = "totals"\nexclusive = true', {}, "exclusive = true has no word"),
    "nodes, whole ones": ('gpu_request = "nodes"\nexclusive = true', {}, "exclusive = true has no word"),
    "srun": ("", {"launcher": "srun"}, "use one of pbsdsh, pbs_tmrsh, mpiexec, openmpi"),
    "torchrun": ('launcher = "torchrun"', {}, "use one of pbsdsh"),
    "pbsdsh on Slurm": ("", {"launcher": "pbsdsh", "scheduler": "slurm"}, "use one of torchrun, srun"),
    "pbsdsh here": ("", {"launcher": "pbsdsh", "scheduler": "local"}, "--launcher pbsdsh needs a cluster"),
    "a name beyond ASCII": ("", {"name": "é"}, "holds 'é', and PBS takes only ASCII"),
    "a name that PBS fills in": ("", {"name": "a^array_index^"}, "which PBS replaces"),
    "a log": ("", {"directive": ["-o x"]}, "-o is not yours to set here"),
    "another's grammar": ('gpu_request = "gres"', {}, 'must be one of "nodes", "queue", "select", "totals"'),
    "another flag": ('account_flag = "-X"', {}, "'account_flag' must be one of"),
    "a chunk of two": ('chunk = ["a=b:ncpus=3"]', {}, "chunk 'a=b:ncpus=3' is nothing to add"),
    "a chunk's cores": ('chunk = ["ncpus=3"]', {}, "is nothing to add to a chunk"),
    "a chunk that is shell": ('chunk = ["a=$(id)"]', {}, "is nothing to add to a chunk"),
    "a resource without a value": ('resources = ["filesystems"]', {}, "is no resource"),
    "a resource of two words": ('resources = ["a=b c"]', {}, "is no resource"),
    "a walltime": ('resources = ["walltime=1"]', {}, "use --time"),
    "a number that is not known": ('resources = ["rt={hosts}"]', {}, "is no resource"),
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
