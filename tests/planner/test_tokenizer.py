"""Models without a tokenizer or a chat template: said by plan, refused by submit; and never what vLLM takes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.marks import beside_vllm
from tests.published_models import SMALL_CONFIG
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.vllm_arguments import templated_models

pytestmark = pytest.mark.inputs

CHAT = '{"messages": [{"role": "user", "content": "Hi"}]}\n'
WITH_TEMPLATE = {"chat_template": "{{ messages }}"}
NO_TEMPLATE = "the input has chats, but '{folder}' has no chat template: use --chat-template FILE"
NO_TOKENIZER = "'{folder}' has no tokenizer: use --engine tokenizer=PATH"
EMPTY_TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
}
TOKENIZER: dict[str, Any] = {"tokenizer.json": EMPTY_TOKENIZER, "tokenizer_config.json": {"bos_token": "<s>"}}
WEIGHTS = {"pytorch_model.bin": "x"}


@pytest.fixture
def model(model: Path) -> Path:
    """A model folder of nothing but a config.json."""
    for file in model.iterdir():
        if file.name != "config.json":
            file.unlink()
    return model


@pytest.fixture
def chats(model: Path) -> Path:
    """A model folder of a config.json, and an input of one chat."""
    (model.parent / "in.jsonl").write_text(CHAT)
    return model


def add(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def reasons(**options: Any) -> str:
    return "\n".join(plan_only("model", scheduler="slurm", **options).reasons)


# -- chat templates --------------------------------------------------------------------------------------------------
# Where the template is, or may be, by the files beside config.json; and what config.json says.
TEMPLATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a string": ({"tokenizer_config.json": WITH_TEMPLATE}, {}),
    "named ones": ({"tokenizer_config.json": {"chat_template": [{"name": "default", "template": "{{ m }}"}]}}, {}),
    "a file": ({"chat_template.jinja": "{{ messages }}", **TOKENIZER}, {}),
    "more files": ({"additional_chat_templates/default.jinja": "{{ messages }}", **TOKENIZER}, {}),
    "a processor's file": ({"chat_template.json": WITH_TEMPLATE, **TOKENIZER}, {}),
    "a processor's": ({"processor_config.json": WITH_TEMPLATE, **TOKENIZER}, {}),
    "an older processor's": ({"preprocessor_config.json": WITH_TEMPLATE, **TOKENIZER}, {}),
    "in a gguf": ({"model-Q4_K_M.gguf": "x"}, {}),
    "code beside it": ({"tokenization_chatglm.py": "", **TOKENIZER}, {}),
    "code that is named": ({"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["a.B", None]}}}, {}),
    "code in config.json": (TOKENIZER, {"auto_map": {"AutoProcessor": "processing.P"}}),
    "Mistral's": ({"tekken.json": {}}, {}),
    "Mistral's older": ({"tokenizer.model.v3": "", **TOKENIZER}, {}),
    "vLLM's own rendering": (TOKENIZER, {"architectures": ["DeepseekV32ForCausalLM"]}),
    "and of another": (TOKENIZER, {"architectures": ["InklingForConditionalGeneration"]}),
    "vLLM's own template": (TOKENIZER, {"model_type": "minicpmv"}),
    "and of OCR": (TOKENIZER, {"model_type": "deepseek_ocr"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_where_a_template_is_or_may_be_nothing_is_said(chats: Path, name: str) -> None:
    files, config = TEMPLATES[name]
    add(chats, {"config.json": {**SMALL_CONFIG, **config}, **files})
    assert "chat template" not in reasons(input="in.jsonl")


# Files that hold no template.
BARE: dict[str, dict[str, Any]] = {
    "tokenizer alone": TOKENIZER,
    "null": {"tokenizer.json": EMPTY_TOKENIZER, "tokenizer_config.json": {"chat_template": None}},
    "sentencepiece": {"tokenizer.model": "x"},
    "with infinity": {"tokenizer.json": EMPTY_TOKENIZER, "tokenizer_config.json": '{"model_max_length": Infinity}'},
    "weights, and no tokenizer either": WEIGHTS,
    "an empty folder of more": {**TOKENIZER, "additional_chat_templates/readme.txt": ""},
    "with weights": {**TOKENIZER, "model.gguf.txt": "", "pytorch_model.bin": "x"},
}


@pytest.mark.parametrize("name", BARE)
def test_chats_need_a_template(chats: Path, run_cli: Cli, name: str) -> None:
    add(chats, BARE[name])
    said = NO_TEMPLATE.format(folder=chats)
    assert said in reasons(input="in.jsonl")
    refused = run_cli("submit", "model", "--input", "in.jsonl", "--scheduler", "slurm")
    assert (refused.code, refused.out) == (2, ""), refused
    assert refused.err.startswith("Error: ")
    assert refused.err.count("\n") == 1
    assert not (chats.parent / "runs").exists()
    if "no tokenizer" not in name:
        assert said in refused.err


@pytest.mark.parametrize(
    ("files", "is_refused"),
    [
        ({"chat_template.json": WITH_TEMPLATE}, True),
        ({"processor_config.json": WITH_TEMPLATE}, True),
        ({"chat_template.json": WITH_TEMPLATE, "tokenizer_config.json": WITH_TEMPLATE}, False),
        ({"chat_template.jinja": "{{ messages }}"}, False),
    ],
    ids=range(4),
)
def test_a_processors_template_is_not_for_tools(chats: Path, files: dict[str, Any], is_refused: bool) -> None:
    """vllm/renderers/hf.py, resolve_chat_template (0.26 and 0.32); as in QwenLM/Qwen3-Omni's issue 105."""
    add(chats, {**TOKENIZER, **WEIGHTS, **files})
    (chats.parent / "in.jsonl").write_text(CHAT.replace("}\n", ', "tools": [{"type": "function"}]}\n'))
    assert ("takes no processor's chat template" in reasons(input="in.jsonl")) == is_refused
    assert "template" not in reasons(input="in.jsonl", chat_template="{{ messages }}")


