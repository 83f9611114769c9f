"""Notes the rows that can be read, but of which it is known before the job runs that they become error rows."""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows import notes
from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.row import TASKS, Row
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.sampling import LIMITS
from vllm_hpc.spec.sampling_names import misspelt

# The limits of a row are the engine's, which takes more seeds and tokens than an option does.
_WIDER = {"seed": (-(2**63), 2**64 - 1), "max_tokens": (1, float("inf"))}


def note_failing(row: Row, number: int, found: Notes) -> None:
    """Note why a normalised row would become an error row, as far as its fields say."""
    if "prompt" in row and not row["prompt"]:
        found.add(notes.EMPTY, number)
    if row.get("lora") is not None:
        found.add_adapter(str(row["lora"]), number)
    asks = "embed" if str(row.get("batch", {}).get("url")).endswith("/embeddings") else row.get("task")
    if asks in TASKS:
        found.add(notes.EMBEDS if asks == "embed" else notes.GENERATES, number)
    if wrong := _wrong(row.get("sampling") or {}):
        found.add(notes.WRONG_SAMPLING, number, wrong)


def note_kept(row: Row, number: int, found: Notes) -> None:
    """The same for a row that a job keeps, of which some were noted as unreadable when it was submitted."""
    if isinstance(error := row.get("error"), dict):
        found.add(notes.UNREADABLE, number, [str(error.get("message"))])
    else:
        note_failing(row, number, found)


def check_sampling(found: Notes, rows: int) -> None:
    """Refuse rows that vLLM takes none of. Raises InputError."""
    if found.count(notes.WRONG_SAMPLING) == rows:
        first = found.first(notes.WRONG_SAMPLING, "in 'sampling', ")
        raise InputError(f"{first}: correct it (no other row can be run)")


def _wrong(sampling: Row) -> list[str]:
    """What vLLM does not take in a row's sampling: names that it does not have, and values out of its limits."""
    given = {name: value for name, value in sampling.items() if value is not None}
    return misspelt(given) + [
        f"{name!r} {LIMITS[name][3]}" for name in LIMITS.keys() & given.keys() if _is_out(name, given[name])
    ]


def _is_out(name: str, value: Any) -> bool:
    """Whether a value is none that vLLM takes: it reads "8" as 8, and in a chat ``logprobs`` may be true."""
    if isinstance(value, bool):
        return False
    least, most, with_least, _ = LIMITS[name]
    least, most = _WIDER.get(name, (least, most))
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return True
    return not least <= number <= most or (number == least and not with_least)
