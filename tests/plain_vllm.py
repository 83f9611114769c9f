"""What plain ``vllm.LLM`` answers, in one process of its own: the tests import no vLLM, and a start is half a minute.

``python -m tests.plain_vllm OUT`` reads what to ask from its standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLM

    from vllm_hpc.rows.row import Row

_ROOT = Path(__file__).parents[1]
_ENGINE = {"dtype": "float32", "enforce_eager": True, "seed": 0, "disable_log_stats": True, "max_num_seqs": 32}


def ask_plain_vllm(
    model: Path, out: Path, alone: list[Row], together: list[Row], sampling: dict[str, Any]
) -> dict[str, Any]:
    """Ask rows one by one with ``sampling``, and others all at once, greedily to their ``max_tokens``.

    The answers are kept in ``out``: of ``alone`` the texts; of ``together`` the text and the least gap between the log
    probabilities of the two likeliest tokens.
    """
    if not out.exists():
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        request = json.dumps({"model": str(model), "alone": alone, "together": together, "sampling": sampling})
        done = subprocess.run(
            [sys.executable, "-m", "tests.plain_vllm", str(out)],
            input=request, text=True, capture_output=True, env=environment, cwd=_ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def _alone(llm: LLM, rows: list[Row], sampling: dict[str, Any]) -> list[str]:
    from vllm import SamplingParams

    params, texts = SamplingParams(**sampling), []
    for row in rows:
        if "messages" in row:
            output = llm.chat(row["messages"], params, use_tqdm=False)[0]
        else:
            kind = "prompt" if isinstance(row["prompt"], str) else "prompt_token_ids"
            output = llm.generate({kind: row["prompt"]}, params, use_tqdm=False)[0]
        texts.append(output.outputs[0].text)
    return texts


def _together(llm: LLM, rows: list[Row]) -> list[tuple[str, float]]:
    from vllm import SamplingParams

    params = [
        SamplingParams(temperature=0.0, ignore_eos=True, logprobs=2, max_tokens=row["sampling"]["max_tokens"])
        for row in rows
    ]
    outputs = llm.generate([row["prompt"] for row in rows], params, use_tqdm=False)
    found = [output.outputs[0] for output in outputs]
    return [(one.text, min(map(_gap, one.logprobs or []))) for one in found]


def _gap(position: Any) -> float:
    first, second = sorted((one.logprob for one in position.values()), reverse=True)[:2]
    return float(first - second)


def main() -> None:
    from vllm import LLM

    asked = json.loads(sys.stdin.read())
    llm = LLM(model=asked["model"], **_ENGINE)
    alone = _alone(llm, asked["alone"], asked["sampling"])
    together = _together(llm, asked["together"]) if asked["together"] else []
    Path(sys.argv[1]).write_text(json.dumps({"alone": alone, "together": together}))


if __name__ == "__main__":
    main()
