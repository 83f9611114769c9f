"""What MODEL names, and what is said where it names something else: adapters, checkpoints, caches, files, addresses."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.marks import beside_vllm
from tests.planner.test_models import safetensors
from tests.published_models import SMALL_CONFIG
from vllm_hpc.planner.models.find import find_model
from vllm_hpc.planner.models.inspect import inspect_model
from vllm_hpc.spec.errors import ModelError, RefusedError
from vllm_hpc.spec.lora import split_adapter
from vllm_hpc.spec.resolved_job import Model

CASES = Path(__file__).parent / "cases"
pytestmark = pytest.mark.inputs


def model_at(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMALL_CONFIG | changes))
    return folder


def refusal(text: Path | str, **engine: Any) -> str:
    """Why MODEL is refused, in one line."""
    with pytest.raises(RefusedError) as caught:
        find_model(str(text), engine=engine)
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 1500
    return said


def adapter(folder: Path, content: Any) -> Path:
    folder.mkdir(parents=True)
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "adapter_config.json").write_bytes(text)
    return folder


def test_an_adapter_is_no_model_and_its_use_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "lora-adapter"
    shutil.copytree(CASES / "lora-adapter", folder)
    said = refusal(folder)
    assert f"{str(folder)!r} is an adapter of org/base, not a model" in said
    command = shlex.split(said.partition("'vllm-hpc ")[2].removesuffix("'"))
    assert command[:3] == ["submit", "org/base", "--lora"]
    assert split_adapter(command[3]) == ("lora-adapter", str(folder))


BASES: dict[str, tuple[Any, str]] = {
    "a local path": ({"base_model_name_or_path": "/data/a model"}, """submit '/data/a model' --lora"""),
    "of unsloth": ({"base_model_name_or_path": "unsloth/x-bnb-4bit"}, "submit unsloth/x-bnb-4bit --lora"),
    "null": ({"base_model_name_or_path": None}, "is an adapter, not a model: use 'vllm-hpc submit BASE --lora"),
    "missing": ({"peft_type": "LORA"}, "submit BASE --lora"),
    "empty": ({"base_model_name_or_path": ""}, "submit BASE --lora"),
    "a number": ({"base_model_name_or_path": 7}, "submit BASE --lora"),
    "two lines": ({"base_model_name_or_path": "org/base\nrm -rf /"}, "submit BASE --lora"),
    "an option": ({"base_model_name_or_path": "--help"}, "submit BASE --lora"),
    "a command": ({"base_model_name_or_path": "$(reboot)"}, "submit '$(reboot)' --lora"),
    "a very long one": ({"base_model_name_or_path": "x" * 10_000}, "submit BASE --lora"),
    "a surrogate": (b'{"base_model_name_or_path": "\\ud800"}', "submit BASE --lora"),
    "no JSON": (b"{", "submit BASE --lora"),
    "a list": ([], "submit BASE --lora"),
    "a prompt": ({"base_model_name_or_path": "org/base", "peft_type": "PROMPT_TUNING"}, "runs LoRA adapters only"),
    "lora in small letters": ({"base_model_name_or_path": "a/b", "peft_type": "lora"}, "submit a/b --lora"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), BASES.values(), ids=BASES)
def test_the_base_of_an_adapter_may_be_anything(tmp_path: Path, content: Any, said: str) -> None:
    assert said in refusal(adapter(tmp_path / "my adapter", content))


@pytest.mark.parametrize("config", [{"model_type": "llama"}, {"model_type": "llama", "unsloth_version": "2024.9"}, {}])
def test_a_config_that_says_nothing_makes_no_model(tmp_path: Path, config: dict[str, Any]) -> None:
    """unsloth writes one beside an adapter, and some repositories of GGUF files have one."""
    folder = adapter(tmp_path / "adapter", {"base_model_name_or_path": "org/base"})
    (folder / "config.json").write_text(json.dumps(config))
    assert "is an adapter of org/base" in refusal(folder)
    (folder / "adapter_config.json").unlink()
    assert find_model(str(folder)).path == str(folder)
    (folder / "model.Q4_K_M.gguf").touch()
    assert "holds GGUF files" in refusal(folder)


def test_an_adapter_with_the_config_of_its_base_is_told_as_one(tmp_path: Path) -> None:
    folder = model_at(adapter(tmp_path / "adapter", {"base_model_name_or_path": "org/base"}))
    safetensors(folder / "adapter_model.safetensors", {"base_model.model.x": ("BF16", [100])})
    with pytest.raises(ModelError, match="or give its base model, with --lora and this adapter"):
        inspect_model(find_model(str(folder)))


def test_a_model_with_an_adapter_beside_is_a_model(tmp_path: Path) -> None:
    adapter(tmp_path / "model", {"base_model_name_or_path": "org/base"})
    assert find_model(str(model_at(tmp_path / "model"))).path == str(tmp_path / "model")


def cached(root: Path, *snapshots: str, refs: dict[str, str] | None = None) -> Path:
    """A model's folder in a Hugging Face cache, as huggingface_hub lays it out: blobs, refs, and snapshots of links."""
    folder = root / "models--org--name"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "1").write_text(json.dumps(SMALL_CONFIG))
    for age, snapshot in enumerate(snapshots):
        (folder / "snapshots" / snapshot).mkdir(parents=True)
        (folder / "snapshots" / snapshot / "config.json").symlink_to("../../blobs/1")
        os.utime(folder / "snapshots" / snapshot, (1_700_000_000 - age, 1_700_000_000 - age))
    for name, commit in (refs or {}).items():
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / name).write_text(commit)
    return folder


