"""The work: an OpenAI batch file of chats, and the model that answers them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.shapes import SHAPES, make
from vllm_hpc.planner.models import demo

# The shapes' tokenizer has a token a byte and no chat template: with this one, the prompt has as many tokens as bytes.
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
WORDS = ["what", "why", "how", "is", "are", "makes", "moves", "holds", "between", "under", "after", "without", "the",
         "river", "city", "engine", "light", "winter", "paper", "music", "number", "field", "stone", "train", "ocean",
         "garden", "history", "window", "large", "small", "old", "quick", "a", "of", "and", "in", "to"]  # fmt: skip


@dataclass(frozen=True)
class Chats:
    """What is asked: rows, letters of each prompt, most tokens out, and whether each row has that many."""

    rows: int
    letters: int
    output: int
    seed: int = 0
    ignore_eos: bool = False

    def lines(self, model: str) -> list[str]:
        """Lines of an OpenAI batch, greedy; no two begin alike, so no way gains by shared prefixes."""
        chance = random.Random(self.seed)
        return [self._line(model, number, chance) for number in range(self.rows)]

    def _line(self, model: str, number: int, chance: random.Random) -> str:
        words = f"{number}:"
        while len(words) < self.letters:
            words += " " + chance.choice(WORDS)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": words[: max(self.letters, len(f"{number}:"))]}],
            "max_tokens": self.output,
            "temperature": 0.0,
        }
        if self.ignore_eos:
            body["ignore_eos"] = True
        line = {"custom_id": f"chat-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(line)

    def write(self, file: Path, model: Path) -> Path:
        file.write_text("".join(line + "\n" for line in self.lines(str(model))))
        return file


def find_model(name: str, work: Path) -> Path:
    """The folder of `demo`, of a shape made here (benchmarks.gpu.shapes), or the folder that is named."""
    if name == "demo":
        return demo.ensure()
    if name not in SHAPES:
        if not (Path(name) / "config.json").is_file():
            raise SystemExit(f"--model {name!r} must be demo, {', '.join(sorted(SHAPES))} or a model's folder")
        return Path(name).resolve()
    folder = make(name, work / name)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder.resolve()
