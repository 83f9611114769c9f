"""What a site's template has lost of what a run needs, told from its script and ours for the same sample job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vllm_hpc.schedulers.script_context import ScriptContext
from vllm_hpc.schedulers.script_header import Directive, directives_of
from vllm_hpc.spec.directives import OWNED, OWNED_OF_QSUB
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.finding import Finding, Result

_TASK = re.compile(r'"\$\{task\[[@*]\](@Q)?[}" ]|\brun_ranks\b|"\$\{task\[\*\]@Q\}')
_RANK = "vllm_hpc.in_job rank"
_SETS_NODES = re.compile(r"\b(slurm_nodes|pbs_nodes)\b|(?<![-\w])nodes=|\bmapfile\b.*\bnodes\b")
# Options of sbatch of which any asks for GPUs.
_GPUS = frozenset({"--gpus-per-node", "--gres", "--gpus", "--gpus-per-task", "--gpus-per-socket"})
_LAYOUT_OF_PBS = frozenset({"-l select", "-l nodes"})
# A site may have a template set these for all of its jobs; users have options for them.
_OF_SITES = frozenset({"--partition", "--time", "--account", "--qos", "--mem", "-q"})
_SUPER = "write {{ super() }} where its own lines belong"
_SET_BY_US = frozenset(f"--{name}" for name, _ in OWNED) | frozenset(f"-{letter}" for letter in OWNED_OF_QSUB)


class TemplateFinding(Finding, frozen=True):
    """A fault of a template: ``status`` is fail, for a job that would not run well, or warn.

    ``case`` is the first sample job that has it, ``scripts`` how many do. Faults with the same ``key`` are alike, and
    told once; without one it is what was found.
    """

    case: str = ""
    scripts: int = 0
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object that ``templates check --json`` prints."""
        return {**super().to_json(), "case": self.case, "scripts": self.scripts}


def findings_of(script: str, packaged: str, context: ScriptContext, scheduler: str) -> Iterator[TemplateFinding]:
    """Compare the script of a site's template with the packaged one's for the same job."""
    code = "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("#"))
    first, last = ("begin_attempt", "run_work") if context.pods is None else ("begin_pod", "run_pod")
    is_whole = first not in code or last not in code
    if context.pods is None:
        yield from _directives(script, packaged, _asked(context, scheduler), is_whole)
    if is_whole:
        yield TemplateFinding(
            "script",
            "warn",
            f"a whole script of its own, without {first} and {last}: attempts, the end's record, drains and requeues "
            "are up to it",
        )
    if is_whole or context.pods is not None:
        return
    yield from _environment(code, context)
    yield from _rendezvous(code, scheduler)
    yield from _launch(code, scheduler)


def _launch(code: str, scheduler: str) -> Iterator[TemplateFinding]:
    body = re.search(r"^launch\(\) *\{\n(.*?)^\}", code, re.M | re.S)
    text = re.sub(r"(^|\s)#.*", "", body[1]) if body else ""
    if _TASK.search(text):
        return
    if _RANK not in text:
        yield TemplateFinding(
            "launch", "fail", "block launch starts no rank", 'end the launcher\'s line with "${task[@]}"'
        )
    elif scheduler != "local":
        yield TemplateFinding(
            "launch",
            "warn",
            'block launch starts the ranks without "${task[@]}": a node that does not join cannot be told from those '
            "that wait for it",
        )


def _environment(code: str, context: ScriptContext) -> Iterator[TemplateFinding]:
    lost = [
        *([] if re.search(r"^\s*rank_environment\b", code, re.M) else ["rank_environment"]),
        *([] if re.search(r"^\s*(export |declare -x )?PATH=", code, re.M) else ["PATH"]),
        *(line for line in context.setup if line not in code),
        *(name for name in (*context.env, *context.site_env) if not re.search(rf"\b{name}=", code)),
        *(["restore_passed"] if context.pass_env and "restore_passed" not in code else []),
    ]
    if lost:
        yield TemplateFinding("environment", "fail", f"block environment has lost {', '.join(lost)}", _SUPER)


