"""The environment that PBS's tasks read: exact, of no single host, and without secrets."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tests.hostile.test_secrets import HF
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


PASSED = {
    "HF_TOKEN": HF,
    "SITE_LICENSE": "open sesame 'x' \"$(touch ran)\" \\",
    "PART_OF_IT": "sesame",
    "SHORT": "1",
    "LINES": "a\nb",
}
SHOW = 'import os, sys; sys.stdout.buffer.write(b"\\0".join(b"%s=%s" % one for one in os.environb.items()))'


def on_node(code: str, *passed: str) -> dict[str, str]:
    """The environment of a node's shell that has read the passed variables, after that code."""
    argv = ["bash", "-c", f'{code}exec "$@"', "bash", sys.executable, "-c", SHOW]
    environment = {name: PASSED[name] for name in passed}
    done = subprocess.run(argv, capture_output=True, check=True, env=environment)
    return dict(one.split("=", 1) for one in os.fsdecode(done.stdout).split("\0"))


@pytest.mark.admins
def test_what_holds_a_passed_value_refers_to_it() -> None:
    """The image's copies, and what the profile's setup makes of a passed variable."""
    copies = {f"VLLM_HPC_ENV_{name}": value for name, value in PASSED.items()}
    copies |= {"LICENSE_SERVER": f"27000@{PASSED['SITE_LICENSE']}:1", "HUB": HF, "TWICE": "11"}
    copies |= {"PLAIN": "p q", "EMPTY": ""}
    code = to_shell({**copies, **PASSED, "VLLM_HPC_PASSED": " ".join(PASSED)}, [])
    assert HF not in code
    assert "sesame" not in code
    found = on_node(code, *PASSED)
    assert {name: found.get(name) for name in copies} == copies


@pytest.mark.admins
def test_a_secret_beside_a_passed_value_is_left_out() -> None:
    environment = {"DB_PASSWORD": f"x{PASSED['PART_OF_IT']}", **PASSED, "VLLM_HPC_PASSED": "PART_OF_IT"}
    code = to_shell(environment, [])
    assert "DB_PASSWORD" not in code
    assert "sesame" not in code


@pytest.mark.admins
def test_generated_values_arrive_whatever_is_passed() -> None:
    pick = random.Random(26)
    pieces = [*PASSED.values(), "a", "'", '"', "$HOME", "`id`", "${", "}", "\\", "\n", " ", "é", "\udcff", "*", "!"]
    for _ in range(40):
        passed = pick.sample(sorted(PASSED), pick.randint(0, len(PASSED)))
        values = {f"V_{n}": "".join(pick.choices(pieces, k=pick.randint(0, 5))) for n in range(30)}
        values = {name: value for name, value in values.items() if HF not in value}
        code = to_shell({**values, **{name: PASSED[name] for name in passed}, "VLLM_HPC_PASSED": " ".join(passed)}, [])
        found = on_node(code, *passed)
        assert {name: found.get(name) for name in values} == values
        assert not [name for name in passed if name != "SHORT" and PASSED[name] in code]