@pytest.mark.parametrize(
    ("snapshots", "refs", "chosen", "why"),
    [
        (["abc"], None, "abc", "the only one"),
        (["new", "old"], {"main": "old"}, "old", "refs/main"),
        (["new", "old"], {"main": "old\n"}, "old", "refs/main"),
        (["new", "old"], None, "new", "the newest of 'new', 'old'"),
        (
            ["new", "old"],
            {"main": "gone"},
            "new",
            "the newest of 'new', 'old'; refs/main names gone, which is not here",
        ),
        (["abc"], {"main": "gone"}, "abc", "the only one; refs/main names gone, which is not here, or not whole"),
        (["new", "old"], {"main": "../../elsewhere"}, "new", "the newest"),
        (["new", "old"], {"main": "\x00"}, "new", "the newest"),
        (["new", "old"], {"v1.0": "old"}, "new", "the newest"),
        ([f"c{n}" for n in range(8)], None, "c0", "'c4' and 3 more"),
    ],
)
def test_a_folder_of_a_cache_is_its_snapshot(
    tmp_path: Path, snapshots: list[str], refs: dict[str, str] | None, chosen: str, why: str
) -> None:
    folder = cached(tmp_path, *snapshots, refs=refs)
    found = find_model(f"{folder}/")
    assert (found.path, found.name) == (str(folder / "snapshots" / chosen), "name")
    assert f"its snapshot {chosen} is used" in found.note
    assert why in found.note
    assert inspect_model(found).shape is not None


def test_a_snapshot_is_named_after_its_model(tmp_path: Path) -> None:
    folder = cached(tmp_path, "abc")
    assert find_model(str(folder / "snapshots" / "abc")) == Model(str(folder / "snapshots" / "abc"), "name")
    (tmp_path / "link").symlink_to(folder)
    assert find_model(str(tmp_path / "link")).name == "name"


def test_a_snapshot_that_is_not_whole_is_passed_over(tmp_path: Path) -> None:
    folder = cached(tmp_path, "new", "old", refs={"main": "new"})
    (folder / "snapshots" / "new" / "config.json").unlink()
    assert find_model(str(folder)).path.endswith("old")
    (folder / "snapshots" / "old" / "config.json").unlink()
    assert "without a whole snapshot (none has config.json or params.json): download the model again" in refusal(folder)


def test_checkpoints_of_a_trainer_are_named(tmp_path: Path) -> None:
    for step in (500, 1000, 90):
        model_at(tmp_path / "out" / f"checkpoint-{step}")
    (tmp_path / "out" / "checkpoint-best").mkdir()
    said = refusal(tmp_path / "out")
    assert "checkpoints ('checkpoint-1000', 'checkpoint-500', 'checkpoint-90')" in said
    assert said.endswith(f"name one, as {str(tmp_path / 'out' / 'checkpoint-1000')!r}")
    for step in range(20):
        (tmp_path / "out" / f"checkpoint-{step}").mkdir()
    assert "and 18 more" in refusal(tmp_path / "out")