TOOLS = '"tools": [{"type": "function"}]'
PLAIN, TOOLED = CHAT, CHAT.replace("}\n", f", {TOOLS}}}\n")


def named(*names: str) -> dict[str, Any]:
    return {
        "tokenizer_config.json": {"chat_template": [{"name": name, "template": "{{ messages }}"} for name in names]}
    }


# Named templates, the rows, and what they lack: as transformers' get_chat_template and vLLM's resolve_chat_template.
ONLY = "chats without tools, which need the chat template 'default', and '{folder}' has only 'rag', 'tool_use': write"
NAMED: dict[str, tuple[dict[str, Any], str, str]] = {
    "default": (named("default", "tool_use"), PLAIN + TOOLED, ""),
    "default alone": (named("default"), PLAIN + TOOLED, ""),
    "without default": (named("tool_use", "rag"), PLAIN, ONLY),
    "without default, with and without tools": (named("tool_use", "rag"), PLAIN + TOOLED, ONLY),
    "tool_use, for tools": (named("tool_use"), TOOLED, ""),
    "rag, for tools": (named("rag"), TOOLED, "chats with tools, which need the chat template 'tool_use' or 'default'"),
    "files": ({"additional_chat_templates/tool_use.jinja": "{{ messages }}"}, PLAIN, "has only 'tool_use'"),
    "files, for tools": ({"additional_chat_templates/tool_use.jinja": "{{ messages }}"}, TOOLED, ""),
    "files replace the config's": (
        {"additional_chat_templates/tool_use.jinja": "{{ messages }}", "tokenizer_config.json": WITH_TEMPLATE}, PLAIN,
        "has only 'tool_use'",
    ),
    "files with a default": (
        {"additional_chat_templates/tool_use.jinja": "{{ messages }}", "chat_template.jinja": "{{ messages }}"},
        PLAIN + TOOLED, "",
    ),
    "a folder of another name": ({"chat_templates/default.jinja": "{{ messages }}"}, PLAIN, "has no chat template"),
    "a processor's beside": ({**named("tool_use"), "chat_template.json": WITH_TEMPLATE}, PLAIN + TOOLED, ""),
    "code": ({**named("tool_use"), "tokenization_x.py": ""}, PLAIN, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_templates_with_names_are_taken_as_transformers_does(chats: Path, run_cli: Cli, name: str) -> None:
    files, rows, said = NAMED[name]
    add(chats, {"tokenizer.json": EMPTY_TOKENIZER, **WEIGHTS, **files})
    (chats.parent / "in.jsonl").write_text(rows)
    refused = run_cli("submit", "model", "--input", "in.jsonl", "--scheduler", "slurm")
    assert (refused.code, said.format(folder=chats) in refused.err) == (2 if said else 0, True), refused
    assert "which need the chat template" not in reasons(input="in.jsonl", chat_template="{{ messages }}")


@beside_vllm
@pytest.mark.parametrize("name", sorted(NAMED.keys() - {"a processor's beside", "code"}))
def test_and_transformers_does(tmp_path: Path, name: str) -> None:
    from transformers import PreTrainedTokenizerFast

    files, rows, said = NAMED[name]
    add(tmp_path, {"tokenizer.json": EMPTY_TOKENIZER, "tokenizer_config.json": {}, **files})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    failures = 0
    for row in map(json.loads, rows.splitlines()):
        try:
            tokenizer.get_chat_template(tools=row.get("tools"))
        except ValueError:
            failures += 1
    assert bool(failures) == bool(said)


def test_plan_says_what_submit_refuses(chats: Path, run_cli: Cli) -> None:
    add(chats, TOKENIZER)
    said = NO_TEMPLATE.format(folder=chats)
    told = run_cli("plan", "model", "--input", "in.jsonl", "--scheduler", "slurm")
    assert (told.code, told.err.startswith(f"Note: submit refuses this: {said}")) == (0, True)
    printed = run_cli("plan", "model", "--input", "in.jsonl", "--scheduler", "slurm", "--json")
    assert (printed.code, printed.err) == (0, "")
    assert any(reason.startswith(said) for reason in json.loads(printed.out)["reasons"])


def test_overrides_of_lengths_leave_the_tokenizer_as_it_is(chats: Path) -> None:
    add(chats, {**TOKENIZER, **WEIGHTS})
    (chats.parent / "in.jsonl").write_text(CHAT)
    assert "no chat template" in reasons(input="in.jsonl", engine={"hf_overrides": {"rope_theta": 1e6}})


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (CHAT, {"chat_template": "chat.jinja"}),
        (CHAT, {"chat_template": "{{ messages }}"}),
        (CHAT, {"engine": {"tokenizer": "other"}}),
        (CHAT, {"engine": {"tokenizer": "org/other"}}),  # on the Hub
        (CHAT, {"engine": {"tokenizer_mode": "mistral"}}),
        (CHAT, {"engine": {"skip_tokenizer_init": True}}),
        (CHAT, {"engine": {"hf_overrides": {"model_type": "x"}}}),
        (CHAT, {"rehearse": True}),
        (CHAT.replace("}\n", ', "chat_template": "{{ messages }}"}\n'), {}),
        ('{"prompt": "Hi"}\n', {}),
        (None, {}),
    ],
    ids=range(11),
)
def test_where_none_is_needed_nothing_is_said(chats: Path, rows: str | None, options: dict[str, Any]) -> None:
    add(chats, {**TOKENIZER, **WEIGHTS})
    add(chats.parent, {"chat.jinja": "{{ messages }}", "other/tokenizer_config.json": WITH_TEMPLATE})
    (chats.parent / "in.jsonl").write_text(rows or "")
    assert "template" not in reasons(input="in.jsonl" if rows else None, **options)


