"""fetch, and offline jobs: a model comes from a stand-in of the Hub into a cache by the real client, and is found."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.conftest import Cli
from tests.marks import needs_hub
from tests.published_models import PUBLISHED
from tests.real_jobs import wait_for
from vllm_hpc.planner.models.files_to_fetch import choose_files

pytestmark = [pytest.mark.admins, needs_hub]

COMMIT = "a" * 40
HEADER = json.dumps({"x": {"dtype": "BF16", "shape": [1 << 20], "data_offsets": [0, 1 << 21]}}).encode()
WEIGHTS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(1 << 21)
FILES = {
    "config.json": json.dumps(PUBLISHED[0].config).encode(),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"x" * 1000,
    "original/consolidated.00.pth": b"x" * 1000,
    "onnx/model.onnx": b"x",
    "README.md": b"# read me",
    ".gitattributes": b"",
}
READ = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
GATED = "Access to model org/gated is restricted. You must have access to it and be authenticated to access it."
REFUSALS = {
    "org/gated": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": GATED}),
    "org/gone": (404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
}


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of the Hub: a model's files with their sizes, and each file, from a byte on."""

    asked: ClassVar[list[tuple[str, str, str]]] = []
    refuses: ClassVar[str] = ""
    waits_for: ClassVar[threading.Event | None] = None

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        path = self.path.partition("?")[0]
        self.asked.append((method, path, self.headers.get("Range", "")))
        found = re.fullmatch(r"(?:/api/models)?/(org/\w+)(?:/(revision|resolve)/(\w+)(?:/(.+))?)?", path)
        model, revision, file = (found[1], found[3] or "main", found[4]) if found else ("", "", None)
        if model in REFUSALS:
            self._send(*REFUSALS[model], b"")
        elif model != "org/llama" or (file is not None and file not in FILES):
            self._send(404, {"X-Error-Code": "EntryNotFound" if file else "RepoNotFound"}, b"")
        elif revision not in ("main", COMMIT):
            self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        elif file is None:
            siblings = [{"rfilename": name, "size": len(FILES[name]), "blobId": _digest(name)} for name in FILES]
            answer = {"id": model, "sha": COMMIT, "siblings": siblings}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())
        else:
            self._send_file(method, file)

    def _send_file(self, method: str, file: str) -> None:
        if method == "GET" and file == self.refuses:
            self._send(500, {}, b"")
            return
        headers = {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": COMMIT}
        self._send(200, headers, FILES[file])

    def _send(self, code: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.waits_for and len(body) > 10_000:
            self.wfile.write(body[:10_000])
            self.waits_for.wait(60)
            body = body[10_000:]
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


def _digest(name: str) -> str:
    return hashlib.sha1(FILES[name]).hexdigest()


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.asked.clear()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def run(work: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of vllm-hpc: huggingface_hub reads its settings when it is imported."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "SLURM", "VLLM_HPC"))}
    variables = {**clean, "HF_HUB_DISABLE_XET": "1", "XDG_CACHE_HOME": str(work / "own"), **environment}
    argv = [sys.executable, "-m", "vllm_hpc", *map(str, words)]
    return subprocess.run(argv, cwd=work, env=variables, capture_output=True, text=True, timeout=120)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile of a site whose nodes are offline; its shared cache."""
    cache = tmp_path / "shared"
    (tmp_path / "vllm-hpc.toml").write_text(
        f"[profiles.site]\nscheduler = 'slurm'\ngpu = 'h100-80'\noffline = true\ncache_dir = '{cache}'\n"
    )
    return cache


def test_it_is_fetched_for_an_offline_site_and_found_by_the_ranks_client(
    tmp_path: Path, hub: str, profile: Path
) -> None:
    words = ("plan", "org/llama", "--profile", "site")
    before = run(tmp_path, *words, HF_ENDPOINT=hub)
    assert f"'org/llama' is not in the cache '{profile}/huggingface/hub', and the nodes are offline" in before.stderr
    assert "run 'vllm-hpc fetch org/llama --profile site' first" in before.stderr

    done = run(tmp_path, "fetch", "org/llama", "--profile", "site", "--json", HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    folder = profile / "huggingface/hub/models--org--llama/snapshots" / COMMIT
    assert (answer["folder"], answer["commit"], answer["files"]) == (str(folder), COMMIT, 4)
    assert answer["bytes"] == answer["fetched"] == sum(len(FILES[name]) for name in READ)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == READ

    again = run(tmp_path, "fetch", "org/llama", "--profile", "site", HF_ENDPOINT=hub)
    assert f"org/llama: was there already: {folder}\n" in again.stdout
    assert again.stdout.endswith("vllm-hpc submit org/llama --profile site --input prompts.jsonl\n")

    Hub.asked.clear()
    after = run(tmp_path, *words, HF_ENDPOINT=hub)
    assert "offline" not in after.stderr
    assert Hub.asked == [], "it is planned from the cache alone"
    # What the script tells the ranks, and what vLLM then does with it (weight_utils.py, download_weights_from_hf).
    script = run(tmp_path, "render", "org/llama", "--profile", "site", HF_ENDPOINT=hub).stdout
    lines = dict(re.findall(r"^export ((?:HF|TRANSFORMERS|VLLM_HPC)_\w+)=(.*)$", script, re.MULTILINE))
    told = {key: lines[key] for key in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_HPC_CACHE_DIR")}
    assert told == {
        "HF_HUB_CACHE": f"{profile}/huggingface/hub", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
        "VLLM_HPC_CACHE_DIR": str(profile),
    }  # fmt: skip
    ask = "import huggingface_hub as h; print(h.snapshot_download('org/llama', allow_patterns='*.safetensors'))"
    found = subprocess.run([sys.executable, "-c", ask], env={**os.environ, **told}, capture_output=True, text=True)
    assert found.stdout == f"{folder}\n", found.stderr


def test_what_broke_off_goes_on(tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that came stay; of others nothing is left, and the library itself goes on within a file."""
    cache = tmp_path / "cache/huggingface/hub/models--org--llama"
    words = ("fetch", "org/llama", "--cache-dir", tmp_path / "cache")
    monkeypatch.setattr(Hub, "refuses", "model.safetensors")
    broken = run(tmp_path, *words, HF_ENDPOINT=hub)
    assert broken.returncode == 1
    assert "could not be fetched" in broken.stderr.splitlines()[-1]
    assert "run it again, which goes on" in broken.stderr.splitlines()[-1]
    assert (cache / "snapshots" / COMMIT / "tokenizer.json").is_file()
    assert not list(cache.rglob("*.incomplete"))
    monkeypatch.setattr(Hub, "refuses", "")
    Hub.asked.clear()
    done = run(tmp_path, *words, HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr
    assert {path.rpartition("/")[2] for method, path, _ in Hub.asked if method == "GET" and COMMIT in path} == {
        "model.safetensors"
    }
    assert (cache / "snapshots" / COMMIT / "model.safetensors").read_bytes() == WEIGHTS
    home = f"--env HF_HUB_CACHE={tmp_path}/cache/huggingface/hub"
    assert done.stdout.endswith(f"vllm-hpc submit org/llama {home} --input prompts.jsonl\n")


def test_an_interrupt_ends_it_at_once_and_leaves_nothing_unfinished(tmp_path: Path, hub: str) -> None:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(Hub, "waits_for", released := threading.Event())
    words = ("fetch", "org/llama", "--cache-dir", tmp_path / "cache")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm_hpc", *map(str, words)], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={**clean, "HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1"},
    )  # fmt: skip
    try:
        wait_for(lambda: any(path.endswith("model.safetensors") and method == "GET" for method, path, _ in Hub.asked),
                 "the weights are asked for", 60)  # fmt: skip
        process.send_signal(signal.SIGINT)
        released.set()
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        monkeypatch.undo()
    assert (process.returncode, said.splitlines()[-1]) == (130, "Error: interrupted")
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


@pytest.mark.parametrize(
    ("words", "environment", "code", "said"),
    [
        (("org/gated",), {}, 2, "is gated on the Hub, and this account may not read it: ask for access at"),
        (("org/gone",), {}, 2, "the Hub has no model 'org/gone' that this account may read"),
        (("org/llama", "--revision", "none"), {}, 2, "the model 'org/llama' has no revision 'none': use a branch"),
        (("org/llama",), {"HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "could not be fetched from http://127.0.0.1:9"),
        (("org/llama", "--cache-dir", "/proc/none"), {}, 2, "cannot make the cache '/proc/none/huggingface/hub'"),
    ],
)
def test_what_the_hub_does_not_give_is_said_in_a_line(
    tmp_path: Path, hub: str, words: tuple[str, ...], environment: dict[str, str], code: int, said: str
) -> None:
    done = run(tmp_path, "fetch", *words, **{"HF_ENDPOINT": hub, **environment})
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("org/llama aaaa")]
    assert line.startswith("Error: ")
    assert said in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("org/llama", "--cache-dir", ""), "--cache-dir is empty"),
        (("org/llama", "--cache-dir", "a\0b"), "--cache-dir"),
        (("org/llama", "--profile", "none"), "no profile 'none'"),
        (("org/llama", "--profile", "relative"), "cache_dir must be an absolute path, not 'here'"),
        (("org/llama", "--profile", "decides"), "the profile's setup or env decides on the node where ranks look"),
        (("./here",), "no such model folder: './here'"),
        (("here",), "no such model folder: 'here'"),
        (("demo",), "'demo' is on this machine already"),
        (("model",), "'model' is on this machine already"),
        (("../../etc/passwd",), "no such model folder"),
        (("https://huggingface.co/org/llama",), "use the Hub id, 'org/llama'"),
        (("",), "MODEL is empty"),
        (("org/llama", "--revision", "../../main"), "--revision '../../main' must be a branch"),
        (("org/llama", "--revision", "a b\n"), "must be a branch"),
        (("org/llama", "--revision", ""), "--revision '' must be a branch"),
        (("org/llama",), "HF_HUB_OFFLINE is set here: unset it"),
    ],
)
def test_what_is_not_asked_for_is_said_in_a_line(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (desk / "vllm-hpc.toml").write_text(
        "[profiles.relative]\ncache_dir = 'here'\n[profiles.decides]\nsetup = ['export HF_HOME=/x']\n"
    )
    done = run_cli("fetch", *words)
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert said in done.err
    assert not (desk / "here").exists()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["config.json", "model.safetensors", "consolidated.safetensors", "params.json"],
         ["config.json", "consolidated.safetensors", "params.json"]),
        (["config.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "training_args.bin", "optimizer.pt"],
         ["config.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]),
        (["a-00001.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json", "x.gguf", "y.h5"],
         ["a-00001.safetensors", "model.safetensors.index.json"]),
        (["1_Pooling/config.json", "2_Dense/model.safetensors", "checkpoint-5/model.safetensors", "tf/a.json"],
         ["1_Pooling/config.json", "2_Dense/model.safetensors"]),
        (["modeling_x.py", "chat_template.jinja", "tekken.json", "vocab.txt", "a.png", "sub/.git/config.json"],
         ["chat_template.jinja", "modeling_x.py", "tekken.json", "vocab.txt"]),
        ([], []),
    ],
)  # fmt: skip
def test_the_files_that_vllm_reads_are_chosen(names: list[str], chosen: list[str]) -> None:
    assert choose_files(names) == chosen
