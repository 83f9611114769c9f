"""Applies a finding of `vllm-hpc tune` to a plan, and says what it is, and what it would be if more were allowed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress

import msgspec

from vllm_hpc.planner.tuned import Setting, Subject, Trial, TuneFinding, load_finding, without_layout
from vllm_hpc.spec.allowed import CHANGES_ANSWERS
from vllm_hpc.spec.errors import RefusedError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import EngineChoice, Plan
from vllm_hpc.spec.request import Request

_UNUSED = "what tune found is not used"


def apply_finding(plan: Plan, request: Request, subject: Subject, plan_for: Callable[[Request], Plan]) -> Plan:
    """The plan with its finding applied, unless that contradicts what was asked or does not fit.

    Nor is it applied if the planner would choose a different layout for this input than for the rows of the trials.
    What changes answers is taken only if the request allows it.
    """
    found = _applied(plan, request, subject, plan_for)
    for said in _in_vain(found, request):
        found = _noting(found, said)
    return found


def _in_vain(plan: Plan, request: Request) -> Iterator[str]:
    """What --allow names and the plan does not take, and why: --engine has it, or tune has found nothing with it."""
    for name in request.allow:
        if CHANGES_ANSWERS[name] in request.engine:
            yield f"--allow {name}: nothing to take, since --engine {CHANGES_ANSWERS[name]} is given"
    names = ",".join(name for name in request.allow if CHANGES_ANSWERS[name] not in {*plan.engine, *request.engine})
    if names and not any(reason.startswith(_UNUSED) for reason in plan.reasons):
        yield f"--allow {names}: no finding of tune that is faster with it: 'vllm-hpc tune --sweep {names}' tries it"


def _applied(plan: Plan, request: Request, subject: Subject, plan_for: Callable[[Request], Plan]) -> Plan:
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
    if found.fits is False:
        return plan
    taken = finding.taken(request.allow)
    for said in (describe_finding(finding, subject, taken), *explain_choices(finding, request.allow)):
        found = _noting(found, said)
    return msgspec.structs.replace(found, choices=with_measured(found.choices, finding, taken))


def _noting(plan: Plan, reason: str) -> Plan:
    return msgspec.structs.replace(plan, reasons=(*plan.reasons, reason))


def explain_unused(finding: TuneFinding, own: Layout) -> str:
    """Why the plan does not use the finding."""
    return (
        f"{_UNUSED}: for the rows that it ran the planner chooses {finding.own}, but for this input {Setting.of(own)}"
    )


def explain_choices(finding: TuneFinding, allow: Collection[str]) -> list[str]:
    """What faster settings would give, whose changes of answers are not allowed."""
    return [
        f"{one.option} would take {one.engine}: {one.gain:.2f} times the tokens/s; {one.answers}"
        for one in finding.untaken(allow)
    ]


def with_measured(choices: Iterable[EngineChoice], finding: TuneFinding, taken: Setting) -> tuple[EngineChoice, ...]:
    """The choices of a plan, with what tune has measured of them in place of estimates."""
    trials = {str(trial.setting): trial for trial in finding.changing()}
    return tuple(_measured(one, finding, taken, trials) for one in choices)


def _measured(choice: EngineChoice, finding: TuneFinding, taken: Setting, trials: Mapping[str, Trial]) -> EngineChoice:
    trial = trials.get(str(msgspec.structs.replace(taken, engine={**taken.engine, **choice.engine})))
    if trial is None:
        return choice
    ratio = round(finding.ratio(trial.setting, taken), 2)
    return msgspec.structs.replace(
        choice, gain_low=ratio, gain_high=ratio, basis=f"measured by tune on {finding.day}", answers=trial.answers
    )


def describe_finding(finding: TuneFinding, subject: Subject, taken: Setting) -> str:
    """Why the plan uses this setting."""
    day = finding.day
    shortest = min((trial.seconds for trial in finding.trials if trial.tokens_per_s), default=0.0)
    tried = f"of {len(finding.trials)} tried, in trials of {shortest:.0f} s or more"
    if taken == finding.trials[0].setting:
        kept = " and kept the answers" if finding.changing() else ""
        return f"tuned on {day}: none {tried}, was faster than the planner's own choice{kept} ({subject.file})"
    return (
        f"tuned on {day}: {taken} was the fastest {tried}, {finding.ratio(taken, finding.trials[0].setting):.2f} times "
        f"the planner's own choice (to use that instead, delete {subject.file})"
    )
