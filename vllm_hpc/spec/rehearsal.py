"""Settings of a rehearsal (--rehearse-set): a job that runs end to end with a built-in engine instead of vLLM's.

The values are checked when a request is read; ``vllm_hpc.engine.rehearsal.engine`` uses them.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from vllm_hpc.spec.errors import RequestError

Fault = Literal["die", "hang", "diverge", "oom", "step"]

# MODEL of a rehearsal without a model: no model is looked up.
NO_MODEL = "(none)"
FAULTS: tuple[Fault, ...] = get_args(Fault)
_TRIGGERS = ("fault_rank", "fault_row", "fault_s")
_LIMIT = 1_000_000_000


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """How a rehearsed engine behaves; by default it takes no time and does not fail.

    ``tokens_per_s``: output tokens per second of each replica (None: as fast as possible); ``load_s``: seconds per
    engine start. ``fault`` happens on ``fault_rank`` (a global rank; None: the first rank of the affected replica),
    either when row ``fault_row`` (its index) runs, in every attempt, or ``fault_s`` seconds after the engine is ready,
    in the first attempt only. ``step`` happens in the first step of every attempt.
    """

    tokens_per_s: float | None = None
    load_s: float = 0.0
    fault: Fault | None = None
    fault_rank: int | None = None
    fault_row: int | None = None
    fault_s: float | None = None

    def check_place(self, ranks: int, replica_size: int, rows: int | None) -> None:
        """Refuse a fault on a rank or a row that does not exist; ``rows`` None: unknown. Raises RequestError."""
        for name, count in (("rank", ranks), ("row", rows)):
            value: int | None = getattr(self, f"fault_{name}")
            if value is not None and count is not None and value >= count:
                raise RequestError(f"--rehearse-set fault_{name} must be from 0 to {count - 1}, not {value}")
        if self.fault_row is not None and self.fault_rank is not None and ranks > replica_size:
            raise RequestError(
                "--rehearse-set fault_rank with fault_row: which replica will run a row is not known in advance; "
                "leave fault_rank out, or use fault_s"
            )
        if self.fault == "diverge" and replica_size == 1:
            raise RequestError(
                "--rehearse-set fault=diverge needs replicas of two or more ranks, which compare their results: "
                "use --tp 2 or --pp 2, or another fault"
            )


def named_model(model: str) -> str | None:
    """The model that a request names; None of a rehearsal, or a script, without one."""
    return None if model == NO_MODEL else model


def read_rehearsal(given: object) -> Rehearsal:
    """The settings from --rehearse-set or from [rehearse] in job.toml. Raises RequestError."""
    settings = check_settings(given)
    _check_fault(settings)
    return msgspec.convert({key: value for key, value in settings.items() if value is not None}, Rehearsal)


def check_settings(given: object) -> dict[str, Any]:
    """Check each setting alone, as for a job.toml to which the caller may add more. Raises RequestError."""
    if not isinstance(given, dict):
        raise RequestError("[rehearse] must be a table such as { load_s = 5 }, or rehearse = true")
    for key in given:
        if key not in Rehearsal.__struct_fields__:
            import difflib

            near = difflib.get_close_matches(str(key), Rehearsal.__struct_fields__, n=1)
            hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(Rehearsal.__struct_fields__)}"
            raise RequestError(f"--rehearse-set {key} is not known: {hint}")
    _check_numbers(given)
    fault = given.get("fault")
    if fault is not None and fault not in FAULTS:
        raise RequestError(f"--rehearse-set fault must be one of {', '.join(FAULTS)}, not {fault!r}")
    return given


def with_rehearsal(options: dict[str, Any]) -> dict[str, Any]:
    """Split a table of settings under ``rehearse`` into rehearse and rehearse_set. Raises RequestError."""
    more = options.get("rehearse_set", {})
    if not isinstance(more, dict):
        read_rehearsal(more)  # refuses it
    if isinstance(options.get("rehearse"), dict):
        return {**options, "rehearse": True, "rehearse_set": {**options["rehearse"], **more}}
    return options


def in_earnest(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a job definition without its rehearsal settings, for a real run. Raises RequestError."""
    if options["model"] == NO_MODEL:
        raise RequestError("MODEL is missing: job.toml describes a rehearsal and names no model")
    return {key: value for key, value in options.items() if key != "rehearse_set"}


def _check_numbers(given: dict[str, Any]) -> None:
    for key, is_whole, least in (
        ("tokens_per_s", False, None), ("load_s", False, 0), ("fault_rank", True, 0), ("fault_row", True, 0),
        ("fault_s", False, 0),
    ):  # fmt: skip
        value = given.get(key)
        if value is None:
            continue
        is_number = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
        if is_number and value > _LIMIT:
            raise RequestError(f"--rehearse-set {key} must be at most {_LIMIT}")
        if not is_number or not (value > 0 or value == least):
            kind = "a whole number" if is_whole else "a number"
            bound = " above 0" if least is None else ", 0 or more"
            raise RequestError(f"--rehearse-set {key} must be {kind}{bound}, not {value!r}")


def _check_fault(given: dict[str, Any]) -> None:
    """Check that a fault has a kind and exactly one trigger."""
    fault = given.get("fault")
    if fault is None:
        for key in _TRIGGERS:
            if given.get(key) is not None:
                raise RequestError(f"--rehearse-set {key} says where a fault happens: add fault={'|'.join(FAULTS)}")
        return
    if fault == "step":
        for key in ("fault_row", "fault_s"):
            if given.get(key) is not None:
                raise RequestError(
                    f"--rehearse-set fault=step happens in the first step of every attempt: leave {key} out"
                )
        return
    if (given.get("fault_row") is None) == (given.get("fault_s") is None):
        raise RequestError(
            f"--rehearse-set fault={fault} needs either fault_row (the index of a row, in every attempt) "
            "or fault_s (seconds, in the first attempt): give one of them"
        )
