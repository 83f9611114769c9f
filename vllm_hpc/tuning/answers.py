"""What a setting changes in the answers: two short jobs, one without it and one with it.

The first answers some rows greedily. The second answers them too, and is given prompts with the first one's answers at
their end, to say how likely it finds these (prompt_logprobs).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Any

import msgspec

from vllm_hpc.planner.effect import Effect
from vllm_hpc.planner.tuned import Setting, Trial
from vllm_hpc.rows.diff import answer_of
from vllm_hpc.rows.row import CHAT_FIELDS, PROMPT_IDS, Row, write_rows
from vllm_hpc.tuning.trials import Bench, NotAnsweredError

# Rows that are compared, all at once, and the most tokens of each answer.
_ROWS, _TOKENS = 32, 128
# Eager, since compiling for so few rows takes longer than they do; few tokens in a step, since prompt_logprobs need
# float32 logits of each, for which the planner reserves no memory: 1 GiB for a vocabulary of 128 k.
_ENGINE: dict[str, Any] = {"enforce_eager": True, "max_num_seqs": _ROWS, "max_num_batched_tokens": 2048}
_KEPT = CHAT_FIELDS | {"prompt", "messages", "lora"}
# What is the job's or the row's of sampling that makes answers random, several, or longer.
_REPLACED = frozenset({
    "temperature", "top_p", "top_k", "min_p", "seed", "n", "max_tokens", "max_completion_tokens", "logprobs",
    "prompt_logprobs", "extra_args",
})  # fmt: skip
_SCORED = "scored-"


class Answer(msgspec.Struct, frozen=True):
    """A greedy answer: its tokens (words, of a rehearsal), their log probabilities and the tokens of its prompt.

    ``lora``: the adapter of its row, which must judge it too.
    """

    tokens: Sequence[int | str]
    logprobs: Sequence[float] = ()
    prompt: Sequence[int] = ()
    lora: Any = None


class Answers:
    """Compares settings with the plain ones that they change; each is run once."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._jobs = bench, 0
        self._plain: list[tuple[Setting, dict[str, Answer] | str]] = []  # or why there are none
        self._effects: list[tuple[Setting, Effect | str]] = []

    def compared(self, trial: Trial) -> Trial:
        """The trial with what its setting changes in the answers, or why that is not known.

        Unchanged if it did not run, or if its setting changes no answers.
        """
        setting = trial.setting
        if trial.tokens_per_s is None or not setting.changes:
            return trial
        found = next((effect for one, effect in self._effects if one == setting), self)
        if isinstance(found, Answers):
            found = self._effect(setting)
            self._effects.append((setting, found))
        if isinstance(found, str):
            return msgspec.structs.replace(trial, why=found)
        return msgspec.structs.replace(trial, effect=found)

    def _effect(self, setting: Setting) -> Effect | str:
        plain = self._of_plain(setting.plain)
        if isinstance(plain, str):
            return plain
        rows = [*_greedy(self._bench.rows()), *_with_answers(plain)]
        try:
            outputs = {str(row["id"]): row for row in map(answer_of, self._run(setting, rows))}
        except NotAnsweredError as error:
            return str(error)
        return effect_of(plain, _answers(outputs), outputs) or "no row was answered both with it and without"

    def _of_plain(self, plain: Setting) -> dict[str, Answer] | str:
        for setting, known in self._plain:
            if setting == plain:
                return known
        found = self._answered(plain)
        self._plain.append((plain, found))
        return found

    def _answered(self, plain: Setting) -> dict[str, Answer] | str:
        rows = {str(row["id"]): row for row in _greedy(self._bench.rows())}
        try:
            answers = _answers({str(row["id"]): row for row in self._run(plain, rows.values())})
        except NotAnsweredError as error:
            return f"the job without it: {error}"
        return {name: msgspec.structs.replace(answer, lora=rows[name].get("lora")) for name, answer in answers.items()}

    def _run(self, setting: Setting, rows: Iterable[Row]) -> list[Row]:
        self._jobs += 1
        file = self._bench.folder / f"answers-{self._jobs}.jsonl"
        write_rows(rows, file)
        return self._bench.answers(setting, _ENGINE, file)


