"""Numbers that no machine has, in every option and key that takes one: taken, or refused soon and in one line."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from tests.conftest import Cli, Outcome
from tests.crafted import make_folder
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.submit import submit
from vllm_hpc.spec.errors import JobNotFoundError
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.request import Request

pytestmark = pytest.mark.trust

_DIGITS = "9" * 5000
OF_OPTIONS = (
    "0", "-1", "1025", "20000", "100000", "100001", str(10**6), str(2**63), str(2**64), _DIGITS, "-" + _DIGITS,
    "1e3", "1e300", "1e-300", "1e999", "nan", "-inf", "1.5", "0x10", "1_000", "٣", " 5 ", "", "5\n", "true",
)  # fmt: skip
OF_TOML = (
    "0", "-1", "1025", "20000", "100000", "100001", str(10**6), str(2**63), str(2**64), _DIGITS, "1e300", "1e-300",
    "1e999", "nan", "-inf", "1.5", "0xffff", "1_000", "true", "[]", "{}", "'5'", f"'{_DIGITS}'", "1979-05-27",
)  # fmt: skip
SIZES = ("999999999T", "1025T", "1024T", "0", "0G", "1K", "9999999999", _DIGITS, "5 G", "٣G", "1e3G")
TIMES = ("999999:59:59", "9999-23:59:59", "0-0:0:1", "0:0:0", "0", "999999", "1e3", _DIGITS, "٣", "-5", "5:")
OPTIONS = (
    "nodes", "gpus_per_node", "tp", "pp", "dp", "attention_dp", "cpus_per_rank", "max_tokens", "temperature", "top_p",
    "seed", "max_requeues", "drain_lead", "verify",
)  # fmt: skip
TEXTS = {"mem": SIZES, "mem_per_node": SIZES, "time": TIMES, "gpu": SIZES}
ENGINE = "max_model_len max_num_seqs max_num_batched_tokens gpu_memory_utilization kv_cache_memory_bytes block_size"
SAMPLING = "n top_k min_p seed logprobs min_tokens presence_penalty repetition_penalty"
REHEARSAL = "tokens_per_s load_s fault_rank fault_row fault_s"
# Numbers that do not go together, for which a layout is looked for that is near.
LAYOUTS = (
    "--nodes 99991 --gpus-per-node 1023 --tp 7 --pp 11 --dp 13", "--nodes 99961 --tp 99991 --pp 99989 --dp 99971",
    "--nodes 191 --gpus-per-node 1021 --tp 1020 --pp 97 --dp 89", "--tp 100000 --pp 100000 --dp 100000",
    "--nodes 100000 --gpus-per-node 1024", "--attention-dp 99991 --tp 7 --nodes 3", "--ep --nodes 99991",
    "--array --dp 100000 --nodes 1000 --gpus-per-node 8", "--nodes 3 --tp 7",
)  # fmt: skip


def check(outcome: Outcome, words: list[str]) -> None:
    """One line, or none."""
    said = [line for line in outcome.err.splitlines() if not line.startswith("Note: ")]
    assert outcome.code in (0, 1, 2), (words, outcome)
    assert len(said) == (outcome.code != 0), (words, outcome)
    assert all(len(line) < 700 for line in said), words


def try_all(run_cli: Cli, options: list[list[str]], *others: str) -> None:
    """Give each of these to plan, and a few to the other commands, which begin with the same."""
    began = time.monotonic()
    for place, given in enumerate(options):
        words = ["plan", "--scheduler", "slurm", *others, *given]
        check(run_cli(*words), words)
        if place % 6 in (0, 2):
            for command in ("render", "submit"):
                words = [command, "--rehearse", *words[1:]]
                check(run_cli(*words), words)
    assert time.monotonic() - began < 30 + len(options)


@pytest.mark.parametrize("key", [*OPTIONS, "mem", "time", "gpu"])
def test_an_option_is_taken_or_refused(model: Path, run_cli: Cli, key: str) -> None:
    option = f"--{key.replace('_', '-')}"
    try_all(run_cli, [[f"{option}={value}"] for value in (*OF_OPTIONS, *TEXTS.get(key, ()))], "--rehearse")
    try_all(run_cli, [[f"{option}={value}"] for value in OF_OPTIONS[:9:2]], str(model), "--gpu=h100-80")


@pytest.mark.parametrize("key", [*OPTIONS, "mem", "time"])
def test_a_key_of_job_toml_is_taken_or_refused(desk: Path, run_cli: Cli, key: str) -> None:
    (desk / "job").mkdir()
    for value in (*OF_TOML, *(f"'{text}'" for text in TEXTS.get(key, ()))):
        (desk / "job" / "job.toml").write_text(f"rehearse = true\n{key} = {value}\n")
        try_all(run_cli, [["job"]])


@pytest.mark.parametrize(
    "key",
    [
        "cpus_per_rank",
        "gpus_per_node",
        "cpus_per_node",
        "mem_per_node",
        "mem_per_gpu",
        "gpu_memory_gib",
        "network_gbps",
        "time",
        "mem",
        "max_requeues",
        "drain_lead",
    ],
)
def test_a_key_of_a_profile_is_taken_or_refused(desk: Path, run_cli: Cli, key: str) -> None:
    """gpus_per_node = 20000 took minutes, gpu_memory_gib = 1e300 ended in a traceback."""
    make_folder(desk / "model")
    node = "gpus_per_node = 8\n" if key.endswith("per_node") and key != "gpus_per_node" else ""
    for value in (*OF_TOML, *(f"'{text}'" for text in TEXTS.get(key, ()))):
        (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\n{node}{key} = {value}\n")
        try_all(run_cli, [["--rehearse", "--nodes=3", "--tp=7"]], "--profile=p")
        check(run_cli("plan", "model", "--profile=p", "--scheduler=pbs"), [value])


@pytest.mark.parametrize(("option", "names"), [("--engine", ENGINE), ("--sampling", SAMPLING)])
def test_a_value_for_vllm_is_taken_or_refused(model: Path, run_cli: Cli, option: str, names: str) -> None:
    given = [[f"{option}={name}={value}"] for name in names.split() for value in OF_OPTIONS[:16:2]]
    try_all(run_cli, given, str(model), "--gpu=h100-80")


def test_a_setting_of_a_rehearsal_is_taken_or_refused(run_cli: Cli) -> None:
    given = [f"--rehearse-set={name}={value}" for name in REHEARSAL.split() for value in OF_OPTIONS]
    try_all(run_cli, [[one, "--rehearse-set=fault=die"] for one in given], "--rehearse")


@pytest.mark.parametrize("words", LAYOUTS)
@pytest.mark.parametrize("profile", ["", "gpus_per_node = 1024\n"], ids=["unknown", "large"])
def test_an_impossible_layout_is_refused_soon(desk: Path, run_cli: Cli, words: str, profile: str) -> None:
    (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\n{profile}")
    try_all(run_cli, [words.split()], "--rehearse", "--profile=p")


def test_every_number_is_tried() -> None:
    """A new option or key that takes a number is to be added above."""

    def numbers(struct: type[msgspec.Struct]) -> set[str]:
        fields = msgspec.json.schema(struct)["$defs"][struct.__name__]["properties"]
        texts = {name: str(field.get("anyOf", [field])) for name, field in fields.items()}
        return {name for name, text in texts.items() if "'integer'" in text or "'number'" in text}

    assert numbers(Request) == set(OPTIONS)
    assert numbers(Profile) == {
        *("cpus_per_rank", "gpus_per_node", "cpus_per_node", "gpu_memory_gib", "max_requeues", "drain_lead"),
        "network_gbps",
    }


@pytest.mark.parametrize("key", ["nodes", "gpus_per_node", "procs_per_node", "tp", "pp", "dp", "attention_dp"])
def test_a_job_of_too_many_ranks_is_not_looked_through(desk: Path, run_cli: Cli, key: str) -> None:
    """A damaged job.json, or another user's: status asked for the files of each rank."""
    job = submit(rehearse=True, scheduler="slurm", name="first")
    record = msgspec.json.decode(job.folder.job_json.read_bytes())
    record["plan"]["layout"][key] = 10**6
    job.folder.job_json.write_bytes(msgspec.json.encode(record))
    for words in (["status", "runs/first"], ["list"], ["logs", "runs/first", "--rank=1"], ["collect", "runs/first"]):
        assert run_cli(*words).code in (0, 1, 2)
    with pytest.raises(JobNotFoundError, match=r"no readable job\.json"):
        JobFolder(job.path).job()
