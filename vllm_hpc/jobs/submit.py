"""From options to a submitted job: resolve, plan, render, submit. Nothing is written before everything is checked."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.private import private_files
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.jobs.border import at_the_border
from vllm_hpc.jobs.doubt import left_to_user, noting_loss
from vllm_hpc.jobs.in_words import name_of
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.known_jobs import remember
from vllm_hpc.jobs.new_folder import write_folder
from vllm_hpc.jobs.submission_notes import first_notes, overlap
from vllm_hpc.planner.make_plan import check_fits, make_plan, unused_options
from vllm_hpc.planner.models.find import ensure_model
from vllm_hpc.planner.program_plan import intake_for
from vllm_hpc.planner.queues import resolve_options
from vllm_hpc.planner.resolve import check_is_here
from vllm_hpc.rows.given_input import rows_in
from vllm_hpc.schedulers.client import ByHandError, ClientError, ClientTimeoutError
from vllm_hpc.schedulers.containers.choose import check_is_there
from vllm_hpc.schedulers.lifecycle import lifecycle_text
from vllm_hpc.schedulers.record_submission import record_submission
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.schedulers.script import render_job
from vllm_hpc.schedulers.submit_again import cancel_if_asked
from vllm_hpc.schedulers.submitit_executor import check_installed, check_torch, submit_script
from vllm_hpc.schedulers.template_folders import distinct_folders, unused_files
from vllm_hpc.spec.drawn import Drawn
from vllm_hpc.spec.errors import ModelError, RequestError, SubmitError
from vllm_hpc.spec.lora import Adapter, find_adapters
from vllm_hpc.spec.no_secrets import check_script
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.request import Request, check_template
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.values import as_path, check_name, check_path


class Prepared(Drawn, msgspec.Struct, frozen=True, kw_only=True):
    """A job that is checked, planned and rendered, but not yet created; ``submit`` sends exactly this."""

    job: ResolvedJob
    plan: Plan
    intake: Intake
    folder: str
    script: str
    lifecycle: str
    adapters: tuple[Adapter, ...] = ()
    definition: bytes | None = None
    notes: tuple[str, ...] = ()
    template_notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Prepared {name_of(self.folder)}: {self.plan.in_words}, for {self.scheduler}, not submitted"

    @property
    def request(self) -> Request:
        """What was asked, filled in from the profile."""
        return self.job.request

    @property
    def scheduler(self) -> str:
        """The scheduler that will run it."""
        return self.job.scheduler

    @at_the_border
    def submit(self, from_here: bool = False) -> Job:
        """Create the job folder and submit the script to the scheduler.

        Raises RequestError if this machine has no scheduler for it, ModelError if the model's weights are not here, and
        SubmitError; the folder is then removed, unless the scheduler may have accepted the script. Where only another
        machine can submit it, ``left_to_user`` says how; ``from_here`` refuses that.
        """
        check_is_here(self.job)
        if self.plan.unready:
            raise ModelError(self.plan.unready)
        check_installed()
        if self.job.site.container is not None:
            check_is_there(self.job.site.container)
        if self.request.rehearse or self.job.runs_script:
            if self.job.site.container is None:
                check_torch("--script" if self.job.runs_script else "--rehearse")
        else:
            if self._is_of_this_python:
                check_torch("a job on this machine")
            ensure_model(self.job.model)
        get_scheduler(self.scheduler).check_client()
        folder = JobFolder(self.folder)
        try:
            folder.create(self.request.private)
        except FileExistsError:
            if self.request.name:
                raise RequestError(_taken(folder)) from None
            # Another job has taken the generated name in the meantime: use the next one.
            return _render(self.job, self.definition).submit(from_here)
        with private_files(self.request.private):
            self._submit_in(folder, from_here)
        if not from_here:  # a trial of tune, or doctor's: nobody looks for it by its name
            remember(folder)
        return Job(folder.path)

    @property
    def _is_of_this_python(self) -> bool:
        """Whether ranks certainly have the packages of this Python, and no others."""
        site = self.job.site
        elsewhere = (site.container, site.python, site.setup, site.node_setup, self.job.template_dirs)
        return self.job.runs_here and not any(elsewhere)

    def _submit_in(self, folder: JobFolder, from_here: bool) -> None:
        try:
            write_folder(folder, self)
        except BaseException:
            folder.remove()
            raise
        try:
            with noting_loss(folder, None):
                job_id = submit_script(folder, get_scheduler(self.scheduler), self.plan.layout)
                record_submission(folder, Submitted(self.scheduler, job_id, time.time()))
            cancel_if_asked(folder, get_scheduler(self.scheduler), job_id)
        except ByHandError as error:
            if from_here:
                folder.remove()
                raise SubmitError(f"{error.why}: run this on a machine that can submit the job") from None
            # Noted: its status says who submits it.
        except ClientTimeoutError as error:
            # It may have been submitted: removing the folder would break it, submitting again would run it twice.
            raise SubmitError(
                f"{error} The job may or may not be submitted; before you submit again, see "
                f"'vllm-hpc status {folder.path}'"
            ) from None
        except ClientError:
            folder.remove()
            raise


def submit(model: str | None = None, **options: Any) -> Job:
    """Submit a job: ``submit("demo", input="prompts.jsonl", tp=1)``.

    ``options`` are the long options of ``vllm-hpc submit``, with underscores; ``rehearse`` is true, or the settings of
    ``--rehearse-set``: a rehearsal needs no model. Raises RefusedError before anything was created, SubmitError if the
    scheduler refuses. What the command line prints as notes is a UserWarning each.
    """
    prepared = prepare(model, **options)
    for note in prepared.notes:
        warnings.warn(note, stacklevel=2)
    job = prepared.submit()
    if by_hand := left_to_user(job.folder):
        warnings.warn(by_hand, stacklevel=2)
    return job


def prepare(model: str | None = None, **options: Any) -> Prepared:
    """Check, plan and render a job without writing anything. Raises RefusedError."""
    with rows_in(options) as named:
        job, definition = resolve_options(model, named)
        return _render(job, definition)


def runs_samples(prepared: Prepared) -> bool:
    """Whether a model runs the sample prompts, for want of an input; a rehearsal has no model to ask."""
    return prepared.intake.is_sample and not prepared.request.rehearse


def prepare_untuned(job: ResolvedJob) -> Prepared:
    """The same for a resolved job, ignoring the findings of 'vllm-hpc tune'. Raises RefusedError."""
    return _render(job, None, use_tuned=False)


def _render(job: ResolvedJob, definition: bytes | None, use_tuned: bool = True) -> Prepared:
    intake, lifecycle = intake_for(job), lifecycle_text()
    plan = make_plan(job, intake=intake, use_tuned=use_tuned)
    adapters = find_adapters(job.request.lora)
    check_fits(plan)
    scheduler, folders = get_scheduler(job.scheduler), distinct_folders(job.template_dirs)
    if job.request.template is not None:
        check_template(job.request.template, folders, job.scheduler)
    folder = _choose_folder(job)
    scheduler.check_folder(folder)
    script = render_job(job, plan, folder, lifecycle, _outside(job, intake, adapters))
    check_script(script, "the script, from a template,")
    of_templates = tuple(unused_files(folders, job.request.template))
    return Prepared(
        job=job,
        plan=plan,
        intake=intake,
        folder=str(folder.path),
        adapters=adapters,
        script=script,
        lifecycle=lifecycle,
        definition=definition,
        notes=(
            *first_notes(job, plan),
            *intake.notes(job.request),
            *overlap(job.request),
            *unused_options(job),
            *of_templates,
        ),
        template_notes=of_templates,
    )


def _outside(job: ResolvedJob, intake: Intake, adapters: tuple[Adapter, ...]) -> list[Path]:
    """The folders that ranks read, and that are not in the job's."""
    code = job.program.program.folders if job.program else ()
    return [*(file.parent for file in intake.referenced), *(Path(adapter.path) for adapter in adapters), *code]


def _choose_folder(job: ResolvedJob) -> JobFolder:
    """The job's folder, which must not exist yet. Raises RequestError."""
    parent = as_path(job.request.job_dir, "--job-dir")
    folder = JobFolder(parent / (job.request.name or _free_name(parent, job)))
    check_path(str(folder.path), "--job-dir")
    if folder.path.exists():
        raise RequestError(_taken(folder))
    return folder


def _taken(folder: JobFolder) -> str:
    return f"{str(folder.path)!r} already exists: choose another --name (nothing was changed)"


def _free_name(parent: Path, job: ResolvedJob) -> str:
    """<model>-<yyyymmdd-hhmmss>, or after a script, with -2, -3 ... if that is taken."""
    after = "script" if job.runs_script else "model"
    check_name(job.model.name, f"--name is needed: a job cannot be named after the {after}:")
    base = f"{job.model.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    name, number = base, 1
    while (parent / name).exists():
        number += 1
        name = f"{base}-{number}"
    return name
