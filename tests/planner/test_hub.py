"""Models of the Hub: out of a Hugging Face cache, from a server that speaks as the Hub does, or not at all."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of the Hub for these two files. (The real one cannot be reached from here.)"""

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def _answer(self, send_body: bool) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/llama"):
            siblings = [{"rfilename": name} for name in FILES]
            self._send(json.dumps({"id": "org/llama", "sha": COMMIT, "siblings": siblings}).encode(), send_body)
        elif path.startswith("/org/llama/resolve/") and (name := path.rsplit("/", 1)[1]) in FILES:
            self._send(FILES[name], send_body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
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


def plan(home: Path, model: str, **environment: str) -> dict[str, Any]:
    """What ``plan --json`` says of a Hub id; huggingface_hub reads its settings when it is imported."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "SLURM"))}
    command = [sys.executable, "-m", "vllm_hpc", "plan", model, "--scheduler", "slurm", "--gpu", "h100-80", "--json"]
    done = subprocess.run(
        command, cwd=home, env={**clean, "HF_HOME": str(home / "hf"), **environment}, capture_output=True, text=True,
    )  # fmt: skip
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
    assert (found["fits"], found["tp"], found["dp"]) == (None, 1, 1)
    assert any("not in the Hugging Face cache" in reason for reason in found["reasons"])