@pytest.mark.parametrize(
    ("files", "engine", "is_refused"),
    [
        ({"tekken.json": {}}, {"tokenizer_mode": "mistral"}, True),
        ({"tekken.json": {}, "consolidated.safetensors": ""}, {}, True),
        ({"tekken.json": {}, "consolidated.safetensors": ""}, {"tokenizer_mode": "hf"}, False),
        ({"tekken.json": {}, **TOKENIZER}, {}, False),
    ],
    ids=range(4),
)
def test_mistrals_tokenizers_take_no_template(
    chats: Path, files: dict[str, Any], engine: dict[str, Any], is_refused: bool
) -> None:
    add(chats, files)
    told = reasons(input="in.jsonl", engine={**engine, "load_format": "dummy"}, chat_template="{{ messages }}")
    assert ("vLLM takes no chat template with the Mistral tokenizer" in told) == is_refused


def test_a_tokenizer_elsewhere_may_lack_it_too(chats: Path) -> None:
    add(chats.parent, {f"other/{name}": content for name, content in TOKENIZER.items()})
    add(chats, {"tokenizer_config.json": WITH_TEMPLATE})
    assert NO_TEMPLATE.format(folder="other") in reasons(input="in.jsonl", engine={"tokenizer": "other"})


def test_a_model_on_the_hub_cannot_be_judged(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (desk / "in.jsonl").write_text(CHAT)
    assert "template" not in "\n".join(plan_only("org/m", scheduler="slurm", input="in.jsonl").reasons)


def test_the_length_of_the_jobs_template_counts(chats: Path) -> None:
    """As for a model's own: a context is as long as the longest row with it."""
    add(chats, {**TOKENIZER, "config.json": {**SMALL_CONFIG, "max_position_embeddings": 32768}})
    short, long = (
        plan_only(
            "model", scheduler="slurm", input="in.jsonl", gpu="h100-80", chat_template=f"{{{{ messages }}}}{fill}"
        )
        for fill in ("", "x" * 9000)
    )
    assert short.engine["max_model_len"] == 1024
    elsewhere = plan_only("model", scheduler="slurm", input="in.jsonl", gpu="h100-80", engine={"tokenizer": "org/m"})
    assert "max_model_len" not in elsewhere.engine  # its template is not known
    assert long.engine["max_model_len"] == 16384


def test_tools_and_a_rows_own_template_count(chats: Path) -> None:
    add(
        chats,
        {"tokenizer_config.json": WITH_TEMPLATE, "config.json": {**SMALL_CONFIG, "max_position_embeddings": 65536}},
    )
    tool = {"type": "function", "function": {"name": "f", "description": "d" * 5000}}
    row = {"messages": [{"role": "user", "content": "Hi"}]}
    lengths = []
    for more in ({}, {"tools": [tool]}, {"chat_template": "{{ messages }}" + "x" * 20_000}):
        (chats.parent / "in.jsonl").write_text(json.dumps({**row, **more}) + "\n")
        lengths.append(plan_only("model", scheduler="slurm", input="in.jsonl", gpu="h100-80").engine["max_model_len"])
    assert lengths == [1024, 8192, 32768]


# -- tokenizers --------------------------------------------------------------------------------------------------------
FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "qwen.tiktoken",
    "tiktoken.model", "spiece.model", "sentencepiece.bpe.model", "model-q4.gguf", "tokenizer.model.v3", "target.spm",
    "tokenization_internlm.py", "ice_text.model", "rwkv_vocab_v20230424.txt",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_any_file_of_a_tokenizer_will_do(model: Path, name: str) -> None:
    add(model, {**WEIGHTS, name: EMPTY_TOKENIZER})
    assert "no tokenizer" not in reasons()


NO_VOCABULARY = "has no tokenizer: there is no vocabulary in "
CUT = "has no tokenizer: its 'tokenizer.json' is empty or not whole"
# Files of which transformers makes no tokenizer, or one of a few tokens.
EMPTY: dict[str, tuple[dict[str, Any], str]] = {
    "a config": ({"tokenizer_config.json": {}}, f"{NO_VOCABULARY}'tokenizer_config.json': use --engine tokenizer=PATH"),
    "a config with a class": ({"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}}, NO_VOCABULARY),
    "names of tokens": ({"special_tokens_map.json": {"eos_token": "a"}, "added_tokens.json": {"a": 1}}, NO_VOCABULARY),
    "an empty vocabulary": ({"vocab.json": {}, "merges.txt": ""}, f"{NO_VOCABULARY}'merges.txt', 'vocab.json'"),
    "merges": ({"merges.txt": "#version: 0.2\na b\n"}, NO_VOCABULARY),
    "an empty model": ({"tokenizer.model": ""}, NO_VOCABULARY),
    "no object": ({"tokenizer.json": " {} \n", "vocab.json": {"a": 0}}, CUT),
    "half of a file": ({"tokenizer.json": json.dumps(EMPTY_TOKENIZER)[:-9]}, CUT),
    "many": (
        dict.fromkeys(("a.model", "added_tokens.json", "merges.txt", "vocab.json", "vocab.txt"), ""),
        "'a.model', 'added_tokens.json', 'merges.txt' and 2 more: use",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
def test_files_without_a_vocabulary_are_no_tokenizer(model: Path, run_cli: Cli, name: str) -> None:
    files, said = EMPTY[name]
    add(model, {**WEIGHTS, **files})
    told = run_cli("plan", "model", "--scheduler", "slurm")
    assert (told.code, said in told.err) == (0, True), told
    for command in ("render", "submit"):
        refused = run_cli(command, "model", "--scheduler", "slurm")
        assert (refused.code, said in refused.err, refused.err.count("\n")) == (2, True, 1), refused


@beside_vllm
@pytest.mark.parametrize("name", sorted(EMPTY))
def test_and_transformers_makes_none(tmp_path: Path, name: str) -> None:
    from transformers import AutoTokenizer

    add(tmp_path, {"config.json": {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, **EMPTY[name][0]})
    try:
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    except Exception:  # noqa: BLE001 - a ValueError, KeyError or JSONDecodeError
        return
    assert len(tokenizer) < 10


@pytest.mark.parametrize(
    "config", [{"tokenizer_class": "ByT5Tokenizer"}, {"auto_map": {"AutoTokenizer": ["a.B", None]}}]
)
def test_some_classes_need_no_vocabulary(model: Path, config: dict[str, Any]) -> None:
    add(model, {**WEIGHTS, "tokenizer_config.json": config})
    assert "no tokenizer" not in reasons()


PARAMS = {
    "dim": 256,
    "n_layers": 4,
    "head_dim": 32,
    "hidden_dim": 512,
    "n_heads": 8,
    "n_kv_heads": 4,
    "vocab_size": 1000,
}
MISTRALS: dict[str, dict[str, Any]] = {
    "plain": {},
    "as Mistral says": {"tokenizer_mode": "mistral", "config_format": "mistral", "load_format": "mistral"},
}


@pytest.mark.parametrize("name", MISTRALS)
def test_params_json_needs_a_tokenizer_too(model: Path, name: str) -> None:
    (model / "config.json").unlink()
    add(model, {"params.json": PARAMS})
    assert NO_TOKENIZER.format(folder=model) in reasons(engine=MISTRALS[name])
    assert "weights are counted from params.json" in reasons(engine=MISTRALS[name])
    with pytest.raises(ModelError, match="no tokenizer"):
        prepare("model", scheduler="slurm", engine={**MISTRALS[name], "load_format": "dummy"})
    add(model, {"tekken.json": EMPTY_TOKENIZER})
    assert "tokenizer" not in reasons(engine=MISTRALS[name])


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_weights_without_a_tokenizer_are_not_submitted(model: Path, run_cli: Cli, weights: str) -> None:
    add(model, {weights: "x", "generation_config.json": {}, "README.md": ""})
    assert NO_TOKENIZER.format(folder=model) in reasons()
    refused = run_cli("submit", "model", "--scheduler", "slurm")
    assert (refused.code, refused.err) == (2, f"Error: {NO_TOKENIZER.format(folder=model)}, or copy its files\n")
    assert not (model.parent / "runs").exists()


def test_weights_that_vllm_makes_up_need_one_too(model: Path, run_cli: Cli) -> None:
    refused = run_cli("submit", "model", "--scheduler", "slurm", "--engine", "load_format=dummy")
    assert (refused.code, "no tokenizer" in refused.err) == (2, True)


def test_a_folder_without_weights_is_planned_and_rendered_but_not_submitted(chats: Path, run_cli: Cli) -> None:
    """It may still be copied; its script does not depend on what is missing."""
    assert NO_TOKENIZER.format(folder=chats) in reasons()
    assert NO_TEMPLATE.format(folder=chats) in reasons(input="in.jsonl")
    said = f"{str(chats)!r} has no weights that vLLM loads (*.safetensors, *.bin or *.pt): copy or download"
    for command, code in (("plan", 0), ("render", 0), ("submit", 2)):
        told = run_cli(command, "model", "--scheduler", "slurm", "--input", "in.jsonl")
        assert (told.code, said in told.err) == (code, True), told
    assert not (chats.parent / "runs").exists()
    assert run_cli("submit", "model", "--scheduler", "slurm", "--rehearse", "--dry-run").err == ""


@pytest.mark.parametrize(
    "options",
    [
        {"engine": {"tokenizer": "org/other"}},
        {"engine": {"tokenizer": "other"}},
        {"engine": {"skip_tokenizer_init": True}},
        {"engine": {"tokenizer_mode": "custom"}},
        {"engine": {"model_impl": "terratorch"}},
        {"rehearse": True},
    ],
    ids=range(6),
)
def test_a_tokenizer_may_come_from_elsewhere(model: Path, options: dict[str, Any]) -> None:
    add(model, WEIGHTS)
    add(model.parent, {"other/tokenizer.json": EMPTY_TOKENIZER})
    assert "no tokenizer" not in reasons(**options)


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoTokenizer": ["org/m--tokenization.T", None]}},
        {"tokenizer_class": "ByT5Tokenizer"},
        {"architectures": ["Terratorch"]},
    ],
    ids=range(3),
)
def test_a_config_may_make_it(model: Path, config: dict[str, Any]) -> None:
    add(model, {**WEIGHTS, "config.json": {**SMALL_CONFIG, **config}})
    assert "no tokenizer" not in reasons()


def test_a_tokenizer_folder_without_one_is_refused(model: Path, run_cli: Cli) -> None:
    (model.parent / "empty").mkdir()
    refused = run_cli("submit", "model", "--scheduler", "slurm", "--engine", "tokenizer=empty")
    assert (refused.code, refused.err) == (
        2,
        "Error: 'empty' has no tokenizer: use --engine tokenizer=PATH, or copy its files\n",
    )


def test_vllms_own_templates_are_read_where_it_is_installed() -> None:
    assert not templated_models() or {"minicpmv", "paligemma"} <= templated_models()


# -- the job folder --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("given", ["file", "text"])
def test_a_job_keeps_its_template(chats: Path, run_cli: Cli, given: str) -> None:
    from vllm_hpc import submit

    add(chats, {**WEIGHTS, **TOKENIZER})
    text = "{% for m in messages %}{{ m.content }} – {% endfor %}"
    (chats.parent / "chat.jinja").write_text(text)
    template = "chat.jinja" if given == "file" else text
    job = submit("model", input="in.jsonl", scheduler="slurm", chat_template=template)
    (chats.parent / "chat.jinja").unlink()
    assert (job.path / "chat-template.jinja").read_text() == text
    assert job.folder.job().request.chat_template == template
    assert job.folder.job().origins["chat_template"] == "--chat-template"


def test_a_job_without_one_has_no_such_file(model: Path, run_cli: Cli) -> None:
    add(model, {**WEIGHTS, **TOKENIZER})
    assert run_cli("submit", "model", "--name", "job", "--scheduler", "slurm").code == 0
    assert not (model.parent / "runs/job/chat-template.jinja").exists()


@pytest.mark.parametrize("command", ["submit", "plan", "render"])
def test_a_template_that_is_missing_is_refused(chats: Path, run_cli: Cli, command: str) -> None:
    refused = run_cli(command, "model", "--input", "in.jsonl", "--chat-template", "nowhere.jinja")
    assert (refused.code, refused.err) == (2, "Error: --chat-template 'nowhere.jinja': no such file\n")


@pytest.mark.trust
@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "tokenizer_config.json"])
def test_a_pipe_for_a_tokenizer_is_not_waited_for(model: Path, name: str) -> None:
    os.mkfifo(model / name)
    plan_only("model", scheduler="slurm")
