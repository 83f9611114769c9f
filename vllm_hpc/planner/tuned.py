"""Findings of `vllm-hpc tune`: the fastest layout and settings for a model on certain nodes and GPUs."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.planner.effect import Effect
from vllm_hpc.planner.models.config import Shape
from vllm_hpc.spec.allowed import CHANGES_ANSWERS
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.user_cache import cache_folder
from vllm_hpc.spec.visible import one_line

# Runs of one setting, except the first, differed by up to 2 % (docs/performance.md).
BETTER = 1.02
_BATCH = frozenset({"max_num_seqs", "max_num_batched_tokens"})
# In the year 9999, the last one that a date can have.
_LAST_SECOND = 2.5e11


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A layout of the same ranks, with engine arguments."""

    tp: int
    pp: int
    dp: int
    engine: dict[str, Any] = {}

    def __post_init__(self) -> None:
        """Raises ValueError for an invalid layout: a file may contain anything."""
        if min(self.tp, self.pp, self.dp) < 1:
            raise ValueError("sizes of a layout are 1 or more")

    @classmethod
    def of(cls, layout: Layout) -> Setting:
        """The setting of a layout, without engine arguments."""
        return cls(tp=layout.tp, pp=layout.pp, dp=layout.dp)

    @property
    def changes(self) -> frozenset[str]:
        """What of it changes answers, by the names of --allow."""
        return frozenset(name for name, argument in CHANGES_ANSWERS.items() if argument in self.engine)

    @property
    def plain(self) -> Setting:
        """The same without what changes answers."""
        return self.without(CHANGES_ANSWERS.values())

    def without(self, names: Iterable[str]) -> Setting:
        """The same without these engine arguments."""
        engine = {name: value for name, value in self.engine.items() if name not in names}
        return msgspec.structs.replace(self, engine=engine)

    def only(self, names: Iterable[str]) -> str:
        """These of its engine arguments, in words."""
        return ", ".join(f"{name} {_in_words(self.engine[name])}" for name in names if name in self.engine)

    def __str__(self) -> str:
        engine = "".join(f", {name} {_in_words(value)}" for name, value in self.engine.items())
        return f"TP {self.tp} × PP {self.pp} × DP {self.dp}{engine}"


def _in_words(value: object) -> object:
    """An engine argument, short: of speculation its method."""
    return value.get("method", value) if isinstance(value, dict) else value


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A setting, the output tokens per second that it reached (None: it failed, see ``why``), and its job folder.

    ``seconds`` from its first step to its last. ``counts`` is False for a run that only compiles code. ``effect``: what
    it changes in the answers; None where it changes none, or where that could not be measured, for the reason ``why``.
    """

    setting: Setting
    tokens_per_s: float | None
    seconds: float = 0.0
    job: str = ""
    why: str = ""
    counts: bool = True
    effect: Effect | None = None

    @property
    def answers(self) -> str:
        """What it changes in the answers, in words."""
        why = f" ({one_line(self.why)})" if self.why else ""
        return str(self.effect) if self.effect else f"what it changes in the answers was not measured{why}"


class Untaken(NamedTuple):
    """A faster setting that changes answers, its gain, and what it changes, in words."""

    setting: Setting
    gain: float
    answers: str

    @property
    def engine(self) -> str:
        """What changes them, in words."""
        return self.setting.only(CHANGES_ANSWERS.values())

    @property
    def option(self) -> str:
        """The option that allows it."""
        return f"--allow {','.join(sorted(self.setting.changes))}"


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What a finding applies to: this model, GPU, number of nodes and of ranks per node, and no other.

    ``numbers``: dtype, quantization, kv_cache_dtype and speculative_config, if given with --engine.
    """

    model: str
    shape: Shape
    numbers: dict[str, Any]
    device: str
    nodes: int
    procs_per_node: int
    is_native: bool

    @property
    def file(self) -> Path:
        """The file of its finding."""
        digest = hashlib.blake2b(msgspec.json.encode(self), digest_size=10).hexdigest()
        name = re.sub(r"[^A-Za-z0-9._-]", "-", Path(self.model).name)[:60]
        return cache_folder() / "tuned" / f"{name}-{digest}.json"


