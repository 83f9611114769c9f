"""errors: why rows of a job failed, alike ones together."""

from __future__ import annotations

from vllm_hpc.cli.command import command
from vllm_hpc.cli.job_options import job_argument, json_option
from vllm_hpc.cli.output import print_json, say
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted

# Characters of a prompt and of a message.
_SHOWN, _SHOWN_MESSAGE = 200, 500


@command("errors")
@job_argument
@json_option
def errors_command(job: str, job_dir: str, as_json: bool) -> int:
    """Group the errors of a job's rows: type, count, message, and the first such row with its prompt.

    Also of a job that runs, as far as it is. An error that ended a whole rank is in 'vllm-hpc logs'.
    """
    import shlex

    from vllm_hpc.cli.print_rows import as_text
    from vllm_hpc.jobs.error_groups import group_errors
    from vllm_hpc.jobs.find import find_job

    found = group_errors(find_job(job, job_dir).folder)
    if as_json:
        print_json(found)
        return 0
    for group in found.groups:
        say(f"{counted(group.count, 'row')}: {group.type}: {one_line(group.message, _SHOWN_MESSAGE)}")
        say(f"  first: id {one_line(as_text(group.first_id), _SHOWN)}, row {group.first_index}")
        if group.first_message != group.message:
            say(f"  says: {one_line(group.first_message, _SHOWN_MESSAGE)}")
        if group.prompt is not None:
            prompt = group.prompt[-1].get("content") if _is_chat(group.prompt) else group.prompt
            say(f"  prompt: {one_line(as_text(prompt), _SHOWN)}")
    left = f", {found.missing} without a result so far" if found.missing else ""
    hint = (
        f": vllm-hpc resume {shlex.quote(job)} --retry-errors runs them again once it has ended" if found.failed else ""
    )
    say(f"{found.failed} of {counted(found.total, 'row')} with an error{left}{hint}", err=True)
    return 0


def _is_chat(prompt: object) -> bool:
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[-1], dict)
