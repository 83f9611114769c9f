"""Requests: what is accepted at the edge, what is refused, and how job.toml and options come together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vllm_hpc
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.job_definition import make_request
from vllm_hpc.spec.request import Request, convert_options
from vllm_hpc.spec.values import check_name, check_shell_lines, parse_walltime


def write_definition(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "job.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30 * 60),
        ("1:30", 90),
        ("02:00:00", 7200),
        ("1-0", 86400),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 1800),
        ("1-02:03:04", 86400 + 7384),
        ("100:00:00", 360_000),
        ("0:01", 1),
    ],
)
def test_every_walltime_form_of_slurm(text: str, seconds: int) -> None:
    assert parse_walltime(text) == seconds
    assert make_request({"model": "demo", "time": text}).time == text


@pytest.mark.parametrize(
    "text",
    ["", "0", "00:00:00", "0-0", "-5", "1h", "1:2:3:4", "1-", "-1:00", "1.5", " 30", "30 ", "30\n", "1:", ":30",
     "1-2-3", "tomorrow", "٣٠", "1:٣٠"],
)  # fmt: skip
def test_what_is_no_walltime_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--time"):
        make_request({"model": "demo", "time": text})


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_a_written_walltime_is_read_back(days: int, hours: int, minutes: int, seconds: int) -> None:
    assert parse_walltime(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == (
        ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    )


@pytest.mark.parametrize(
    "name",
    [
        "run",
        "run 1",
        "naïve",
        "日本語",
        "a.b",
        "it's",
        'a"b',
        "$(id)",
        "a;b",
        "100%",
        "x" * 200,
        "a~",
        "#",
        "7b",
        "2026-11-22",
        "197-first",
        "1.5",
    ],
)
def test_names_that_work(name: str) -> None:
    assert make_request({"model": "demo", "name": name}).name == name


@pytest.mark.parametrize(
    "name",
    ["a\\b", "", " ", ".", "..", ".hidden", "-x", "a/b", "/abs", "../up", "a\nb", "a\tb", "a\x00b", "a\x7fb", "x" * 201,
     "é" * 101, "job-%j", "%t", "a%Ab", "%a", "\udcff",
     "x ", " x", "*", "a*", "~", "~root", "a\u202eb", "a\u200bb", "a\u2066b", "a\ufeff", "a\u00a0b", "a\u3000",
     "a\u2028b"],
)  # fmt: skip
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="--name"):
        make_request({"model": "demo", "name": name})
    with pytest.raises(RequestError):
        check_name(name, "--name")


@pytest.mark.parametrize(
    "name", ["197", "0", "197_1", "197_[0-3]", "197+1", "197;alps", "197_1;alps", "4711-1763820000", "197[]"]
)
def test_a_name_that_looks_like_a_job_id_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=r"--name .* looks like a scheduler's job id"):
        make_request({"model": "demo", "name": name})
    check_name(name, "a model's folder may be called so: ")


@pytest.mark.parametrize("folder", ["", "a\nb", "runs/%j", "\udc80"])
def test_a_job_dir_that_a_script_could_not_carry_is_refused(folder: str) -> None:
    with pytest.raises(RequestError, match="--job-dir"):
        make_request({"model": "demo", "job_dir": folder})


@pytest.mark.parametrize(
    "key",
    ["HF_TOKEN", "hf_token", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "OPENAI_API_KEY", "SLURM_JWT", "GITHUB_PAT",
     "PAT", "SSH_PASSPHRASE", "MINIO_ACCESS_KEY"],
)  # fmt: skip
def test_a_secret_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(RequestError, match=key) as caught:
        make_request({"model": "demo", "env": {key: "hunter2"}})
    assert "hunter2" not in str(caught.value)
    assert "export it" in str(caught.value)
    assert "hand it over by its name: --env NAME" in str(caught.value)


def test_a_plain_variable_is_taken() -> None:
    env = {
        "NCCL_DEBUG": "INFO", "EMPTY": "", "WITH": "a 'b' \"c\" $d é", "https_proxy": "http://proxy:80", "EPOCHS": "3",
        "LD_PRELOAD": "/usr/lib/libtcmalloc.so.4", "VLLM_HPC_JOIN_TIMEOUT": "600", "PYTHONPATH": "/site", "Lib": "x",
        "OMP_NUM_THREADS": "4", "TOKENIZERS_PARALLELISM": "false", "LD_LIBRARY_PATH": "/usr/lib",
        "VLLM_HPC_STALL_S": "1800", "VLLM_HPC_SYNC_S": "30", "VLLM_HPC_DEAD_S": "60", "VLLM_HPC_SHARED_IMPORT": "off",
    }  # fmt: skip
    assert make_request({"model": "demo", "env": env}).env == env


@pytest.mark.parametrize("key", ["1A", "A-B", "A B", "A;B", "é", ""])
def test_what_is_no_variable_name_is_refused(key: str) -> None:
    with pytest.raises(RequestError, match="environment variable"):
        make_request({"model": "demo", "env": {key: "x"}})


@pytest.mark.parametrize(
    "key",
    ["job", "attempt", "nodes", "PATH", "SECONDS", "UID", "EUID", "PPID", "IFS", "BASH_ENV", "BASHOPTS", "ENV",
     "SLURM_JOB_ID", "SLURM_CONF", "SLURMD_NODENAME", "SBATCH_PARTITION", "PBS_JOBID", "RANK", "LOCAL_RANK",
     "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT",
     "TORCHELASTIC_RUN_ID", "VLLM_HPC_FOLDER", "VLLM_HPC_JOIN_TIMEOUT_S", "SUBMITIT_EXECUTOR", "VLLM_PORT",
     "VLLM_HOST_IP", "_"],
)  # fmt: skip
def test_a_variable_that_the_job_lives_by_is_refused(key: str) -> None:
    with pytest.raises(RequestError, match=rf"--env {key} cannot be set: "):
        make_request({"model": "demo", "env": {key: "7"}})


# What a template gives a value first, and a person may give another.
MAY_BE_SET = {
    "USER", "HOME",  # only where it is not set, or cannot be used
    "TMPDIR",  # of a profile with scratch, the node has the last word
    "OMP_NUM_THREADS", "VLLM_ALLREDUCE_USE_SYMM_MEM", "VLLM_NO_USAGE_STATS", "GLOO_SOCKET_IFNAME",
    "PYTHONUNBUFFERED", "PYTHONSAFEPATH", "PYTHONNOUSERSITE", "PYTHONPATH",
}  # fmt: skip


def assigned_in_templates() -> set[str]:
    """The variables that the shell code of the templates and of lifecycle.sh sets, by =, for, read or mapfile."""
    folder = Path(vllm_hpc.__file__).parent / "templates"
    text = "".join(path.read_text() for path in folder.glob("*.j2"))
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}", "", text, flags=re.DOTALL) + (folder / "lifecycle.sh").read_text()
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    found = re.findall(r"(?:^|[\s;(])([A-Za-z_]\w*)\+?=(?!=)", text)
    for declaration in re.findall(r"\b(?:local|declare|mapfile|read|for)((?: +-\w+)* +[a-z_]\w*)", text):
        found.append(declaration.split()[-1])
    return set(found)


def test_no_variable_of_the_templates_can_be_set() -> None:
    found = assigned_in_templates()
    assert {"job", "attempt", "_vh_work", "i", "nodes", "pending", "code", "VLLM_HPC_HEAD"} <= found, "they are seen"
    for name in found - MAY_BE_SET:
        with pytest.raises(RequestError, match=name):
            make_request({"model": "demo", "env": {name: "7"}})


@pytest.mark.parametrize("value", ["abc", "", "0", "-1", "1.5", "60s", " 60", "٦٠"])
def test_a_join_timeout_that_is_no_number_of_seconds_is_refused(value: str) -> None:
    with pytest.raises(RequestError, match=r"VLLM_HPC_JOIN_TIMEOUT.*whole number of seconds"):
        make_request({"model": "demo", "env": {"VLLM_HPC_JOIN_TIMEOUT": value}})


@pytest.mark.parametrize(
    "line",
    ["--export=API_KEY=hunter2", "--export=ALL,HF_TOKEN=hunter2", "--comment=TOKEN=hunter2", "--comment TOKEN=hunter2",
     "--comment=api-key=hunter2", "--export=HF_TOKEN=$HF_TOKEN", "--comment=SLURM_JWT=hunter2"],
)  # fmt: skip
def test_a_secret_in_a_directive_is_refused_and_named_whole(line: str) -> None:
    name = re.findall(r"[A-Za-z_-]+(?==)", line)[-1]
    with pytest.raises(RequestError, match=rf"--directive {name}=\.\.\. looks like a secret") as caught:
        make_request({"model": "demo", "directive": [line]})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    ["export HF_TOKEN=$(cat ~/.hf)", 'export HF_TOKEN="$(cat "$HOME/.hf")"', 'export "HF_TOKEN=$(cat ~/.hf)"',
     "HF_TOKEN=`cat ~/.hf`; export HF_TOKEN", "export HF_TOKEN=$MY_TOKEN", 'export HF_TOKEN="${MY_TOKEN:?}" A=1',
     'export HF_TOKEN="${HF_TOKEN:-}"', 'export HF_TOKEN=""', "unset HF_TOKEN", "read -r HF_TOKEN < ~/.hf"],
)  # fmt: skip
def test_a_line_of_set_up_may_say_where_a_secret_is(line: str) -> None:
    check_shell_lines((line,), "setup")


@pytest.mark.parametrize(
    "line",
    ["export HF_TOKEN=hunter2", "export HF_TOKEN='hunter2'", "A=$(x) HF_TOKEN=hunter2", "HF_TOKEN=${X:-hunter2}",
     "HF_TOKEN=hunter2$X", "HF_TOKEN=$X-hunter2", "login --token=hunter2", "login --api-key=hunter2"],
)  # fmt: skip
def test_a_line_of_set_up_that_holds_a_secret_is_refused(line: str) -> None:
    with pytest.raises(RequestError, match="looks like a secret") as caught:
        check_shell_lines((line,), "setup")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("mem", ["64G", "64000M", "0", "1T", "64GB", "64g", "512"])
def test_memory_that_works(mem: str) -> None:
    assert make_request({"model": "demo", "mem": mem}).mem == mem


@pytest.mark.parametrize("mem", ["", "lots", "64 G", "-1G", "1.5G", "G", "64G\n", "٦٤G"])
def test_memory_that_is_refused(mem: str) -> None:
    with pytest.raises(RequestError, match="--mem"):
        make_request({"model": "demo", "mem": mem})


@pytest.mark.parametrize("option", ["partition", "account", "qos", "directive", "env"])
def test_a_second_line_is_refused_and_the_option_named(option: str) -> None:
    text = "a\n#SBATCH --exclusive"
    value: Any = {"directive": [text], "env": {"A": text}}.get(option, text)
    with pytest.raises(RequestError, match=f"--{option}"):
        make_request({"model": "demo", option: value})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tp": 0}, "--tp"),
        ({"tp": "four"}, "--tp"),
        ({"tp": True}, "--tp"),
        ({"tp": 1.5}, "--tp"),
        ({"gpus_per_node": -1}, "--gpus-per-node"),
        ({"temperature": -0.1}, "--temperature"),
        ({"temperature": float("nan")}, "--temperature"),
        ({"temperature": float("inf")}, "--temperature"),
        ({"top_p": 0.0}, "--top-p"),
        ({"top_p": 1.1}, "--top-p"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**32}, "--seed"),
        ({"scheduler": "loadleveler"}, '--scheduler must be one of "auto", "kubernetes", "local", "pbs", "slurm"'),
        ({"time": 120}, '--time must be a string such as "2:00:00"'),
        ({"name": 3}, '--name must be a string such as "first"'),
        ({"tp": "2"}, "--tp must be a whole number from 1 to 100000"),
        ({"temperature": "hot"}, "--temperature must be a number"),
        ({"array": "yes"}, "--array must be true or false"),
        ({"directive": "--hold"}, r'--directive must be a list of strings such as \["--constraint=h100"\]'),
        ({"directive": [3]}, "--directive must be a list of strings"),
        ({"env": {"A": 1}}, r'--env must be a table of strings such as \{ NCCL_DEBUG = "INFO" \}'),
        ({"engine": 3}, r"--engine must be a table such as \{ max_num_seqs = 64 \}"),
        ({"sampling": {"temperature": -3}}, "--sampling temperature -3 must be a number, 0 or more"),
        ({"sampling": {"temperature": float("inf")}}, "--sampling temperature"),
        ({"sampling": {"temperature": "hot"}}, "--sampling temperature 'hot' must be a number, 0 or more"),
        ({"sampling": {"temperature": True}}, "--sampling temperature"),
        ({"sampling": {"temperature": 10**400}}, "--sampling temperature"),
        ({"sampling": {"top_p": 0}}, "--sampling top_p"),
        ({"sampling": {"top_p": 1.5}}, "--sampling top_p 1.5 must be a number above 0"),
        ({"sampling": {"max_tokens": 0}}, "--sampling max_tokens 0 must be a whole number from 1"),
        ({"sampling": {"max_tokens": 1.5}}, "--sampling max_tokens"),
        ({"sampling": {"n": 0}}, "--sampling n 0 must be a whole number, 1 or more"),
        ({"sampling": {"top_k": -5}}, "--sampling top_k -5 must be a whole number, -1 or more"),
        ({"sampling": {"presence_penalty": 99}}, "--sampling presence_penalty 99 must be a number from -2 to 2"),
        ({"sampling": {"repetition_penalty": 0}}, "--sampling repetition_penalty 0 must be a number above 0"),
        ({"sampling": {"seed": -1}}, "--sampling seed -1 must be a whole number from 0"),
        ({"sampling": {"max_tokens": 3}, "max_tokens": 4}, "--max-tokens"),
        ({"engine": {"tensor_parallel_size": 8}}, "use --tp"),
        ({"engine": {"pipeline_parallel_size": 8}}, "use --pp"),
        ({"engine": {"model": "other"}}, "use MODEL"),
        ({"engine": {"distributed_executor_backend": "ray"}}, "external_launcher"),
        ({"frobnicate": 1}, "no such option: 'frobnicate'$"),
        ({"tempratur": 1}, "no such option: 'tempratur': did you mean 'temperature'\\?"),
        ({"prompts": ["a"]}, "no such option: 'prompts': use 'prompt' for the column or the template, or 'input'"),
        ({"tensor_parallel_size": 2}, "no such option: 'tensor_parallel_size': use 'tp'$"),
        ({"pipeline_parallel_size": 2}, "use 'pp'$"),
        ({"data_parallel_size": 2}, "use 'dp'$"),
        ({"num_nodes": 2}, "use 'nodes'$"),
        ({"messages": []}, "use 'input', the name of a file"),
        ({"max_model_len": 4096}, "an argument of vLLM's engine: write it into 'engine', as max_model_len=..."),
        ({"top_k": 4}, "a parameter of sampling: write it into 'sampling', as top_k=..."),
        ({"rename": "a=b"}, r'--rename must be a table .*, or in Python \{"question": "prompt"\}$'),
        ({"engine": "a=b"}, r'--engine must be a table .*, or in Python \{"max_num_seqs": 64\}$'),
        ({"prompt": "What is 2+2?"}, "for the rows of 'input', which is missing: write the prompts themselves into a"),
        ({"prompt": "Q: {question}", "input": "x"}, r"double braces, as in 'Q: \{\{ question \}\}'$"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        make_request({"model": "demo", **options})
    assert "`" not in str(caught.value)


def test_long_contexts_can_be_asked_for() -> None:
    assert make_request({"model": "demo", "max_tokens": 131_072}).max_tokens == 131_072


def test_sampling_that_can_be_meant() -> None:
    sampling = {"temperature": 0, "top_p": 1, "max_tokens": None, "seed": 7, "min_p": 0.1}
    assert make_request({"model": "demo", "sampling": sampling, "seed": 8}).sampling == sampling


@pytest.mark.parametrize("table", ["engine", "sampling"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_a_number_that_job_json_cannot_hold_is_refused(table: str, value: float) -> None:
    with pytest.raises(RequestError, match=f"--{table}"):
        make_request({"model": "demo", table: {"some_argument": value}})


def test_model_is_needed() -> None:
    with pytest.raises(RequestError, match="MODEL is missing"):
        make_request({"tp": 1, "model": None})


def test_none_is_not_given() -> None:
    assert make_request({"model": "demo", "tp": None, "seed": None}) == Request(model="demo")


def test_options_win_over_the_definition(tmp_path: Path) -> None:
    job = write_definition(tmp_path / "job", 'model = "org/model"\ntp = 2\nnodes = 4\ntemperature = 0.5\n')
    request = make_request({"model": str(job), "tp": 8, "temperature": 0.0})
    assert (request.model, request.tp, request.nodes, request.temperature) == ("org/model", 8, 4, 0.0)


def test_tables_win_key_by_key(tmp_path: Path) -> None:
    job = write_definition(
        tmp_path / "job",
        'model = "demo"\n[sampling]\nn = 2\nstop = ["x"]\n[engine]\ndtype = "auto"\n[env]\nA = "1"\nB = "2"\n',
    )
    request = make_request(
        {"model": str(job), "sampling": {"n": 3}, "engine": {"max_model_len": 9}, "env": {"B": "3", "C": "4"}}
    )
    assert request.sampling == {"n": 3, "stop": ["x"]}
    assert request.engine == {"dtype": "auto", "max_model_len": 9}
    assert request.env == {"A": "1", "B": "3", "C": "4"}


def test_paths_of_a_definition_are_relative_to_its_folder(tmp_path: Path) -> None:
    job = write_definition(
        tmp_path / "job", 'model = "./weights"\ninput = "prompts.jsonl"\ntemplate_dir = "../templates"\n'
    )
    request = make_request({"model": str(job)})
    assert Path(request.model) == job / "weights"
    assert request.input == str(job / "prompts.jsonl")
    assert request.template_dir == str(job / "../templates")


def test_absolute_and_home_paths_of_a_definition_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    job = write_definition(tmp_path / "job", 'model = "~/weights"\ninput = "/data/prompts.jsonl"\n')
    request = make_request({"model": str(job)})
    assert (request.model, request.input) == ("/home/ada/weights", "/data/prompts.jsonl")


def test_an_input_on_the_command_line_is_relative_to_the_working_directory(tmp_path: Path) -> None:
    job = write_definition(tmp_path / "job", 'model = "demo"\ninput = "prompts.jsonl"\n')
    assert make_request({"model": str(job), "input": "mine.jsonl"}).input == "mine.jsonl"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('model = "demo"\ntensor_parallel = 2\n', "unknown key 'tensor_parallel'"),
        ('model = "demo"\ngpus-per-node = 2\n', "unknown key 'gpus-per-node'"),
        ("model = demo\n", "not valid TOML.*line 1"),
        ("tp = 2\n", "'model' is missing"),
        ('model = "demo"\ntp = "two"\n', "tp"),
        ('model = "demo"\nsampling = 3\n', "sampling"),
        ('model = "demo"\nname = "a/b"\n', "a/b"),
        ("model = 3\n", "model"),
        ('model = "demo"\ninput = 3\n', "input"),
        ('model = "demo"\n[env]\nA = 1\n', "env"),
        ('model = "demo"\nx = ' + "[" * 5000 + "]" * 5000, "TOML"),
    ],
    ids=["unknown", "hyphens", "syntax", "no model", "type", "no table", "name", "model", "input", "env", "deep"],
)
def test_a_bad_definition_is_refused_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    job = write_definition(tmp_path / "job", text)
    with pytest.raises(RequestError, match=said) as caught:
        make_request({"model": str(job)})
    assert "job.toml" in str(caught.value)


def test_a_definition_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    job = write_definition(tmp_path / "job", "")
    (job / "job.toml").write_bytes(b'model = "\xff"\n')
    with pytest.raises(RequestError, match=r"job\.toml: not valid TOML"):
        make_request({"model": str(job)})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model", "m\udcff"),
        ("input", "in\udcff.jsonl"),
        ("prompt_column", "q\udcff"),
        ("prompt_template", "{{ q }}\udcff"),
        ("rename", {"q\udcff": "prompt"}),
        ("rename", {"q": "prompt\udcff"}),
        ("chat_template", "chat\udcff.jinja"),
        ("chat_template", "{{ messages }}\udcff"),
        ("lora", ["a=/adapters/\udcff"]),
    ],
    ids=["model", "input", "column", "template", "old name", "new name", "chat file", "chat template", "lora"],
)
def test_bytes_that_are_not_utf_8_are_refused(option: str, value: Any) -> None:
    """They were a traceback: neither job.json nor the input that is stored can have them."""
    name = "MODEL" if option == "model" else f"--{option.replace('_', '-')}"
    with pytest.raises(RequestError, match=f"^{name} .+ is not valid UTF-8: write it in UTF-8, or rename the file$"):
        convert_options({"model": "demo", option: value})
