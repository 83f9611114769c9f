"""Job: the object that users work with.

job = vllm_hpc.submit("demo")
job.status().state      # "RUNNING"
job.wait()              # or, in a notebook: await job
list(job.results())     # rows in input order
job.ranks()             # where each rank ran and how it ended
"""

from __future__ import annotations

import os
import warnings
from collections.abc import AsyncGenerator, Generator, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.private import is_private, private_files
from vllm_hpc.jobfolder.submissions import last_submission
from vllm_hpc.jobs.answers import Answers
from vllm_hpc.jobs.border import at_the_border, each_at_the_border, each_awaited_at_the_border
from vllm_hpc.schedulers.polling import StatusCache
from vllm_hpc.spec.drawn import Drawn
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.read_file import MOST_BYTES, read_end

if TYPE_CHECKING:
    from vllm_hpc.jobs.drawn_lists import Ranks
    from vllm_hpc.jobs.status import Status
    from vllm_hpc.jobs.summary import Summary
    from vllm_hpc.rows.row import Row

# Methods import what else they need: a submission only creates a Job, and should not wait for these imports.
# Seconds between two polls of a job, at first and at most.
_POLL_S = (0.2, 5.0)


class Job(Answers, Drawn):
    """A submitted job, given by its folder."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = JobFolder(path)

    def __repr__(self) -> str:
        from vllm_hpc.jobs.in_words import describe_status, look

        return f"Job {describe_status(look(self.folder))}"

    def __await__(self) -> Generator[Any, None, Status]:
        awaited: Generator[Any, None, Status] = _live().wait_async(self).__await__()
        return awaited

    @property
    def path(self) -> Path:
        """The job folder."""
        return self.folder.path

    @property
    def job_id(self) -> str | None:
        """The scheduler's id, None if the submission was interrupted."""
        return last_submission(self.folder)

    @at_the_border
    def status(self) -> Status:
        """Current state, counts and speed. Raises JobNotFoundError.

        An attempt that the job wants, and could not submit from its node (PBS), is submitted here.
        """
        from vllm_hpc.jobs.status import read_status

        return read_status(self.folder, StatusCache(shares=True), submits=True)

    @each_at_the_border
    def statuses(self, ask_every_s: float = 0.0) -> Iterator[tuple[Status, float]]:
        """Poll until the job ends: yields each status, with the seconds to wait before the next one.

        The waits are short at first, for small jobs, then longer, to spare the file system and the scheduler. A caller
        that polls more often reads the folder each time, but the scheduler only every ``ask_every_s`` seconds.
        """
        from vllm_hpc.jobs.status import read_status

        pause = _POLL_S[0]
        cache = StatusCache(ask_every_s, shares=True)
        while True:
            status = read_status(self.folder, cache, submits=True)
            yield status, pause
            if status.is_final:
                return
            pause = min(pause * 1.2, _POLL_S[1])

    @at_the_border
    def wait(self, timeout: float | None = None, progress: bool | None = None) -> Status:
        """Wait for the end of the job and return its final status. Raises TimeoutError after ``timeout`` seconds.

        ``progress`` shows it meanwhile: a card in a notebook, a bar on a terminal, lines on stderr elsewhere; None: if
        somebody looks, in a notebook or on a terminal. An interrupt leaves the job as it is.
        """
        status: Status = _live().wait(self, timeout, progress)
        return status

    @each_at_the_border
    def stream(self, timeout: float | None = None) -> Iterator[Row]:
        """The rows as they finish, once each: those with a result, and at the end of the job those with an error.

        Another process may do the same. Raises RequestError if the job runs no rows, JobFailedError if it failed
        without one, TimeoutError if it has not ended ``timeout`` seconds after the first row was asked for,
        CollectError if a shard cannot be read.
        """
        from vllm_hpc.jobs.stream import stream_rows

        return stream_rows(self, timeout)

    @each_awaited_at_the_border
    def __aiter__(self) -> AsyncGenerator[Row, None]:
        from vllm_hpc.jobs.stream import stream_rows_async

        return stream_rows_async(self)

    @at_the_border
    def collect(self, output: str | os.PathLike[str] | None = None) -> Summary:
        """Merge the rows that the replicas have written so far into outputs.jsonl and summary.json.

        They go into the job's folder, or into the folder ``output``, which another user's job needs.
        """
        from vllm_hpc.jobs.collect import collect

        with private_files(is_private(self.path)):
            return collect(self.folder, output)

    @at_the_border
    def report(self, output: str | os.PathLike[str] | None = None, compare: Job | None = None) -> Path:
        """Write one HTML page of the job, or of it and another job, and return its path.

        ``output``: the file, instead of report.html in the job's folder, as another user's job needs. Raises
        RequestError, FailedError.
        """
        write = import_module("vllm_hpc.report.write").write_report  # a later room, loaded by name
        written: tuple[Path, Any] = write(self.folder, output, compare.folder if compare is not None else None)
        return written[0]

    @at_the_border
    def ranks(self) -> Ranks:
        """Where each rank ran and how it ended, without ranks that have not started."""
        from vllm_hpc.jobs.drawn_lists import Ranks
        from vllm_hpc.jobs.stage import read_ranks

        return Ranks(read_ranks(self.folder, self.folder.job()))

    @at_the_border
    def artefacts(self) -> list[Path]:
        """The files that its program or script has left for the user so far, in order of their names."""
        from vllm_hpc.jobs.artefacts import list_artefacts

        return [self.folder.artefacts / one.path for one in list_artefacts(self.folder)]

    @at_the_border
    def logs(self, rank: int | None = None) -> str:
        """The scheduler's log, or the output of one rank. Raises RequestError for a rank that does not exist.

        Of a longer one than 64 MiB the end; the first line says so, and ``log_file`` has all.
        """
        from vllm_hpc.jobs.log_of_scheduler import log_of_scheduler

        path = self.log_file(rank)
        try:
            end, before = read_end(path, MOST_BYTES)
        except FileNotFoundError:
            return log_of_scheduler(self.folder) if rank is None else ""
        except OSError as error:
            raise RequestError(f"{str(path)!r} cannot be read: {error.strerror}") from None
        note = f"[vllm-hpc: {before:,} bytes before this are left out: {str(path)!r} has all]\n" if before else ""
        return note + end.decode(errors="replace")

    @at_the_border
    def log_file(self, rank: int | None = None) -> Path:
        """The file of ``logs``. Raises RequestError for a rank that does not exist."""
        world = self.folder.job().plan.layout.all_ranks
        if rank is not None and not 0 <= rank < world:
            raise RequestError(f"--rank must be from 0 to {world - 1}, not {rank}")
        return self.folder.scheduler_log if rank is None else self.folder.rank_log(rank)

    @at_the_border
    def first_error(self) -> tuple[str, str] | None:
        """The root error: one line, and its traceback."""
        from vllm_hpc.jobs.failure import first_error

        return first_error(self.folder)

    @at_the_border
    def cancel(self, job_id: str | int | None = None) -> Status:
        """Cancel the job in its scheduler; finished rows can still be collected.

        ``job_id``: the scheduler's id of a job whose submission was interrupted; it is recorded first. Raises
        FailedError, and RequestError if the id is known, or is not this job's, or the job is another user's.
        """
        from vllm_hpc.jobs.cancel import cancel

        return cancel(self.folder, None if job_id is None else str(job_id))

    @at_the_border
    def resume(
        self,
        retry_errors: bool = False,
        not_submitted: bool = False,
        *,
        time: str | None = None,
        account: str | None = None,
        partition: str | None = None,
    ) -> int:
        """Submit the job again for the rows that are missing, and on request for those with an error.

        ``not_submitted``: you have checked that the scheduler does not have the job, although its submission was
        interrupted or its state is UNKNOWN. The script is rendered anew where the job's profile has changed, or with
        another ``time``, ``account`` or ``partition``; what is told of that is a UserWarning.

        Returns the number of these rows; 0: nothing was submitted. A script, or a program that drives the engine, is
        run again from its start, as one (1). Raises RefusedError, InputError if the input has
        changed, SubmitError, FailedError if the job has not ended, or if its ranks diverged and no row is missing: a
        resume cannot correct rows that are there. Where rows are missing, it runs those.
        """
        from vllm_hpc.jobs.render_again import Changes
        from vllm_hpc.jobs.resume import resume

        changes = Changes(time=time, account=account, partition=partition)
        with private_files(is_private(self.path)):
            resumed = resume(self.folder, retry_errors, not_submitted, changes)
        if resumed.note:
            warnings.warn(resumed.note, stacklevel=3)  # the border's frame is between
        return resumed.left


def _live() -> Any:
    """What shows a job that is waited for; it is in a room that uses this one."""
    return import_module("vllm_hpc.api.live")
