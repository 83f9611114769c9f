"""Try the templates of folders with every sample job, and have bash, shellcheck and sbatch read what comes of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.schedulers.client import ClientError, ClientMissingError, call_client, clean_environment
from vllm_hpc.schedulers.find_templates import TemplateFile, find_templates
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.schedulers.script import render_script
from vllm_hpc.schedulers.template_findings import TemplateFinding, findings_of
from vllm_hpc.schedulers.template_folders import unused_files
from vllm_hpc.schedulers.template_matrix import Case, sample_cases, sample_context
from vllm_hpc.spec.errors import TemplateError
from vllm_hpc.spec.finding import Result, failed
from vllm_hpc.spec.ownership import write_mine
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.qsub_lines import merge_variables

_SHELLCHECK_S = 30
# Jobs that a template is tried with before it is given up.
_ENOUGH_WITHOUT = 4


class Checked(msgspec.Struct, frozen=True):
    """What was checked: names of templates, how many scripts, which tools read them, and what was found."""

    folders: tuple[str, ...]
    templates: tuple[str, ...]
    scripts: int
    tools: dict[str, bool]
    findings: tuple[TemplateFinding, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing was found that makes a job fail."""
        return not failed(self.findings)

    def to_json(self) -> dict[str, Any]:
        """What ``templates check --json`` prints."""
        return {
            "ok": self.is_good,
            **{name: getattr(self, name) for name in ("folders", "templates", "scripts", "tools")},
            "findings": [one.to_json() for one in self.findings],
        }


class _Script(msgspec.Struct, frozen=True):
    template: str
    case: Case
    text: str


def check_templates(folders: Sequence[str], profile: Profile | None = None) -> Checked:
    """Check all templates of some folders, highest first; without folders the packaged ones. Raises TemplateError.

    With a profile, the sample jobs are those of its scheduler, launcher and grammar.
    """
    findings = [TemplateFinding("unused", "warn", said) for said in unused_files(folders)]
    scripts: list[_Script] = []
    templates = _to_check(folders, profile)
    for one in templates:
        found = _Found(one.name)
        scripts += _scripts_of(one, folders, profile, found)
        findings += found.findings()
    tools = {"bash": bool(shutil.which("bash")), "shellcheck": bool(shutil.which("shellcheck"))}
    findings += _shellcheck(scripts) if tools["shellcheck"] else []
    submittable = [one for one in scripts if one.case.scheduler == "slurm"]
    if submittable:
        tools["sbatch"], said = _test_only(submittable, "fail" if profile else "warn")
        findings += said
    return Checked(tuple(folders), tuple(one.name for one in templates), len(scripts), tools, tuple(findings))


def _scripts_of(one: TemplateFile, folders: Sequence[str], profile: Profile | None, found: _Found) -> list[_Script]:
    """A template's scripts; where the first jobs give none, the others are left out: each may take a second."""
    made: list[_Script] = []
    for number, case in enumerate(sample_cases(str(one.scheduler), profile)):
        if number == _ENOUGH_WITHOUT and not made:
            break
        text = _render(one, case, folders, found)
        if text is not None:
            made.append(_Script(one.name, case, text))
    return made


def _to_check(folders: Sequence[str], profile: Profile | None) -> list[TemplateFile]:
    """The templates that folders change: their own, and where they have shared macros all that use these.

    Of a profile with a scheduler those for it, and always that scheduler's own: its set-up lines stand in it.
    """
    known = find_templates(folders)
    has_macros = any(one.name.startswith("_") and one.is_own for one in known)
    wanted = profile.scheduler if profile and profile.scheduler != "auto" else None
    default = get_scheduler(wanted).template if wanted else None
    found = [one for one in known if one.is_own or has_macros or not folders or one.name == default]
    return [one for one in found if one.scheduler and wanted in (None, one.scheduler)]