class TuneFinding(msgspec.Struct, frozen=True, kw_only=True):
    """The best of all settings that were tried; the first trial is the planner's own choice. Times: Unix seconds.

    ``layout``: the planner's own for these rows when no layout is requested; None: that of the first trial.
    """

    model: str
    device: str
    best: Setting
    trials: tuple[Trial, ...]
    made_at: float
    layout: Setting | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what tune does not write: a file may contain anything."""
        if not self.trials or not 0 <= self.made_at < _LAST_SECOND:
            raise ValueError("no trials, or no time")

    @property
    def gain(self) -> float:
        """The speed of the best relative to the planner's own choice."""
        return self.ratio(self.best, self.trials[0].setting)

    def ratio(self, setting: Setting, base: Setting) -> float:
        """The speed of one setting relative to another, each the mean of its trials; 1 if one has none."""
        fast, slow = self._mean(setting), self._mean(base)
        return fast / slow if fast and slow else 1.0

    def taken(self, allow: Iterable[str]) -> Setting:
        """The fastest setting that changes nothing in the answers but what is allowed."""
        plain, allowed = self.best.plain, frozenset(allow)
        fast = [one.setting for one in self.changing() if one.setting.changes <= allowed]
        best = max(fast, key=self._mean, default=plain)
        is_only = not self._mean(plain) and best.changes  # of an earlier version, which ran an fp8 cache with the rest
        return best if is_only or self.ratio(best, plain) > BETTER else plain

    def changing(self) -> list[Trial]:
        """A trial of each setting that changes answers, with what it changes."""
        found: list[Trial] = []
        for trial in self.trials:
            is_new = trial.setting not in [one.setting for one in found]
            if trial.tokens_per_s and trial.setting.changes and trial.setting.plain == self.best.plain and is_new:
                found.append(trial)
        return found

    def untaken(self, allow: Iterable[str]) -> list[Untaken]:
        """What is faster than ``taken(allow)`` and changes answers in ways that are not allowed."""
        allowed, taken = frozenset(allow), self.taken(allow)
        fast = [(trial, self.ratio(trial.setting, taken)) for trial in self.changing()]
        return [
            Untaken(trial.setting, gain, trial.answers)
            for trial, gain in fast
            if gain > BETTER and not trial.setting.changes <= allowed
        ]

    def _mean(self, setting: Setting) -> float:
        rates = [trial.tokens_per_s for trial in self.trials if trial.setting == setting and trial.tokens_per_s]
        return sum(rates) / len(rates) if rates else 0.0

    def goes_with(self, request: Request) -> bool:
        """Whether its layout agrees with everything that was asked."""
        asked = {"tp": request.tp, "pp": request.pp, "dp": request.dp}
        return not request.array and all(value in (None, getattr(self.best, name)) for name, value in asked.items())

    @property
    def day(self) -> str:
        """The day of the trials, as a date here."""
        return time.strftime("%Y-%m-%d", time.localtime(self.made_at))

    @property
    def own(self) -> Setting:
        """The planner's own layout for the rows of the trials, whatever was asked."""
        return msgspec.structs.replace(self.layout or self.trials[0].setting, engine={})

    def is_for(self, own: Layout) -> bool:
        """Whether the planner's own layout is the same as for the rows of the trials; fewer rows may need another."""
        return self.own == Setting.of(own)

    def applied_to(self, request: Request, layout: Layout) -> Request:
        """The request with its layout, on the nodes of ``layout``, and the engine arguments that it does not set.

        What changes answers is applied if the request allows it. Both or neither of the two batch limits are set: vLLM
        refuses fewer tokens than sequences. If they are the planner's own, the planner chooses them again, since they
        depend on the rows.
        """
        own = self.trials[0].setting
        is_own = all(self.best.engine.get(name) == own.engine.get(name) for name in _BATCH)
        taken = self.taken(request.allow)
        engine = taken.without(_BATCH if is_own or _BATCH & request.engine.keys() else ()).engine
        cut = {name: getattr(self.best, name) for name in ("tp", "pp", "dp")}
        return msgspec.structs.replace(
            request, nodes=layout.nodes, gpus_per_node=layout.procs_per_node, engine={**engine, **request.engine}, **cut
        )


def load_finding(subject: Subject) -> TuneFinding | None:
    """The finding for a subject; None if it was not tuned, or the file cannot be read."""
    try:
        return read_json(subject.file, TuneFinding)
    except (OSError, ValueError):
        return None


def without_layout(request: Request, layout: Layout) -> Request:
    """The request for the same ranks, without a layout."""
    return msgspec.structs.replace(
        request, tp=None, pp=None, dp=None, nodes=layout.nodes, gpus_per_node=layout.procs_per_node
    )
