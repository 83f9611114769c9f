"""--rows-missing-from: a new job of the rows that another one has no result for, with the options of that one.

The other job is only read, and may be another user's. Then what could run code as the one who submits is not taken
from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from vllm_hpc.jobfolder.asked import asked_of
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.jobfolder.shards import Results, results
from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.rows.notes import UNREADABLE, Notes
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row
from vllm_hpc.rows.will_fail import check_sampling, note_kept
from vllm_hpc.spec.chat_template import is_template_text
from vllm_hpc.spec.errors import InputError, JobNotFoundError, RequestError
from vllm_hpc.spec.foreign_options import ACTS_AS_YOU, acting, option_of
from vllm_hpc.spec.job_definition import find_definition
from vllm_hpc.spec.job_dir import default_job_dir
from vllm_hpc.spec.lora import split_adapter
from vllm_hpc.spec.passed_variables import merge_variables
from vllm_hpc.spec.program import Program
from vllm_hpc.spec.read_file import open_in_folder, read_whole
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.values import as_path
from vllm_hpc.spec.words import counted

OPTION = "--rows-missing-from"
# The rows come as they are: what made them has been done.
_OF_ROWS = ("input", "prompt_column", "prompt_template", "id_column", "keep", "rename", "drop_last_answer")
_OWN = frozenset({*_OF_ROWS, "model", "name", "job_dir", "profile", "rows_missing_from", "lora", "chat_template"})
_NONE: tuple[Any, ...] = ("", {}, [], [""], ())
_AT_A_TIME = 2048


class MissingRows(Intake):
    """The rows of a job that it has no result for: they never ran, or ended in an error."""

    def __init__(self, job: JobFolder) -> None:
        super().__init__(None)
        self._job = job
        self._notes = Notes(self._place)

    def notes(self, request: Request, is_sample: bool = False) -> list[str]:
        """How many rows there are, and which of them can only fail again."""
        adapters = [split_adapter(text)[0] for text in request.lora]
        said = self._notes.lines(request.engine.get("runner") == "pooling", adapters)
        return [self._counts(), *(f"in the first rows: {note}" if is_sample else note for note in said)]

    def _counts(self) -> str:
        missing, failed = self._results.rows.count(0), self._results.failed
        kinds = (missing - failed, "not run"), (failed, "with an error")
        of_which = ", ".join(f"{count} {what}" for count, what in kinds if count)
        return f"{OPTION}: {counted(missing, 'row')} of {self._job.path.name} ({of_which})"

    @cached_property
    def _results(self) -> Results:
        """Read once: the job may go on."""
        try:
            return results(self._job, self._job.job().rows)
        except OSError as error:
            raise InputError(f"{OPTION}: cannot read {error.filename or self._job.shards}: {error.strerror}") from None

    def _read(self) -> Iterator[Row]:
        """Those rows, with the ids that they have. Raises InputError if there are none."""
        reader, has_result, index = InputReader(self._job), self._results.rows, 0
        self._notes = Notes(self._place)
        for first in range(0, len(has_result), _AT_A_TIME):
            for place, row in enumerate(reader.rows(first, _AT_A_TIME), start=first):
                if not has_result[place]:
                    note_kept(row, place, self._notes)
                    yield {**row, "index": index}
                    index += 1
        if not index:
            raise InputError(f"{OPTION} {str(self._job.path)!r}: every row of it has a result")
        _check_some_run(self._notes, index)

    def _place(self, index: int) -> str:
        return f"index {index} of {self._job.path.name}"


def _check_some_run(found: Notes, rows: int) -> None:
    """Refuse rows that can only fail again, all of them. Raises InputError."""
    if found.count(UNREADABLE) == rows:
        raise InputError(f"{OPTION}: {found.first(UNREADABLE)} (no other row can be run)")
    check_sampling(found, rows)


def intake_of(request: Request) -> Intake:
    """The input of a request."""
    if request.rows_missing_from is not None:
        return MissingRows(_at(request.rows_missing_from))
    return Intake(request.input, reading=Reading.of(request))


def with_job(model: str | None, options: dict[str, Any]) -> tuple[str | None, dict[str, Any], dict[str, str]]:
    """MODEL and the options, filled in from the job that --rows-missing-from names, and where the new ones come from.

    Raises RequestError, JobNotFoundError.
    """
    given = options.get("rows_missing_from")
    if given is None:
        return model, options, {}
    if taken := [key for key in _OF_ROWS if options.get(key)]:
        raise RequestError(f"{option_of(taken[0])} and {OPTION}: the rows come as that job has them: leave out one")
    if model is not None and find_definition(model):
        raise RequestError(f"{OPTION} takes the options of that job: name a model, or leave MODEL out")
    folder = _find(str(given), str(options.get("job_dir") or default_job_dir(options.get("profile"))))
    record = folder.job()
    if not record.has_rows:
        raise RequestError(f"{OPTION} {str(folder.path)!r}: that job runs no rows: name another one")
    none = _without(options)
    asked = _asked(folder, record, {key for key, value in options.items() if value is not None})
    found = {key: value for key, value in asked.items() if key not in none}
    found |= merge_variables(found, options)
    merged = {**options, **dict.fromkeys(none), "rows_missing_from": str(folder.path)}
    for key, value in found.items():
        own = merged.get(key)
        merged[key] = {**value, **own} if isinstance(value, dict) and isinstance(own, dict) else value
    origins = {key: f"{OPTION} {folder.path}" for key in found if options.get(key) is None}
    if model is None and not record.request.rehearse:
        model = record.model if Path(record.model).exists() else record.request.model
        origins["model"] = f"{OPTION} {folder.path}"
    return model, merged, origins


def _without(options: dict[str, Any]) -> set[str]:
    """What the user wants none of, whatever that job has: given, but empty."""
    none = {key for key in ACTS_AS_YOU if key not in _OWN and options.get(key) in _NONE}
    return {*none, "pass_env"} if "env" in none else none


def _asked(folder: JobFolder, record: JobRecord, given: set[str]) -> dict[str, Any]:
    """What was asked of that job and is not given now; of one's own, also tables of which a part is given."""
    found = {key: value for key, value in asked_of(record).items() if key not in _OWN}
    if record.program is not None and "program" not in given:
        found["program"] = _program(folder, record.program)
    if record.request.profile and folder.is_mine:
        found["profile"] = record.request.profile
    if record.adapters:
        found["lora"] = [f"{one.name}={one.path}" for one in record.adapters]
    if record.request.chat_template is not None and "chat_template" not in given:
        found["chat_template"] = _chat_template(folder)
    if not folder.is_mine:
        _check_foreign(folder, acting(found, given))
        found.pop("pass_env", None)  # --env was given in its place
    merges = {key for key, value in found.items() if isinstance(value, dict) and folder.is_mine}
    return {key: _without_none(value) for key, value in found.items() if key not in given or key in merges}


