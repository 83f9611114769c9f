"""Requests: what is accepted at the edge, what is refused, and how job.toml and options come together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_hpc.checks import check_name, parse_walltime
from vllm_hpc.errors import RequestError
from vllm_hpc.request import Request, make_request


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
        "~",
        "#",
        "a*",
    ],
)
def test_names_that_work(name: str) -> None:
    assert make_request({"model": "demo", "name": name}).name == name


@pytest.mark.parametrize(
    "name",
    ["a\\b", "", " ", ".", "..", ".hidden", "-x", "a/b", "/abs", "../up", "a\nb", "a\tb", "a\x00b", "a\x7fb", "x" * 201,
     "é" * 101, "job-%j", "%t", "a%Ab", "%a", "\udcff"],
)  # fmt: skip
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="--name"):
        make_request({"model": "demo", "name": name})
    with pytest.raises(RequestError):
        check_name(name, "--name")


@pytest.mark.parametrize("folder", ["", "a\nb", "runs/%j", "\udc80"])
def test_a_job_dir_that_a_script_could_not_carry_is_refused(folder: str) -> None:
    with pytest.raises(RequestError, match="--job-dir"):
        make_request({"model": "demo", "job_dir": folder})


@pytest.mark.parametrize("key", ["HF_TOKEN", "hf_token", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "OPENAI_API_KEY"])
def test_a_secret_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(RequestError, match=key) as caught:
        make_request({"model": "demo", "env": {key: "hunter2"}})
    assert "hunter2" not in str(caught.value)
    assert "export it" in str(caught.value)


def test_a_plain_variable_is_taken() -> None:
    env = {"NCCL_DEBUG": "INFO", "EMPTY": "", "WITH": "a 'b' \"c\" $d é"}
    assert make_request({"model": "demo", "env": env}).env == env


@pytest.mark.parametrize("key", ["1A", "A-B", "A B", "A;B", "é", ""])
def test_what_is_no_variable_name_is_refused(key: str) -> None:
    with pytest.raises(RequestError, match="environment variable"):
        make_request({"model": "demo", "env": {key: "x"}})


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
        ({"scheduler": "loadleveler"}, "--scheduler"),
        ({"sampling": {"max_tokens": 3}, "max_tokens": 4}, "--max-tokens"),
        ({"engine": {"tensor_parallel_size": 8}}, "use --tp"),
        ({"engine": {"pipeline_parallel_size": 8}}, "use --pp"),
        ({"engine": {"model": "other"}}, "use MODEL"),
        ({"engine": {"distributed_executor_backend": "ray"}}, "external_launcher"),
        ({"frobnicate": 1}, "no such option: 'frobnicate'"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        make_request({"model": "demo", **options})
    assert "`" not in str(caught.value)


def test_long_contexts_can_be_asked_for() -> None:
    assert make_request({"model": "demo", "max_tokens": 131_072}).max_tokens == 131_072


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