def test_a_folder_one_level_too_high_names_what_is_in_it(tmp_path: Path) -> None:
    model_at(tmp_path / "zoo" / "llama")
    assert refusal(tmp_path / "zoo").endswith(f"that is a model: {str(tmp_path / 'zoo' / 'llama')!r}")
    cached(tmp_path / "hub", "abc")
    assert str(tmp_path / "hub" / "models--org--name") in refusal(tmp_path / "hub")
    assert str(tmp_path / "hub/models--org--name/snapshots/abc") in refusal(
        tmp_path / "hub/models--org--name/snapshots"
    )


def test_files_are_not_folders(tmp_path: Path) -> None:
    folder = model_at(tmp_path / "model")
    for name in ("model.safetensors", "pytorch_model.bin"):
        (folder / name).touch()
        assert refusal(folder / name).endswith(f"name its folder, {str(folder)!r}")
    assert refusal(folder / "config.json").endswith(f"name its folder, {str(folder)!r}")
    (tmp_path / "model.q4.gguf").touch()
    assert "does not load GGUF files" in refusal(tmp_path / "model.q4.gguf")
    (tmp_path / "notes.txt").touch()
    assert refusal(tmp_path / "notes.txt").endswith("name the folder that holds config.json")


def test_other_folders_are_told_as_what_they_are(tmp_path: Path) -> None:
    for name in ("empty", "gguf", "meta", "odd\nname"):
        (tmp_path / name).mkdir()
    assert refusal(tmp_path / "empty").endswith("is not a model folder: it has no config.json or params.json")
    refusal(tmp_path / "odd\nname")
    (tmp_path / "gguf" / "model-00001-of-00002.gguf").touch()
    assert "does not load GGUF files" in refusal(tmp_path / "gguf")
    (tmp_path / "meta" / "params.json").write_text('{"dim": 4096, "multiple_of": 1024}')
    (tmp_path / "meta" / "consolidated.00.pth").touch()
    assert "Meta's own format" in refusal(tmp_path / "meta")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert "no such model folder" in refusal(tmp_path / "dangling")
    (tmp_path / "loop").symlink_to("loop")
    refusal(tmp_path / "loop")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    assert "cannot read the model folder" in refusal(tmp_path / "closed")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://huggingface.co/org/name", "use the Hub id, 'org/name'"),
        ("http://www.huggingface.co/org/name/tree/main", "use the Hub id, 'org/name'"),
        ("HTTPS://HuggingFace.co/org/name?library=vllm", "use the Hub id, 'org/name'"),
        ("huggingface.co/org/name", "use the Hub id, 'org/name'"),
        ("https://hf.co/org/name#usage", "use the Hub id, 'org/name'"),
        ("https://huggingface.co/org/name/resolve/main/config.json", "use the Hub id, 'org/name'"),
        ("hf://org/name@main", "use the Hub id, 'org/name'"),
        ("https://huggingface.co/datasets/org/name", "name a folder with a config.json"),
        ("https://huggingface.co/gpt2", "name a folder with a config.json"),
        ("https://example.com/org/name", "name a folder with a config.json"),
        ("org/name/", "the Hub id, 'org/name'"),
        ("file:///models/llama", "use the path, '/models/llama'"),
        ("file:models/llama", "use the path, '/models/llama'"),
        ("/no/such/folder", "name a folder with a config.json"),
        ("org/name/more", "name a folder with a config.json"),
        ("a\nb", "name a folder with a config.json"),
        ("s3://bucket/model", "name a folder with a config.json"),
        ("x" * 5000, ""),
        ("a\0b", ""),
        ("~nobody-of-that-name/model", ""),
    ],
    ids=lambda text: text[:40].replace("\0", "0"),
)
def test_what_is_no_model_says_what_to_give(desk: Path, text: str, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        find_model(text)
    assert said in str(caught.value)


def test_a_hub_id_stays_one(desk: Path) -> None:
    assert find_model("org/name") == Model("org/name", "name")
    model_at(desk / "org" / "name")
    assert find_model("org/name") == Model(str(desk / "org/name"), "name")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jobs/quikstart", "did you mean 'jobs/quickstart'? Or for the Hub's model, use 'hf://jobs/quikstart'"),
        ("jbos/quickstart", "did you mean 'jobs/quickstart'? Or"),
        ("JOBS/QuickStart", "did you mean 'jobs/quickstart'? Or"),
        ("./modles/llama", "did you mean './models/llama'?"),
        ("models/llama-3.1-8b", "did you mean 'models/Llama-3.1-8B-Instruct'? Or"),
        ("models/gemma", "the folder 'models' has 'Llama-3.1-8B-Instruct', 'llama'; for the Hub's model, use"),
        ("models/llama/", "did you mean"),
        ("models/lama/", "did you mean 'models/llama'?"),
        ("models/lama/llama", "name a folder with a config.json"),
        ("~/modles/llama", "did you mean '~/models/llama'?"),
        ("../desk/models/lama", "did you mean '../desk/models/llama'?"),
        ("lama", "did you mean 'llama'?"),
        ("demmo", "did you mean 'demo'?"),
        ("empty/Qwen3-8B", "the folder 'empty' has no folders; for the Hub's model, use 'hf://empty/Qwen3-8B'"),
        ("elsewhere/job.toml", "a job definition is a folder with a job.toml"),
        ("elsewhere/prompts.jsonl", "no such model folder"),
        ("dangling", "it is a link to 'nowhere', which is not here"),
        ("models/dangling", "it is a link to 'nowhere', which is not here"),
    ],
)
def test_a_mistyped_folder_is_no_hub_id(
    desk: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str, run_cli: Cli
) -> None:
    monkeypatch.setenv("HOME", str(desk))
    for name in ("models/llama", "models/Llama-3.1-8B-Instruct", "llama"):
        model_at(desk / name)
    for name in ("jobs/quickstart", "empty"):
        (desk / name).mkdir(parents=True)
    (desk / "jobs/quickstart/job.toml").write_text('model = "demo"\n')
    for folder in (desk, desk / "models"):
        (folder / "dangling").symlink_to("nowhere")
    if text == "models/llama/":
        assert find_model(text).path == str(desk / "models/llama")
        return
    for command in ("plan", "submit"):
        refused = run_cli(command, text, "--scheduler", "slurm")
        assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
        assert said in refused.err


