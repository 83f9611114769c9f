"""`profiles check` has sbatch read the script of a rehearsal in each queue, where it can, and says where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_profiles import add, checked, make_site
from tests.conftest import Cli

pytestmark = pytest.mark.admins

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
def trying(desk: Path) -> Path:
    """The site, whose sbatch --test-only refuses scripts."""
    site = make_site(desk)
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
    assert "fail  script      x: queue h100: sbatch --test-only refuses the script: unrecognized option" in done.out
    assert " -> sbatch does not take that option" in done.out
    assert "ok    script      x: 1 rehearsal can be submitted" in done.out
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
