"""The sample jobs that templates are checked with, and how the head of a script is read."""

from __future__ import annotations

import pytest

from vllm_hpc.schedulers.script_header import directives_of
from vllm_hpc.schedulers.template_matrix import sample_cases
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.profile import Profile

pytestmark = pytest.mark.admins


def test_the_cases_are_all_launchers_arrays_nodes_and_grammars() -> None:
    slurm, pbs = sample_cases("slurm"), sample_cases("pbs")
    assert {case.launcher for case in slurm} == {"torchrun", "srun"}
    assert {case.launcher for case in pbs} == {"pbsdsh", "pbs_tmrsh", "mpiexec", "openmpi"}
    for cases in (slurm, pbs):
        assert {(case.nodes, case.is_array) for case in cases} == {(1, False), (1, True), (2, False), (2, True)}
        assert any(case.site.container for case in cases)
        assert [case.is_odd for case in cases].count(True) == 1
    assert {case.site.gpu_flag for case in slurm} == {"gpus-per-node", "gres", "none"}
    assert {case.site.gpu_request for case in pbs} == {"select", "queue", "totals", "nodes"}
    of_profile = sample_cases("slurm", Profile(launcher="srun", gpu_flag="gres", gpus_per_node=8))
    assert {(case.launcher, case.site.gpu_flag) for case in of_profile} == {("srun", "gres")}


def test_the_options_of_a_header_are_read_as_sbatch_reads_them() -> None:
    script = "#!/bin/bash\n#SBATCH -N2 -J 'a b' --time=5 # a comment\n#SBATCH  --no-requeue\n# no\ntrue\n#SBATCH -n 1\n"
    assert [(one.option, one.value, one.line) for one in directives_of(script)] == [
        ("--nodes", "2", 2), ("--job-name", "a b", 2), ("--time", "5", 2), ("--requeue", "--no-requeue", 3),
    ]  # fmt: skip
    with pytest.raises(RequestError, match="line 1 of the script is no option of the scheduler"):
        directives_of("#SBATCH nodes=2\n")