@pytest.mark.parametrize("text", ["meta-models/llama", "models2x/gemma", "modles/gemma", "mine/llama"])
def test_a_hub_id_that_is_only_a_little_like_a_folder_stays_one(desk: Path, text: str) -> None:
    model_at(desk / "models" / "llama")
    assert find_model(text).path == text


def test_a_hub_id_is_named_beside_folders_too(desk: Path) -> None:
    model_at(desk / "models" / "llama")
    for text in ("hf://models/gemma", "hf://models/models/gemma", "HF://models/gemma"):
        assert find_model(text) == Model("models/gemma", "gemma")
    assert find_model("hf://models/llama") == Model("models/llama", "llama"), "of the Hub, though a folder is here"


def test_a_mistyped_folder_of_a_job_definition_is_no_hub_id(
    desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_at(desk / "job" / "models" / "llama")
    (desk / "job" / "job.toml").write_text('model = "models/lama"\n')
    refused = run_cli("plan", "job", "--scheduler", "slurm")
    said = "no such model folder: 'job/models/lama': did you mean 'job/models/llama'?"
    assert (refused.code, said in refused.err) == (2, True), refused
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (desk / "job" / "job.toml").write_text('model = "hf://models/lama"\n')
    assert run_cli("plan", "job", "--scheduler", "slurm").code == 0


def test_a_folder_of_job_definitions_names_them(desk: Path) -> None:
    (desk / "jobs" / "first").mkdir(parents=True)
    (desk / "jobs" / "first" / "job.toml").write_text('model = "demo"\n')
    assert refusal("jobs").endswith(f"name a job definition in it: {str(desk / 'jobs/first')!r}")


PARAMS = {
    "dim": 1024, "n_layers": 8, "head_dim": 64, "hidden_dim": 4096, "n_heads": 16, "n_kv_heads": 8, "norm_eps": 1e-5,
    "vocab_size": 32768,
}  # fmt: skip
YARN = {"factor": 4, "original_max_position_embeddings": 8192, "beta": 32, "alpha": 1}
# What is in params.json, and what vLLM 0.32 makes of it (config_format=mistral).
MISTRAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"positions": 128_000, "architecture": "MistralForCausalLM", "heads": 16, "kv_heads": 8}),
    "a mixture": ({"moe": {"num_experts": 8, "num_experts_per_tok": 2}}, {"architecture": "MixtralForCausalLM"}),
    "a window": ({"sliding_window": 4096}, {"window": 4096, "window_layers": 8}),
    "a window for every second layer": ({"sliding_window": [None, 4096]}, {"window": 4096, "window_layers": 4}),
    "no window": ({"sliding_window": None}, {"window": None}),
    "yarn": ({"yarn": YARN, "max_position_embeddings": 32768}, {"positions": 32768}),
    "max_seq_len": ({"max_seq_len": 5000}, {"positions": 5000}),
    "a shorter max_position_embeddings": ({"max_seq_len": 5000, "max_position_embeddings": 4000}, {"positions": 4000}),
    "fp8": ({"quantization": {"qformat_weight": "fp8_e4m3"}}, {"quantization.method": "fp8"}),
    "tied": ({"tied_embeddings": True}, {"tied": True}),
}  # fmt: skip