class _Found:
    """The findings of one template, each once, with the cases that have it."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._alike: dict[tuple[str, str], list[TemplateFinding]] = {}

    def add(self, finding: TemplateFinding, case: Case) -> None:
        of_case = msgspec.structs.replace(finding, where=self._template, case=str(case))
        self._alike.setdefault((finding.status, finding.key or finding.found), []).append(of_case)

    def has(self, status: Result, key: str) -> bool:
        """Whether that was found already."""
        return (status, key) in self._alike

    def findings(self) -> list[TemplateFinding]:
        """Of alike findings the one that says most."""
        return [
            msgspec.structs.replace(max(alike, key=lambda one: len(one.found)), scripts=len(alike))
            for alike in self._alike.values()
        ]


def render_sample(template: str, case: Case, folders: Sequence[str]) -> str:
    """The script that a template makes of a sample job. Raises TemplateError."""
    scheduler = get_scheduler(case.scheduler)
    text = render_script(template, sample_context(case), *folders, installed=scheduler.templates)
    return merge_variables(text) if scheduler.name == "pbs" else text


def _render(one: TemplateFile, case: Case, folders: Sequence[str], found: _Found) -> str | None:
    """The script of a case, None if there is none; what is wrong with it is added to what was found."""
    try:
        text = render_sample(one.name, case, folders)
    except TemplateError as error:
        key = _without_numbers(str(error))
        is_of_names = case.is_odd and not found.has("fail", key)
        hint = ": is a value without |sh? Folders may have quotes in their names" if is_of_names else ""
        found.add(TemplateFinding("script", "fail", f"{error}{hint}", key=key), case)
        return None
    packaged = render_sample(get_scheduler(case.scheduler).template, case, ()) if folders else text
    for finding in findings_of(text, packaged, sample_context(case), case.scheduler):
        found.add(finding, case)
    return text


def _without_numbers(message: str) -> str:
    """A message that is the same for scripts whose lines differ."""
    return re.sub(r"line \d+ of the script( \('.*'\))?", "", message)


def _shellcheck(scripts: Iterable[_Script]) -> list[TemplateFinding]:
    """What shellcheck warns of, once for each body: directives are comments to it."""
    found: dict[str, _Found] = {}
    seen: set[str] = set()
    for one in scripts:
        body = "\n".join(line for line in one.text.splitlines() if not line.startswith(("#SBATCH", "#PBS", "# ")))
        if body in seen or not one.text.startswith("#!") or "sh" not in one.text.splitlines()[0]:
            continue
        seen.add(body)
        for finding in _comments(one.text):
            found.setdefault(one.template, _Found(one.template)).add(finding, one.case)
    return [one for of_template in found.values() for one in of_template.findings()]


def _comments(script: str) -> Iterator[TemplateFinding]:
    argv = ["shellcheck", "--shell=bash", "--severity=warning", "--format=json", "-"]
    try:
        done = subprocess.run(argv, input=script.encode(), capture_output=True, timeout=_SHELLCHECK_S)
        said = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return
    lines = script.splitlines()
    for one in said:
        line = lines[one["line"] - 1].strip()[:80]
        status: Result = "fail" if one["level"] == "error" else "warn"
        yield TemplateFinding("shellcheck", status, f"SC{one['code']}: {one['message']} ({line!r})")


def _test_only(scripts: list[_Script], status: Result) -> tuple[bool, list[TemplateFinding]]:
    """Whether sbatch answers here, and what it would refuse: one script for each set of directives."""
    try:
        call_client(["sbatch", "--version"])
    except ClientError:
        return False, []
    found: dict[str, _Found] = {}
    seen: set[tuple[str, ...]] = set()
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-") as folder:
        for number, one in enumerate(scripts):
            header = tuple(line for line in one.text.splitlines() if line.startswith("#SBATCH"))
            if header in seen:
                continue
            seen.add(header)
            path = Path(folder) / f"{number}.sbatch"
            write_mine(path, one.text.encode(), 0o700)
            try:
                call_client(["sbatch", "--test-only", str(path)], environment=_test_environment())
            except ClientMissingError:
                return False, []
            except ClientError as error:
                words = f"sbatch --test-only refuses the script: {str(error).replace(folder, '')}"
                finding = TemplateFinding("test-only", status, words)
                found.setdefault(one.template, _Found(one.template)).add(finding, one.case)
    return True, [one for of_template in found.values() for one in of_template.findings()]


def _test_environment() -> dict[str, str]:
    """Without the user's defaults for sbatch, which a job does not have either."""
    return {key: value for key, value in clean_environment().items() if not key.startswith("SBATCH_")}