def _rendezvous(code: str, scheduler: str) -> Iterator[TemplateFinding]:
    lost = [name for name in ("VLLM_HPC_HEAD", "VLLM_HPC_PORT") if not re.search(rf"\b{name}=", code)]
    lost += [name for name in ("VLLM_HPC_HEAD", "VLLM_HPC_PORT") if name not in lost and not _is_exported(code, name)]
    if scheduler != "local" and not _SETS_NODES.search(code):
        lost.append("nodes")
    if lost:
        yield TemplateFinding("rendezvous", "fail", f"block rendezvous has lost {', '.join(lost)}", _SUPER)


def _is_exported(code: str, name: str) -> bool:
    return bool(re.search(rf"^\s*(export|declare -x)\b.*\b{name}\b", code, re.M))


def _asked(context: ScriptContext, scheduler: str) -> list[str]:
    """The options of the profile's directives, which may be the template's as well: they win over it."""
    prefix = "#PBS" if scheduler == "pbs" else "#SBATCH"
    return [one.option for one in directives_of("\n".join(f"{prefix} {line}" for line in context.directives))]


def _directives(script: str, packaged: str, asked: list[str], is_whole: bool) -> Iterator[TemplateFinding]:
    try:
        found = directives_of(script)
    except RequestError as error:
        yield TemplateFinding("directives", "fail", str(error))
        return
    wanted = directives_of(packaged)
    if not is_whole:
        yield from _lost(found, wanted)
    yield from _changed(found, wanted)
    yield from _twice(found, asked)


def _lost(found: list[Directive], wanted: list[Directive]) -> Iterator[TemplateFinding]:
    has = {one.option for one in found}
    gpus = has & _GPUS
    lost = {one.option for one in wanted if one.option not in has and not (gpus and one.option in _GPUS)}
    if _LAYOUT_OF_PBS & has:  # another grammar of the same request
        lost -= _LAYOUT_OF_PBS
    if lost:
        words = f"block directives has lost {', '.join(sorted(lost))}"
        yield TemplateFinding("directives", "fail", words, _SUPER, key="lost directives")


def _changed(found: list[Directive], wanted: list[Directive]) -> Iterator[TemplateFinding]:
    """What the layout or the script sets, with another value; of two of one option that which counts."""
    ours = {one.option: one.value for one in wanted}
    for option, value in _counting(found).items():
        if option not in ours or value == ours[option]:
            continue
        is_layout = option in _LAYOUT_OF_PBS
        if option in _GPUS or (is_layout and value.partition(":")[0] == ours[option].partition(":")[0]):
            continue  # the site's own words for the same
        status: Result = "fail" if is_layout or option in _SET_BY_US - _OF_SITES else "warn"
        words = f"asks for {option} {value}, where the job has {ours[option]}"
        yield TemplateFinding("directives", status, words, key=f"changed {option}")


def _counting(found: list[Directive]) -> dict[str, str]:
    """The value that counts of each option: the last, but the first of PBS's -l."""
    values: dict[str, str] = {}
    for one in found:
        if not (one.option.startswith("-l ") and one.option in values):
            values[one.option] = one.value
    return values


def _twice(found: list[Directive], asked: list[str]) -> Iterator[TemplateFinding]:
    places: dict[str, list[int]] = {}
    for one in found:
        places.setdefault(one.option, []).append(one.line)
    for option, lines in places.items():
        if len(lines) - asked.count(option) > 1:
            client, which = ("qsub", "first") if option.startswith("-l ") else ("the scheduler", "last")
            numbers = " and ".join(str(line) for line in lines)
            words = f"asks for {option} twice (lines {numbers} of the script): {client} takes the {which}, silently"
            yield TemplateFinding("directives", "fail", words, key=f"twice {option}")