def mistral(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(PARAMS | changes))
    return folder


@pytest.mark.parametrize(("changes", "expected"), MISTRAL.values(), ids=MISTRAL)
def test_params_json_is_read(tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    known = inspect_model(find_model(str(mistral(tmp_path / "m", **changes))))
    for path, value in expected.items():
        found: Any = known.shape
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value, (path, known.notes)


@beside_vllm
@pytest.mark.parametrize("name", MISTRAL)
def test_params_json_is_read_as_vllm_reads_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.config import ModelConfig
    from vllm.model_executor.models import registry

    monkeypatch.setattr(registry, "_run_in_subprocess", lambda look: look())
    folder = mistral(tmp_path / "m", **MISTRAL[name][0])
    shape = inspect_model(find_model(str(folder)), engine={"config_format": "mistral"}).shape
    theirs = ModelConfig(model=str(folder), skip_tokenizer_init=True, dtype="float32", config_format="mistral")
    assert shape is not None
    assert (theirs.max_model_len, theirs.architectures) == (shape.positions, [shape.architecture])
    assert (theirs.get_total_num_kv_heads(), theirs.get_head_size()) == (shape.kv_heads, shape.head_dim)
    assert theirs.get_sliding_window() == shape.window
    assert theirs.quantization == (shape.quantization.method if shape.quantization else None)


ODD_PARAMS: dict[str, dict[str, Any]] = {
    "a mixture of text": {"moe": "8x7"}, "experts of text": {"moe": {"num_experts": "8"}},
    "dim of text": {"dim": "1024"}, "no layers": {"n_layers": None}, "windows of two sizes": {"sliding_window": [1, 2]},
    "windows of text": {"sliding_window": ["all"]}, "no windows": {"sliding_window": []},
    "quantization of text": {"quantization": "fp8"}, "yarn of text": {"yarn": "4"}, "mamba": {"model_type": "mamba"},
    "MLA": {"qk_nope_head_dim": 128}, "speech": {"multimodal": {"whisper_model_args": {"encoder_args": {}}}},
    "multimodal of text": {"multimodal": "x"},
    "large 3 of text": {"moe": {"num_experts": "8", "num_shared_experts": 1}},
    "a vision encoder of text": {"vision_encoder": "x"}, "a negative length": {"max_seq_len": -1},
}  # fmt: skip


@pytest.mark.parametrize("changes", ODD_PARAMS.values(), ids=ODD_PARAMS)
def test_odd_params_are_not_checked(tmp_path: Path, changes: dict[str, Any]) -> None:
    known = inspect_model(find_model(str(mistral(tmp_path / "m", **changes))))
    assert known.shape is None
    assert known.notes[-1].startswith("memory is not checked: ")


def test_mistral_large_3_is_read(tmp_path: Path) -> None:
    moe = {"num_experts": 8, "num_experts_per_tok": 2, "num_shared_experts": 1, "expert_hidden_dim": 64}
    latents = {"kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
    folder = mistral(tmp_path / "m", moe={**moe, "first_k_dense_replace": 1}, **latents)
    shape = inspect_model(find_model(str(folder))).shape
    assert shape is not None and shape.experts is not None and shape.mla is not None
    assert (shape.architecture, shape.mla.kv_rank) == ("MistralLarge3ForCausalLM", 32)
    assert (shape.experts.layers, shape.experts.width, shape.experts.shared) == (7, 64, 64)


def test_a_vision_model_of_mistral_is_sized_by_its_files(tmp_path: Path) -> None:
    folder = mistral(tmp_path / "m", vision_encoder={"hidden_size": 1024, "num_hidden_layers": 24})
    known = inspect_model(find_model(str(folder)))
    assert known.shape is not None
    assert (known.shape.architecture, known.shape.layers) == ("PixtralForConditionalGeneration", 8)
    assert known.shape.encoder is not None
    assert known.unweighed is None
    assert "its encoders have 0.3 B parameters" in " ".join(known.notes)


def test_the_format_is_chosen_as_vllm_does(tmp_path: Path) -> None:
    """vLLM 0.32: params.json beside consolidated*.safetensors, else config.json; config_format names one."""
    folder = mistral(model_at(tmp_path / "m", num_hidden_layers=16))
    for name, layers in (("auto", 16), ("hf", 16), ("mistral", 8)):
        engine = {"config_format": name}
        known = inspect_model(find_model(str(folder), engine=engine), engine=engine)
        assert known.shape is not None
        assert known.shape.layers == layers
        counted = f"weights are counted from {'params.json' if name == 'mistral' else 'config.json'}"
        assert [note.partition(":")[0] for note in known.notes] == [counted]
    safetensors(folder / "consolidated.safetensors", {"layers.0.x": ("BF16", [9])})
    known = inspect_model(find_model(str(folder)), dummy_weights=True)
    assert known.shape is not None
    assert known.shape.layers == 8
    assert known.shape.positions == SMALL_CONFIG["max_position_embeddings"], "from the config.json beside"


def test_the_weights_of_mistral_are_read(tmp_path: Path) -> None:
    count, sizes = 20_000, {"dim": 64, "hidden_dim": 64, "n_heads": 1, "n_kv_heads": 1, "vocab_size": 64}
    folder = mistral(tmp_path / "m", **sizes)
    safetensors(folder / "consolidated.safetensors", {f"layers.{n}.x": ("BF16", [count]) for n in range(9)})
    known = inspect_model(find_model(str(folder)))
    assert known.weights is not None
    assert known.weights.float_elements == 8 * count
    model_at(folder, num_hidden_layers=8)
    safetensors(folder / "model.safetensors", {"model.layers.0.x": ("BF16", [8 * count + 1])})
    for load_format, elements in (("auto", 8 * count), ("mistral", 8 * count), ("safetensors", 8 * count + 1)):
        found = inspect_model(find_model(str(folder)), engine={"load_format": load_format}).weights
        assert found is not None
        assert found.float_elements == elements, load_format
    (folder / "consolidated.safetensors").write_bytes(struct.pack("<Q", 9))
    with pytest.raises(ModelError, match="copy it again"):
        inspect_model(find_model(str(folder)))


def test_files_that_the_format_needs_are_named(tmp_path: Path) -> None:
    folder = mistral(tmp_path / "m")
    assert "it has no config.json, but params.json: leave out --engine config_format" in refusal(
        folder, config_format="hf"
    )
    folder = model_at(tmp_path / "n")
    assert "has no params.json, but config.json" in refusal(folder, config_format="mistral")
    assert find_model(str(tmp_path), engine={"config_format": "of a plug-in"}).path == str(tmp_path)
    assert find_model(str(tmp_path), engine={"hf_config_path": "org/other"}).path == str(tmp_path)


def test_a_model_of_mistral_is_submitted_as_asked(desk: Path, run_cli: Cli) -> None:
    shutil.copytree(CASES / "mistral-params", desk / "mistral")
    (desk / "mistral").chmod(0o755)
    (desk / "mistral" / "tekken.json").write_text('{"vocab": [{"rank": 0}]}')
    safetensors(desk / "mistral" / "consolidated.safetensors", {"layers.0.x": ("BF16", [6_000_000_000])})
    engine = [f"--engine={one}" for one in ("config_format=mistral", "tokenizer_mode=mistral", "load_format=mistral")]
    outcome = run_cli("submit", "mistral", *engine, "--scheduler", "slurm", "--nodes", "1", "--json")
    assert outcome.code == 0, outcome
    plan = json.loads(outcome.out)["plan"]
    assert plan["engine"]["config_format"] == "mistral"
    assert plan["model"]["architecture"] == "MistralForCausalLM"
    assert not any("config_format" in reason for reason in plan["reasons"])
