"""Models of the Hub: out of a Hugging Face cache, from a server that speaks as the Hub does, or not at all."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.marks import needs_hub
from tests.published_models import PUBLISHED

LLAMA = json.dumps(PUBLISHED[0].config).encode()
COMMIT = "a" * 40
pytestmark = needs_hub
HEADER = json.dumps({"x": {"dtype": "BF16", "shape": [4_000_000_000], "data_offsets": [0, 8_000_000_000]}}).encode()
FILES = {
    "config.json": LLAMA,
    "model.safetensors": struct.pack("<Q", len(HEADER)) + HEADER,
}


class Answer(NamedTuple):
    """How the Hub refuses, as hf_raise_for_status of huggingface_hub (utils/_http.py) reads it."""

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    is_known: bool = False  # its files are listed for everybody


GATED = "Access to model org/gated is restricted. You must have access to it and be authenticated to access it."
ANSWERS = {
    "org/mistyped": Answer(401, {"X-Error-Message": "Invalid username or password."}),
    "org/gone": Answer(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
    "org/gated": Answer(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": GATED}, is_known=True),
    "org/awaiting": Answer(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": GATED}, is_known=True),
    "org/expired": Answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "org/disabled": Answer(403, {"X-Error-Message": "Access to this resource is disabled."}),
    "org/busy": Answer(503),
    "org/limited": Answer(429),
}
REPOSITORIES = {
    "org/adapter": ["adapter_config.json", "adapter_model.safetensors"],
    "org/gguf": ["README.md", "m-Q4_K_M.gguf"],
    "org/diffusers": ["model_index.json", "unet/config.json"],
    "org/onnx": ["onnx/model.onnx"],
    "org/megatron": ["iter_0000100/mp_rank_00/model_optim_rng.pt"],
    "org/data": ["README.md"],
}
# What the Hub says no to, and what of it is said.
REFUSALS = {
    "org/mistyped": "the Hub has no model 'org/mistyped' that this account may read: check how it is spelt, or, if it "
    "is private, set HF_TOKEN, or log in with 'hf auth login'",
    "org/gone": "the Hub has no model 'org/gone' that this account may read",
    "org/gated": "is gated on the Hub, and this account may not read it: ask for access at {hub}/org/gated",
    "org/awaiting": "the model 'org/awaiting' is gated on the Hub",
    "org/expired": "the Hub does not accept this account's token, for the model 'org/expired': set HF_TOKEN",
    "org/disabled": "the Hub has disabled the model 'org/disabled'",
    "org/adapter": "has no config.json or params.json, and is an adapter: download it",
    "org/gguf": "and holds GGUF files ('m-Q4_K_M.gguf'): vLLM by itself does not load GGUF files",
    "org/diffusers": "and is a pipeline of diffusers",
    "org/onnx": "and is made for ONNX ('onnx/model.onnx')",
    "org/megatron": "and is a checkpoint of Megatron ('iter_0000100/mp_rank_00')",
    "org/data": "has no config.json or params.json: use a model with one",
}


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of the Hub for these two files. (The real one cannot be reached from here.)"""

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def _answer(self, send_body: bool) -> None:
        path = self.path.split("?")[0]
        name = path.removeprefix("/api/models").split("/resolve/")[0].removeprefix("/")
        if name in ANSWERS and not (ANSWERS[name].is_known and path.startswith("/api/")):
            self._refuse(ANSWERS[name])
        elif name in (*REPOSITORIES, *(known for known in ANSWERS if ANSWERS[known].is_known)):
            siblings = [{"rfilename": file} for file in REPOSITORIES.get(name, ["config.json"])]
            self._send(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), send_body)
        elif path.startswith("/api/models/org/llama"):
            siblings = [{"rfilename": name} for name in FILES]
            self._send(json.dumps({"id": "org/llama", "sha": COMMIT, "siblings": siblings}).encode(), send_body)
        elif path.startswith("/org/llama/resolve/") and (name := path.rsplit("/", 1)[1]) in FILES:
            self._send(FILES[name], send_body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()

    def _refuse(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for header, value in answer.headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes, send_body: bool) -> None:
        self.send_response(200)
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def ask(home: Path, model: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``plan --json`` of a Hub id; huggingface_hub reads its settings when it is imported."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "SLURM"))}
    command = [sys.executable, "-m", "vllm_hpc", "plan", model, "--scheduler", "slurm", "--gpu", "h100-80", "--json"]
    variables = {**clean, "HF_HOME": str(home / "hf"), **environment}
    return subprocess.run([*command, *options], cwd=home, env=variables, capture_output=True, text=True)


def plan(home: Path, model: str, *options: str, **environment: str) -> dict[str, Any]:
    """What ``plan --json`` says of a Hub id."""
    done = ask(home, model, *options, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def cache(home: Path) -> Path:
    repository = home / "hf" / "hub" / "models--org--llama"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_bytes(LLAMA)
    return snapshot


def test_a_cached_model_is_known_without_a_network(tmp_path: Path) -> None:
    cache(tmp_path)
    found = plan(tmp_path, "org/llama", HF_HUB_OFFLINE="1")
    assert found["model"]["parameters"] == PUBLISHED[0].parameters
    assert (found["fits"], found["tp"]) == (True, 1)
    assert any("counted from config.json" in reason for reason in found["reasons"])


def test_the_hub_gives_what_the_cache_lacks(tmp_path: Path, hub: str) -> None:
    found = plan(tmp_path, "org/llama", HF_ENDPOINT=hub)
    assert found["model"]["parameters"] == PUBLISHED[0].parameters
    assert found["memory"]["weights_gib"] == pytest.approx(8e9 / 2**30, abs=0.01), "as the weights' header says"


def test_a_model_that_the_hub_does_not_have_is_not_guessed_at(tmp_path: Path, hub: str) -> None:
    found = plan(tmp_path, "org/none", HF_ENDPOINT=hub)
    assert (found["fits"], found["model"]) == (None, None)
    assert any("nothing is known" in reason for reason in found["reasons"])


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_no_network_is_said_and_no_error(tmp_path: Path, environment: dict[str, str]) -> None:
    found = plan(tmp_path, "org/llama", **environment)
    assert (found["fits"], found["tp"], found["dp"]) == (None, 8, 1), "a whole node: its size is not known"
    assert any("not in the Hugging Face cache" in reason for reason in found["reasons"])


def test_what_the_hub_refuses_is_said_and_refused(tmp_path: Path, hub: str) -> None:
    for model, said in REFUSALS.items():
        done = ask(tmp_path, model, HF_ENDPOINT=hub)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), (model, done)
        error = json.loads(done.stdout)["error"]
        assert (error["message"] in done.stderr, error["exit_code"]) == (True, 2), (model, done)
        assert said.format(hub=hub) in done.stderr, (model, done.stderr)


@pytest.mark.parametrize("model", ["org/busy", "org/limited"])
def test_a_hub_that_does_not_answer_refuses_nothing(tmp_path: Path, hub: str, model: str) -> None:
    found = plan(tmp_path, model, HF_ENDPOINT=hub)
    assert any("the Hub did not return it" in reason for reason in found["reasons"])


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--env", "HF_HOME=/data/hf"], {}),
        (["--engine", "download_dir=/data/hf"], {}),
        (["--profile", "site"], {}),
        (["--rehearse"], {}),
        ([], {"VLLM_USE_MODELSCOPE": "true"}),
    ],
    ids=["a variable", "an argument", "a profile's setup", "a rehearsal", "another hub"],
)
def test_ranks_that_ask_elsewhere_may_get_it(
    tmp_path: Path, hub: str, options: list[str], environment: dict[str, str]
) -> None:
    (tmp_path / "vllm-hpc.toml").write_text('[profiles.site]\nsetup = ["export HF_TOKEN=$(cat ~/.hf_token)"]\n')
    found = plan(tmp_path, "org/gated", *options, HF_ENDPOINT=hub, **environment)
    assert any("nothing is known about the model: the model 'org/gated' is gated" in one for one in found["reasons"])


def test_offline_the_hub_is_not_asked(tmp_path: Path, hub: str) -> None:
    found = plan(tmp_path, "org/gone", HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")
    assert any("HF_HUB_OFFLINE is set" in reason for reason in found["reasons"])
