"""Findings of `vllm-hpc tune`: the fastest layout and settings for a model on certain nodes and GPUs."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.planner.models.config import Shape
from vllm_hpc.spec.errors import RefusedError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.user_cache import cache_folder

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

    def without(self, names: Iterable[str]) -> Setting:
        """The same without these engine arguments."""
        engine = {name: value for name, value in self.engine.items() if name not in names}
        return msgspec.structs.replace(self, engine=engine)

    def __str__(self) -> str:
        engine = "".join(f", {name} {value}" for name, value in self.engine.items())
        return f"TP {self.tp} × PP {self.pp} × DP {self.dp}{engine}"


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A setting, the output tokens per second that it reached (None: it failed, see ``why``), and its job folder.

    ``seconds`` from its first step to its last. ``counts`` is False for a run that only compiles code.
    """

    setting: Setting
    tokens_per_s: float | None
    seconds: float = 0.0
    job: str = ""
    why: str = ""
    counts: bool = True


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What a finding applies to: this model, GPU, number of nodes and of ranks per node, and no other.

    ``numbers``: dtype, quantization and kv_cache_dtype, if given with --engine.
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
        """The speed relative to the planner's own choice, each the mean of its trials."""
        best, own = self._mean(self.best), self._mean(self.trials[0].setting)
        return best / own if own else 1.0

    def _mean(self, setting: Setting) -> float:
        rates = [trial.tokens_per_s for trial in self.trials if trial.setting == setting and trial.tokens_per_s]
        return sum(rates) / len(rates) if rates else 0.0

    def goes_with(self, request: Request) -> bool:
        """Whether its layout agrees with everything that was asked."""
        asked = {"tp": request.tp, "pp": request.pp, "dp": request.dp}
        return not request.array and all(value in (None, getattr(self.best, name)) for name, value in asked.items())

    @property
    def own(self) -> Setting:
        """The planner's own layout for the rows of the trials, whatever was asked."""
        return msgspec.structs.replace(self.layout or self.trials[0].setting, engine={})

    def is_for(self, own: Layout) -> bool:
        """Whether the planner's own layout is the same as for the rows of the trials; fewer rows may need another."""
        return self.own == Setting.of(own)

    def applied_to(self, request: Request, layout: Layout) -> Request:
        """The request with its layout, on the nodes of ``layout``, and the engine arguments that it does not set.

        It sets both or neither of the two batch limits: vLLM refuses fewer tokens than sequences. If they are the
        planner's own, the planner chooses them again, since they depend on the rows.
        """
        own = self.trials[0].setting
        is_own = all(self.best.engine.get(name) == own.engine.get(name) for name in _BATCH)
        engine = self.best.without(_BATCH if is_own or _BATCH & request.engine.keys() else ()).engine
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


def apply_finding(plan: Plan, request: Request, subject: Subject, plan_for: Callable[[Request], Plan]) -> Plan:
    """The plan with its finding applied, unless that contradicts what was asked or does not fit.

    Nor is it applied if the planner would choose a different layout for this input than for the rows of the trials.
    """
    finding = load_finding(subject)
    if finding is None:
        with suppress(OSError):  # the user may have no home folder
            if subject.file.exists():
                return _noting(plan, f"{subject.file} is not a valid finding of tune: run tune again, or delete it")
        return plan
    if not finding.goes_with(request):
        return plan
    try:
        if request.input is not None:
            own = plan_for(without_layout(request, plan.layout)).layout
            if not finding.is_for(own):
                return _noting(plan, explain_unused(finding, own))
        found = plan_for(finding.applied_to(request, plan.layout))
    except RefusedError:
        return plan
    return plan if found.fits is False else _noting(found, describe_finding(finding, subject))


def _noting(plan: Plan, reason: str) -> Plan:
    return msgspec.structs.replace(plan, reasons=(*plan.reasons, reason))


def without_layout(request: Request, layout: Layout) -> Request:
    """The request for the same ranks, without a layout."""
    return msgspec.structs.replace(
        request, tp=None, pp=None, dp=None, nodes=layout.nodes, gpus_per_node=layout.procs_per_node
    )


def explain_unused(finding: TuneFinding, own: Layout) -> str:
    """Why the plan does not use the finding."""
    return (
        f"what tune found is not used: for the rows that it ran the planner chooses {finding.own}, but for this input "
        f"{Setting.of(own)}"
    )


def describe_finding(finding: TuneFinding, subject: Subject) -> str:
    """Why the plan uses this setting."""
    day = time.strftime("%Y-%m-%d", time.localtime(finding.made_at))
    shortest = min((trial.seconds for trial in finding.trials if trial.tokens_per_s), default=0.0)
    tried = f"of {len(finding.trials)} tried, in trials of {shortest:.0f} s or more"
    if finding.best == finding.trials[0].setting:
        return f"tuned on {day}: none {tried}, was faster than the planner's own choice ({subject.file})"
    return (
        f"tuned on {day}: {finding.best} was the fastest {tried}, {finding.gain:.2f} times the planner's own choice "
        f"(to use that instead, delete {subject.file})"
    )
