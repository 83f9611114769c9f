"""What sbatch says when it refuses a job, and what to do about it: of what the job itself sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Cli
from vllm_hpc.schedulers.slurm.environment import is_given
from vllm_hpc.schedulers.slurm.refusals import explain

pytestmark = pytest.mark.inputs

_FAILED = "Batch job submission failed: "
_POLICY = f"{_FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
_TIME_LIMIT = f"{_FAILED}Requested time limit is invalid (missing or exceeds some limit)"
_MEMORY = f"Memory specification can not be satisfied {_FAILED}Requested node configuration is not available"
_GPUS = "the site may need another gpu_flag in the profile"
RECORDED: dict[str, str] = {
    # slurm-wlm 22.05.8: tests/slurm/cluster.sh up --accounting, with EnforcePartLimits=ALL and JobSubmitPlugins=lua
    f"QOSMaxSubmitJobPerUserLimit {_POLICY}": "as many jobs are queued as your --qos allows",
    f"QOSMaxWallDurationPerJobLimit {_POLICY}": "lower --time, or choose another --qos",
    f"QOSMaxNodePerJobLimit {_POLICY}": "lower --nodes, or choose another --qos",
    f"{_FAILED}Invalid job array specification": "lower --dp: 'scontrol show config' shows MaxArraySize",
    f"{_FAILED}Requested node configuration is not available": "shows what nodes have",
    f"{_FAILED}Node count specification invalid": "choose another --nodes",
    f"{_FAILED}More processors requested than permitted": "shows what nodes have",
    "Invalid generic resource (gres) specification": _GPUS,
    "Invalid --mem specification": "correct that option of --directive",
    "Invalid time specification (pos=0): xx Invalid --begin specification": "correct that option of --directive",
    f"{_FAILED}Invalid feature specification": "correct or remove --constraint",
    f"{_FAILED}Requested reservation is invalid": "correct or remove --reservation",
    f"{_FAILED}Invalid license specification": "correct or remove --licenses",
    f"{_FAILED}Invalid node name specified": "correct --nodelist",
    f"invalid partition specified: gpu {_FAILED}Invalid partition name specified": "give --partition: 'sinfo' lists",
    "unrecognized option '--nope' Try \"sbatch --help\" for more information": "sbatch does not take that option",
    f"Cannot find GPU specification, you may not submit a job not requesting GPUs in a GPU partition, partition: debug "
    f"{_FAILED}Unspecified error": _GPUS,
    "Job submit/allocate failed: Unspecified error": "a plugin of the site refused the job",
    "Unable to allocate resources: Unspecified error": "a plugin of the site refused the job",
    f"job 17: no account {_FAILED}Invalid account or account/partition combination specified": "lists your accounts",
    f"You must specify a project with -A {_FAILED}Unspecified error": "lists your accounts",
    # src/common/slurm_errno.c (Slurm 26.05)
    _POLICY: "you have too many jobs, or this one asks for too much: 'sacctmgr show qos'",
    f"AssocMaxSubmitJobLimit {_POLICY}": "as many jobs are queued as your --account allows",
    f"QOSGrpGRES {_POLICY}": "lower --nodes or --gpus-per-node, or choose another --qos",  # VUIIS/dax#504
    f"QOSMinGRES {_POLICY}": "raise --nodes or --gpus-per-node, or choose another --qos",
    f"AssocMaxCpuMinutesPerJobLimit {_POLICY}": "lower --time, --nodes or --gpus-per-node, or choose another --account",
    f"MaxMemoryPerAccount {_POLICY}": "lower --mem, or choose another --qos",
    f"{_FAILED}Burst Buffer request invalid": "correct or remove --bb or --bbf",
    f"{_FAILED}Burst Buffer permission denied": "correct or remove --bb or --bbf",
    f"{_FAILED}Licenses currently unavailable": "correct or remove --licenses",
    f"{_FAILED}Access denied to requested reservation": "correct or remove --reservation",
    f"{_FAILED}Job dependency problem": "correct or remove --dependency",
    f"{_FAILED}Invalid wckey specification": "correct or remove --wckey",
    f"{_FAILED}System submissions disabled": "try again later",
    f"{_FAILED}MaxJobCount limit reached": "try again later",
    f"{_FAILED}Rate limit exceeded, please retry later": "try again later",
    f"{_FAILED}Unable to contact slurm controller (connect failure)": "try again when the controller is up",
    f"{_FAILED}Incompatible versions of client and server code": "use another login node",
    f"{_FAILED}Protocol authentication error": "ask the site for access",
    f"{_FAILED}Access/permission denied": "ask the site for access",
    f"{_FAILED}I/O error writing script/environment to file": "tell the site",
    f"{_FAILED}User's group not permitted to use this partition": "or ask the site for access",
    f"{_FAILED}Required partition not available (inactive or drain)": "or wait for this one",
    f"{_FAILED}Partition in DOWN state": "or wait for this one",
    f"{_FAILED}Requested partition configuration not available now": "or wait for this one",
    f"{_FAILED}Invalid GRES specification (with and without type identification)": "name the GPU's type",
    f"{_FAILED}Requested GRES option unsupported by configured SelectType plugin": _GPUS,
    f"{_FAILED}Invalid Trackable RESource (TRES) specification": _GPUS,
    f"{_FAILED}Requested account has breached requested QOS usage threshold": "wait until less of it is used",
    # Plugins of sites: facebookincubator/submitit#1710, facebookresearch/LaViLa#42, CliMA/ClimaTimeSteppers.jl#424,
    # glotzerlab/signac-flow#59, outerloop-science/outerloop#176
    "Parameter --gres=gpu:1 no longer acceptable, please switch to --gpus=1": 'gpu_flag = "gpus-per-node"',
    f"You must always specify a type when requesting gpu GRES {_FAILED}Unspecified error": "name the GPU's type",
    f"ERROR: Invalid GPU specification. Use --gres=gpu:<type>:<count>. Make sure you specify a gpu type. {_FAILED}"
    "Unspecified error": "name the GPU's type",
    f"No gpu count given, specify --gres=gpu {_FAILED}Invalid generic resource (gres) specification": _GPUS,
    f"*** Error partition 'h200_courant' is not valid for this job {_FAILED}Unspecified error": "give --partition",
}
# Refusals whose advice depends on what the job sets: that option -> where it is set, where not.
DEPENDING: dict[str, tuple[str, str, str]] = {
    _TIME_LIMIT: ("--time=5-0", "choose a shorter --time", "give --time"),
    f"{_FAILED}Time limit specification required, but not provided": ("--time=5", "a shorter --time", "give --time"),
    # ncbi/sra-tools#91
    f"Job not submitted: please specify runtime limit with -t. {_TIME_LIMIT}": (
        "-t 5", "a shorter --time", "give --time",
    ),
    _MEMORY: ("--mem=900G", "lower --mem", "give --mem"),
    f"{_FAILED}Memory required by task is not available": ("--mem-per-cpu=9T", "lower --mem", "give --mem"),
    f"{_FAILED}Invalid account or account/partition combination specified": (
        "--account=x", "lists your accounts, and their partitions", "give --account",
    ),
    f"{_FAILED}Invalid qos specification": ("--qos=x", "choose another --qos", "give --qos"),
    f"{_FAILED}No partition specified or system default partition": ("-p x", "choose another --part", "give --part"),
}  # fmt: skip


def script(folder: Path, *directives: str) -> Path:
    file = folder / "script.sbatch"
    file.write_text("#!/bin/bash\n" + "".join(f"#SBATCH {line}\n" for line in directives) + "true\n")
    return file


@pytest.mark.parametrize("words", RECORDED)
def test_a_refusal_says_what_to_do(tmp_path: Path, words: str) -> None:
    said = explain(words, script(tmp_path, "--account=x"))
    assert RECORDED[words] in said
    assert said.isprintable()


@pytest.mark.parametrize("words", DEPENDING)
def test_it_names_an_option_as_the_job_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    directive, given, missing = DEPENDING[words]
    monkeypatch.delenv("SBATCH_TIMELIMIT", raising=False)
    said = explain(words, script(tmp_path))
    assert missing in said and given not in said
    said = explain(words, script(tmp_path, directive))
    assert given in said and missing not in said


@pytest.mark.parametrize(
    ("option", "directive", "variable"),
    [
        ("--time", "--time=5", "SBATCH_TIMELIMIT"),
        ("--time", "-t5", "SBATCH_TIMELIMIT"),
        ("--time", "--tim=5", "SBATCH_TIMELIMIT"),
        ("--mem", "--mem-per-gpu=5G", "SBATCH_MEM_PER_NODE"),
        ("--account", "-A x", "SBATCH_ACCOUNT"),
    ],
)
def test_what_a_job_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, directive: str, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert not is_given(option, script(tmp_path, "--nodes=1"))
    assert is_given(option, script(tmp_path, directive))
    monkeypatch.setenv(variable, "5")
    assert is_given(option, script(tmp_path, "--nodes=1"))


@pytest.mark.parametrize("words", ["", "exit code 3", "my site: no", "x" * 5000, "%s {} \\1 $HOME"])
def test_nothing_is_said_of_unknown_words(tmp_path: Path, words: str) -> None:
    assert explain(words, script(tmp_path)) == ""


@pytest.mark.parametrize(("options", "hint"), [([], "give --time"), (["--time", "5:00"], "a shorter --time")])
def test_the_command_says_it_in_one_line(desk: Path, model: Path, run_cli: Cli, options: list[str], hint: str) -> None:
    (desk / "bin" / "sbatch").write_text(f"#!/bin/sh\necho 'sbatch: error: {_TIME_LIMIT}' >&2; exit 1\n")
    ran = run_cli("submit", "model", "--scheduler", "slurm", "--name", "run", *options)
    assert (ran.code, ran.err.count("\n"), hint in ran.err) == (1, 1, True)
    assert not (desk / "runs" / "run").exists()