def _greedy(rows: Iterable[Row]) -> Iterator[Row]:
    """The first rows that generate text, to be answered greedily."""
    fitting = (row for row in rows if "error" not in row and row.get("task", "generate") == "generate")
    for number, row in enumerate(islice(fitting, _ROWS)):
        kept = {key: value for key, value in row.items() if key in _KEPT}
        own = row.get("sampling") or {}
        sampling = {key: value for key, value in own.items() if key not in _REPLACED}
        limits = [own.get(key) for key in ("max_tokens", "max_completion_tokens")]
        most = min([one for one in limits if type(one) is int and one > 0] + [_TOKENS])
        sampling |= {"temperature": 0, "n": 1, "max_tokens": most, "logprobs": 0, "extra_args": {PROMPT_IDS: True}}
        yield {"id": f"row-{number}", **kept, "sampling": sampling}


def _with_answers(answers: dict[str, Answer]) -> Iterator[Row]:
    """Prompts that end with those answers, whose tokens are not sampled but judged."""
    for name, answer in answers.items():
        if answer.prompt and answer.logprobs:
            sampling = {"temperature": 0, "n": 1, "max_tokens": 1, "prompt_logprobs": 0}
            prompt = [*answer.prompt, *answer.tokens]
            adapter = {} if answer.lora is None else {"lora": answer.lora}
            yield {"id": _SCORED + name, "prompt": prompt, **adapter, "sampling": sampling}


def _answers(outputs: dict[str, Row]) -> dict[str, Answer]:
    return {name: _answer(row) for name, row in outputs.items() if not row.get("error") and _SCORED not in name}


def _answer(row: Row) -> Answer:
    logprobs = row.get("logprobs")
    if not logprobs:
        return Answer(str(row.get("text") or "").split())
    return Answer([one["token_id"] for one in logprobs], _floats(logprobs), row.get("prompt_token_ids") or ())


def _floats(logprobs: Iterable[Row | None]) -> list[float]:
    return [one["logprob"] for one in logprobs if one is not None and one["logprob"] is not None]


def effect_of(plain: dict[str, Answer], changed: dict[str, Answer], outputs: dict[str, Row]) -> Effect | None:
    """The effect, from answers by the ids of their rows, and output rows with prompt_logprobs; None without a pair."""
    pairs = [(answer, changed[name]) for name, answer in plain.items() if name in changed]
    if not pairs:
        return None
    longest = sum(max(len(one.tokens), len(other.tokens)) for one, other in pairs)
    common = sum(_common(one.tokens, other.tokens) for one, other in pairs)
    theirs, own = _judged(plain, outputs)
    return Effect(
        rows=len(pairs),
        equal_rows=round(sum(one.tokens == other.tokens for one, other in pairs) / len(pairs), 4),
        equal_tokens=round(common / longest, 4) if longest else 1.0,
        log_likelihood=_mean(theirs),
        own_log_likelihood=_mean(own),
    )


def _judged(plain: dict[str, Answer], outputs: dict[str, Row]) -> tuple[list[float], list[float]]:
    """Log probabilities of the plain answers' tokens: those that they are given, and their own."""
    theirs: list[float] = []
    own: list[float] = []
    for name, answer in plain.items():
        row = outputs.get(_SCORED + name) or {}
        judged = _floats(row.get("prompt_logprobs") or ())[-len(answer.tokens) or None :]
        if judged and len(judged) == len(answer.logprobs) == len(answer.tokens):
            theirs += judged
            own += answer.logprobs
    return theirs, own


def _mean(logprobs: list[float]) -> float | None:
    return round(min(0.0, sum(logprobs) / len(logprobs)), 5) if logprobs else None


def _common(one: Sequence[int | str], other: Sequence[int | str]) -> int:
    """How many tokens stand before the first difference."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
