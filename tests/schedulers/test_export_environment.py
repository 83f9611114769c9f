"""The environment that PBS's tasks read: exact, of no single host, and without secrets."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vllm_hpc.schedulers.in_script.export_environment import to_shell


def names(environment: dict[str, str], *named: str) -> list[str]:
    return [line.split("=")[0].removeprefix("export ") for line in to_shell(environment, list(named)).splitlines()]


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "USER", "LD_LIBRARY_PATH", "NCCL_DEBUG", "VLLM_HPC_FOLDER", "TOKENIZERS_PARALLELISM", "no_proxy"],
)
def test_what_holds_on_every_host_is_handed_over(name: str) -> None:
    assert names({name: "x"}) == [name]


@pytest.mark.parametrize(
    "name",
    ["PBS_JOBID", "PBS_NODEFILE", "TMPDIR", "HOSTNAME", "PWD", "OLDPWD", "SHLVL", "_", "NCPUS", "PMI_RANK",
     "PALS_RANKID", "OMPI_COMM_WORLD_RANK", "CUDA_VISIBLE_DEVICES", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD",
     "OPENAI_API_KEY", "BASH_FUNC_module%%", "a b", ""],
)  # fmt: skip
def test_what_is_one_hosts_or_a_secret_is_not(name: str) -> None:
    assert names({name: "x"}) == []


def test_what_env_names_holds_on_every_host() -> None:
    assert names({"CUDA_VISIBLE_DEVICES": "1", "PBS_X": "1"}, "CUDA_VISIBLE_DEVICES") == ["CUDA_VISIBLE_DEVICES"]
    assert names({"HF_TOKEN": "x"}, "HF_TOKEN") == []


def test_values_arrive_as_they_were() -> None:
    value = 'it\'s "b" $HOME `id`\n\\ é \udcff'
    code = to_shell({"ODD": value}, [])
    script = os.fsencode(
        f'{code}exec "{sys.executable}" -c \'import os, sys; sys.stdout.buffer.write(os.environb[b"ODD"])\''
    )
    assert subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout == os.fsencode(value)