def _program(folder: JobFolder, program: Program) -> str:
    """Its program, named so that it is found from here. Raises RequestError for one that was pickled."""
    if program.kind == "pickle":
        raise RequestError(
            f"{OPTION} {str(folder.path)!r}: its program {program.name} is an object of a notebook: give program there"
        )
    return f"{program.source}:{program.name}"


def _chat_template(folder: JobFolder) -> str:
    """The text of its template, read where it is: a link would have another file copied. Raises RequestError."""
    try:
        with open_in_folder(folder.chat_template) as file:
            text = read_whole(file, folder.chat_template).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{OPTION}: cannot read {str(folder.chat_template)!r}: {reason}") from None
    if not is_template_text(text):  # it would be taken as a path
        raise RequestError(f"{OPTION}: {str(folder.chat_template)!r} must be a Jinja template: give --chat-template")
    return text


def _check_foreign(folder: JobFolder, keys: list[str]) -> None:
    if keys:
        options = " and ".join(dict.fromkeys(map(option_of, keys)))
        raise RequestError(
            f"{OPTION} {str(folder.path)!r}: it is another user's job, of which {options} would run or be charged as "
            f"yours: look at its job.json, and give {options} yourself, or '' for none of it"
        )


def _at(path: str) -> JobFolder:
    """The job in a folder: what a job.toml names, and what the option's value has become. Raises JobNotFoundError."""
    if not JobFolder(path).job_json.is_file():
        raise JobNotFoundError(
            f"{OPTION}: no job in {path!r}: in job.toml, rows_missing_from must be a job's folder, relative to it"
        )
    return JobFolder(path)


def _find(given: str, job_dir: str) -> JobFolder:
    """The folder of a job, by its path or by its name under --job-dir."""
    for path in (as_path(given, OPTION), as_path(job_dir, "--job-dir") / given):
        if JobFolder(path).is_there():
            return JobFolder(path)
    raise JobNotFoundError(f"{OPTION}: no job {given!r}: give its folder, or its name under {job_dir!r} (--job-dir)")


def _without_none(value: Any) -> Any:
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value
