"""Runs the trials of a sweep: jobs in one folder, on the same rows, one after another."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.status import Status
from vllm_hpc.jobs.submit import prepare_untuned
from vllm_hpc.planner.make_plan import make_plan
from vllm_hpc.planner.tuned import Setting, Subject, Trial
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row, iter_jsonl
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.spec.errors import RefusedError, RequestError, SubmitError
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.values import as_path
from vllm_hpc.spec.vllm_defaults import whole
from vllm_hpc.spec.words import counted
from vllm_hpc.spec.write_file import open_new
from vllm_hpc.tuning.signals import handled
from vllm_hpc.tuning.sweep import DEFAULTS

# Rows of a trial without an input: this many waves, since with fewer, much of the time goes to a half-empty last wave.
# A few rows keep a CPU busy, which takes minutes for what a GPU does in a second.
_WAVES, _CPU_ROWS = 4, 64
# Enough to keep several replicas busy, but too few for a larger max_num_seqs to pay.
_PLANNED_ROWS = 8192
# Longer than any model's context.
_LONGEST = 1 << 25
# Over all rows of a trial: some hours of one GPU.
_MOST_TOKENS = 100_000_000
# Default tokens of a random row.
_PROMPT_TOKENS, _OUTPUT_TOKENS = 256, 128
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


# Options that say how rows become prompts, as of rows that are prompts already.
_AS_THEY_ARE: dict[str, Any] = {
    "rows_missing_from": None, "prompt_column": None, "prompt_template": None, "id_column": None, "keep": None,
    "rename": {}, "drop_last_answer": False,
}  # fmt: skip


class _NotSubmittedError(Exception):
    """A job that was refused, or that the scheduler did not take."""


class NotAnsweredError(Exception):
    """Rows of which none was answered; the message says why."""


class RandomRows(msgspec.Struct, frozen=True):
    """The requested number and length of random rows, for trials without an input; None: choose."""

    number: int | None = None
    prompt_tokens: int | None = None


class AlikeRows(Intake):
    """Rows like those of a trial, and about as many, for the plan that decides their number."""

    def __init__(self, asked: RandomRows) -> None:
        super().__init__(None)
        self._rows = min(asked.number or _PLANNED_ROWS, _PLANNED_ROWS)
        # Longer rows are refused later, once the model is known.
        self._prompt = min(asked.prompt_tokens or _PROMPT_TOKENS, _LONGEST)

    def rows(self) -> Iterator[Row]:
        """Rows of which none begins as another does, as random ones."""
        for number in range(self._rows):
            yield {"prompt": [number] * self._prompt}


def output_tokens(request: Request) -> int:
    """Output tokens of a random row."""
    return request.max_tokens or _OUTPUT_TOKENS


class Bench:
    """Runs settings as jobs in one folder, on the same rows.

    ``begin`` is called when each is submitted, ``look`` with each status of it.
    """

    def __init__(
        self, job: ResolvedJob, subject: Subject, start: Setting, asked: RandomRows,
        begin: Callable[[Setting, Path], None], look: Callable[[Status], None],
    ) -> None:  # fmt: skip
        self._subject, self._begin, self._look = subject, begin, look
        request = job.request
        name = request.name or f"tune-{job.model.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.folder = as_path(request.job_dir, "--job-dir") / name
        if self.folder.exists():
            raise self._taken()
        at_once = _CPU_ROWS // _WAVES if subject.device == "cpu" else int({**DEFAULTS, **start.engine}["max_num_seqs"])
        rows = asked.number or _WAVES * at_once * start.dp
        prompt = asked.prompt_tokens or _PROMPT_TOKENS
        self._job = job.asking(job_dir=str(self.folder), max_requeues=0)
        # Refuse as much as possible before creating the folder.
        prepare_untuned(self._with(start, "trial-1"))
        get_scheduler(job.scheduler).check_client()
        if request.input is None:
            self._check_size(rows, prompt, start)
        self._make_folder()
        if request.input is None:
            self._job = self._with_random_rows(rows, prompt)
        self._trials = 0
        self.row_count = sum(1 for _ in self.rows())

    def _check_size(self, rows: int, prompt: int, start: Setting) -> None:
        """Refuse too many rows, and rows too long for the model or the given max_model_len."""
        if rows * prompt > _MOST_TOKENS:
            raise RequestError(
                f"{counted(rows, 'row')} of {prompt} tokens: too many for a short trial: use fewer --rows or "
                f"--prompt-tokens, {_MOST_TOKENS} tokens in total at most"
            )
        asked = whole(self._job.request.engine.get("max_model_len"), 0)
        most = asked if asked > 0 else self._subject.shape.positions
        out = output_tokens(self._job.request)
        if prompt + out > most:
            limit = "--engine max_model_len allows" if asked > 0 else "the model allows"
            raise RequestError(
                f"rows of {prompt} tokens in and {out} out are longer than {limit} ({most}): "
                "use fewer --prompt-tokens or --max-tokens"
            )

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(0o755, parents=True)
        except FileExistsError:
            raise self._taken() from None
        except OSError as error:
            raise RequestError(
                f"cannot create {str(self.folder)!r}: {error.strerror}: choose another --job-dir"
            ) from None

    def _taken(self) -> RequestError:
        return RequestError(f"{self.folder} already exists: choose another --name")

    def _with_random_rows(self, rows: int, prompt: int) -> ResolvedJob:
        """The job with random rows of equal length that never end early, so that trials differ only in the setting."""
        chance = random.Random(0)
        file = self.folder / "rows.jsonl"
        tokens = range(self._subject.shape.vocabulary)
        with open_new(file) as out:
            for _ in range(rows):
                out.write(json.dumps({"prompt": chance.choices(tokens, k=prompt)}).encode() + b"\n")
        request = self._job.request
        return self._job.asking(
            input=str(file), max_tokens=output_tokens(request), sampling={"ignore_eos": True, **request.sampling}
        )

    def layouts(self, start: Setting) -> list[Setting]:
        """All other layouts of the same ranks that agree with what was asked, and fit.

        PP is only 1 or the planner's choice: stages take turns, or wait for each other's first micro-batch.
        """
        return [setting for setting in self._cuts(start) if self._fits(setting)]

    def _cuts(self, start: Setting) -> Iterator[Setting]:
        world = start.tp * start.pp * start.dp
        asked = self._job.request
        for tp in (size for size in range(1, world + 1) if world % size == 0):
            for pp in sorted({1, start.pp}):
                cut = msgspec.structs.replace(start, tp=tp, pp=pp, dp=world // (tp * pp))
                agrees = all(getattr(asked, name) in (None, getattr(cut, name)) for name in ("tp", "pp", "dp"))
                if world % (tp * pp) == 0 and agrees and cut != start:
                    yield cut

    def _fits(self, setting: Setting) -> bool:
        try:
            plan = make_plan(self._with(setting, "fits"), whole_input=False, use_tuned=False)
        except RefusedError:
            return False
        # A rehearsal can run what does not fit, but it should try the same settings as the real sweep.
        return plan.fits is not False and plan.misfit is None

    def run(self, setting: Setting) -> Trial:
        """Run the rows as a job with that setting; an exception or interrupt cancels the job."""
        self._trials += 1
        try:
            job, status = self._finished(self._with(setting, f"trial-{self._trials}"), setting)
        except _NotSubmittedError as error:  # a full queue must not lose the finished trials
            return Trial(setting=setting, tokens_per_s=None, why=str(error))
        summary = job.collect()
        seconds = sum(summary.timings.get(name, 0.0) for name in ("warm-up", "generate", "drain"))
        # The same rows fail in every trial; if rows are missing, the run was cut off before its slow end.
        is_done = status.state in ("COMPLETED", "PARTIAL") and not summary.rows["missing"]
        if not (is_done and seconds and summary.completion_tokens):
            why = status.reason or (
                f"it ended {status.state}, with {summary.completion_tokens} output tokens and "
                f"{counted(summary.rows['missing'], 'row')} missing"
            )
            why += _first_error(job)
            return Trial(setting=setting, tokens_per_s=None, job=str(job.path), why=why)
        rate = round(summary.completion_tokens / seconds, 1)
        return Trial(setting=setting, tokens_per_s=rate, seconds=round(seconds, 1), job=str(job.path))

    def answers(self, setting: Setting, more: dict[str, Any], rows: Path) -> list[Row]:
        """The output rows of a file of normalised rows, run with ``more`` engine arguments as a job of its name.

        These also replace what --engine gives. Raises NotAnsweredError if the job could not be submitted, or if no row
        has an answer.
        """
        asked = self._with(setting, rows.stem).asking(**_AS_THEY_ARE, input=str(rows))
        try:
            job, status = self._finished(asked.asking(engine={**asked.request.engine, **more}), setting)
        except _NotSubmittedError as error:
            raise NotAnsweredError(str(error)) from None
        job.collect()
        found = list(iter_jsonl(JobFolder(job.path).outputs))
        if all(row.get("error") for row in found):
            ended = status.reason or f"{job.path.name} ended {status.state} without an answer"
            raise NotAnsweredError(ended + _first_error(job))
        return found

    def rows(self) -> Iterator[Row]:
        """The rows of the trials, normalised."""
        request = self._job.request
        yield from Intake(request.input, reading=Reading.of(request)).rows()

    def _finished(self, resolved: ResolvedJob, setting: Setting) -> tuple[Job, Status]:
        """A job and its last status; it is cancelled if this is interrupted. Raises _NotSubmittedError."""
        job: Job | None = None
        try:
            prepared = prepare_untuned(resolved)
            with _undisturbed():
                job = prepared.submit(from_here=True)
            self._begin(setting, job.path)
            return job, self._wait(job)
        except BaseException as error:
            if job is not None:
                job.cancel()
            elif isinstance(error, RefusedError | SubmitError):
                raise _NotSubmittedError(str(error)) from None
            raise

    def _wait(self, job: Job) -> Status:
        for status, pause in job.statuses():
            self._look(status)
            if not status.is_final:
                time.sleep(pause)
        return status

    def _with(self, setting: Setting, name: str) -> ResolvedJob:
        return self._job.asking(
            name=name, nodes=self._subject.nodes, gpus_per_node=self._subject.procs_per_node, tp=setting.tp,
            pp=setting.pp, dp=setting.dp, engine={**setting.engine, **self._job.request.engine},
        )  # fmt: skip


def _first_error(job: Job) -> str:
    """The message of the first row with an error, as the end of a sentence; "" if there is none."""
    rows = iter_jsonl(JobFolder(job.path).outputs)
    error = next((row["error"] for row in rows if row.get("error")), None)
    return f", the first: {error['message']}" if error else ""


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Delay signals that would end this process until the id of the submitted job is known."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield
        return
    seen: list[int] = []
    try:
        with handled(_ENDS, lambda number, frame: seen.append(number)):
            yield
    finally:
        for number in seen[:1]:
            signal.raise_signal(number)
