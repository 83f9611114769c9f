"""Whether a job that ends should run again: ``vllm_hpc.in_job requeue FOLDER ATTEMPT CODE``, called by its script.

Exit code 0: yes. Either way it prints the reason, to the scheduler's log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress

from vllm_hpc.jobfolder.early_faults import repeated_fault
from vllm_hpc.jobfolder.fatal_signals import fatal_signal
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.job_ids import is_submission, submission_of
from vllm_hpc.jobfolder.own_folder import EarlierJobFolder, OwnJobFolder
from vllm_hpc.jobfolder.record_files import read_claimed, write_json
from vllm_hpc.jobfolder.records import LAUNCHER_LOST, Attempt, Crash, JobRecord, Progress, RankRecord, Submitted
from vllm_hpc.jobfolder.shards import finished
from vllm_hpc.spec.words import counted
from vllm_hpc.spec.write_file import open_new, temporary_name

_YES, _NO = 0, 1
# Bytes: more than a full file system still has room for, for example in a directory's spare block.
_PROBE = 1 << 16
# Seconds until everything that other nodes wrote is visible here: NFS clients cache attributes for up to 60 s (nfs(5),
# acregmax and acdirmax); and those between two looks.
_LATE_S, _AGAIN_S = 65.0, 5.0


def main(argv: list[str], kind: type[OwnJobFolder] = OwnJobFolder) -> int:
    """Print the answer and return it as an exit code. ``kind``: who may have written the job's records."""
    folder, attempt, code = kind(argv[0]), int(argv[1]), int(argv[2])
    if code != 0:
        note_fatal_signals(folder, attempt)
    again, why = should_run_again(folder, attempt, code)
    print(f"vllm-hpc: {'running again' if again else 'not running again'}: {why}", flush=True)
    return _YES if again else _NO


def main_of_0_1(argv: list[str]) -> int:
    """The same for a script of 0.1."""
    return main(argv, EarlierJobFolder)


def note_fatal_signals(folder: JobFolder, attempt: int) -> None:
    """Record ranks that SIGSEGV or the like ended while they generated, which could not do so, as crashes.

    Later their records and logs are the next attempt's. On a full disk nothing is recorded.
    """
    record = folder.job()
    this = next(one for one in folder.attempts() if one.attempt == attempt)
    for rank in _ranks_of(folder, record, this):
        path = folder.crash(rank.replica, attempt)
        if rank.outcome != "running" or path.exists() or not read_claimed(folder.claimed(rank.replica, attempt)):
            continue
        ended = fatal_signal(folder, rank)
        if ended and not ended.is_echo:
            with suppress(OSError):
                write_json(path, Crash(rank.rank, ended.name, ended.words))


def should_run_again(folder: JobFolder, attempt: int, code: int) -> tuple[bool, str]:
    """Whether another attempt should follow ``attempt``, which ended with exit code ``code``; and why."""
    record, attempts = folder.job(), folder.attempts()
    this = next(one for one in attempts if one.attempt == attempt)
    # Of this submission and those that its script made; 'vllm-hpc resume' starts a new count.
    ids = _same_submission(folder, this.job_id)
    earlier = [
        one for one in attempts
        if one.task == this.task and one.attempt < attempt and any(is_submission(one.job_id, id_) for id_ in ids)
    ]  # fmt: skip
    decide = _rows_again if record.has_rows else _script_again
    return decide(folder, record, [*earlier, this], code)


def _rows_again(folder: JobFolder, record: JobRecord, attempts: list[Attempt], code: int) -> tuple[bool, str]:
    this = attempts[-1]
    has_drained = folder.drain_attempt(this.attempt).exists()
    if code == 0 and not has_drained and not _has_lost_rows(folder, record, this):
        return False, "it ended normally"
    if code != 0 and not _has_died_generating(folder, record, this):
        return False, "another attempt would end the same way"
    missing = _missing(folder, record)
    if missing <= 0:
        return False, "every row is done"
    if folder.cancelled.exists():
        return False, "it was cancelled"
    if folder.drain.exists():
        return False, "control/drain tells it to stop; to continue, run 'vllm-hpc resume'"
    against = _end_of_patience(folder, record, attempts, has_drained)
    if against:
        return False, against
    full = _cannot_write(folder)
    if full:
        return False, f"the job folder cannot be written: {full}; free some space, then run 'vllm-hpc resume'"
    why = "the walltime was almost reached" if has_drained else "its ranks ended normally, but not with every row"
    if code != 0:
        why = _what_died(_ranks_of(folder, record, this))
    return True, f"{why}; {counted(missing, 'row')} left"


def _script_again(folder: JobFolder, record: JobRecord, attempts: list[Attempt], code: int) -> tuple[bool, str]:
    """The same for a script, or a program with run: it is run again only if that was asked for, from its start."""
    if code == 0:
        return False, "it ended normally"
    if not record.request.requeue_script:
        return False, "what drives the engine itself is run again only with --requeue-script, or by 'vllm-hpc resume'"
    if folder.cancelled.exists():
        return False, "it was cancelled"
    if folder.drain.exists():
        return False, "control/drain tells it to stop; to run it again, use 'vllm-hpc resume'"
    asked, most = _times_asked(folder, attempts[:-1]), record.request.max_requeues
    if asked >= most:
        return False, f"it has asked for another attempt {counted(asked, 'time')} (--max-requeues {most})"
    full = _cannot_write(folder)
    if full:
        return False, f"the job folder cannot be written: {full}; free some space, then run 'vllm-hpc resume'"
    return True, f"it ended with exit code {code}, and --requeue-script runs it again from its start"


def _has_lost_rows(folder: JobFolder, record: JobRecord, this: Attempt) -> bool:
    """Whether rows have no result though nobody asked the ranks to stop: they should not have ended.

    Not before what other nodes wrote is visible here. The rows that a task of an array leaves are other tasks', and
    where no rank began, none would the next time.
    """
    layout = record.plan.layout
    if layout.is_array or folder.drain.exists() or not _ranks_of(folder, record, this):
        return False
    until = time.monotonic() + (_LATE_S if layout.nodes > 1 else 0.0)
    while _missing(folder, record) > 0:
        if time.monotonic() >= until:
            return True
        time.sleep(_AGAIN_S)
    return False


def _what_died(ranks: list[RankRecord]) -> str:
    """Ranks whose torchrun was killed leave by themselves: then no rank died."""
    lost_launcher = any(rank.error and rank.error.type == LAUNCHER_LOST for rank in ranks)
    return "what starts the ranks (torchrun, or srun's step) was killed" if lost_launcher else "a rank died"


def _end_of_patience(folder: JobFolder, record: JobRecord, attempts: list[Attempt], has_drained: bool) -> str | None:
    """Why a submission with these attempts gets no more, although rows are left; None if it does."""
    progress = folder.progress_of(range(record.plan.layout.lanes))
    has_done = any(replica.done for replica in progress)
    against = _fault_of_machine(folder, record, attempts, has_done)
    if against:
        return against
    if not has_done and _died_alone(folder, record, attempts) > 1:
        return (
            "the engine died on two rows alone, and no row has finished: the rows are not the cause; see state/crash-*"
        )
    asked, most = _times_asked(folder, attempts[:-1]), record.request.max_requeues
    if asked >= most:
        return f"it has asked for another attempt {counted(asked, 'time')} (--max-requeues {most})"
    # After two attempts in a row that died, the third tries the suspect rows (engine/loop/suspect_rows.py).
    patience = 3 if not has_drained and len(attempts) > 1 and _has_died(folder, attempts[-2]) else 2
    last = attempts[-patience:]
    if len(last) == patience and not any(_has_got_on(folder, record, progress, one.attempt) for one in last):
        words = f"{'three' if patience == 3 else 'two'} attempts in a row finished no row"
        return words + ("; ask for a longer --time" if has_drained else "")
    return None


def _fault_of_machine(folder: JobFolder, record: JobRecord, attempts: list[Attempt], has_done: bool) -> str | None:
    """Why another attempt would end as the last two did, whatever its rows; None if it might not."""
    numbers = [one.attempt for one in attempts]
    found = repeated_fault(folder, _replicas_of(record, attempts[-1]), numbers, has_done)
    if found is None:
        return None
    return (
        f"attempts {found[0]} and {numbers[-1]} ended alike before a row was finished, and no row is the cause: "
        f"{found[1]}; correct that, then run 'vllm-hpc resume'"
    )


def _replicas_of(record: JobRecord, attempt: Attempt) -> Sequence[int]:
    """The lanes of an attempt: those of its task."""
    return record.plan.layout.lanes_of(attempt.task)


def _has_died(folder: JobFolder, attempt: Attempt) -> bool:
    """Whether an attempt that the script requeued ended because a rank died, not because of a drain."""
    ended = folder.exit_of(attempt.attempt)
    return ended is not None and ended.cause == "requeue" and ended.exit_code != 0


def _cannot_write(folder: JobFolder) -> str | None:
    """Why nothing can be written, None if it can. On a full disk a rank cannot record why it died, either."""
    probe = temporary_name(folder.path / "state" / "probe")
    try:
        with open_new(probe) as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())  # only here does NFS report that a quota is used up
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with suppress(OSError):
            probe.unlink()
    return None


def _times_asked(folder: JobFolder, attempts: list[Attempt]) -> int:
    """How many of these attempts asked for another one. The scheduler's own requeues do not count."""
    ends = (folder.exit_of(one.attempt) for one in attempts)
    return sum(ended is not None and ended.cause == "requeue" for ended in ends)


def _missing(folder: JobFolder, record: JobRecord) -> int:
    """Rows that are left. An array's tasks may count a row twice: if none seems to be left, the shards are read."""
    progress = folder.progress_of(range(record.plan.layout.lanes))
    missing = record.rows - sum(replica.done + replica.failed for replica in progress)
    if missing > 0 or not record.plan.layout.is_array:
        return missing
    return finished(folder, record.rows, folder.errors_up_to()).rows.count(0)


def _same_submission(folder: JobFolder, job_id: str) -> set[str]:
    """The ids of one submission: each time its script submits it again, PBS gives it a new one."""
    own, submitted = submission_of(job_id), folder.read(folder.submitted, Submitted)
    ids = {submitted.job_id, *submitted.earlier} if submitted else set()
    return ids if any(is_submission(job_id, id_) for id_ in ids) else {own}


def _has_died_generating(folder: JobFolder, record: JobRecord, this: Attempt) -> bool:
    """Whether ranks vanished or their engine raised, with rows in flight. Other errors would happen again."""
    replicas = _replicas_of(record, this)
    if not any(read_claimed(folder.claimed(replica, this.attempt)) for replica in replicas):
        return False
    if any(folder.crash(replica, this.attempt).exists() for replica in replicas):
        return True
    ranks = _ranks_of(folder, record, this)
    lost = any(rank.outcome == "running" or (rank.outcome == "terminated" and rank.error) for rank in ranks)
    return lost and not any(rank.has_raised for rank in ranks)


def _ranks_of(folder: JobFolder, record: JobRecord, this: Attempt) -> list[RankRecord]:
    """The records of the ranks that have begun in an attempt."""
    size = record.plan.layout.world_size
    begun = folder.records_of(range(this.task * size, (this.task + 1) * size))
    return [rank for rank in begun if rank.attempt == this.attempt]


def _died_alone(folder: JobFolder, record: JobRecord, attempts: list[Attempt]) -> int:
    """How many rows an attempt ended on while it ran them alone. Several, with no row finished: not the rows' fault."""
    last = [
        lines[-1].trial
        for one in attempts
        for replica in range(record.plan.layout.lanes)
        if (lines := read_claimed(folder.claimed(replica, one.attempt)))
    ]
    return len({trial[0] for trial in last if trial and len(trial) == 1})


def _has_got_on(folder: JobFolder, record: JobRecord, progress: list[Progress], attempt: int) -> bool:
    """Whether an attempt finished a row, or tried suspect rows after the attempt before it died."""
    if any(run.attempt == attempt and run.rows for replica in progress for run in replica.runs):
        return True
    files = (folder.claimed(replica, attempt) for replica in range(record.plan.layout.lanes))
    return any(line.trial for file in files for line in read_claimed(file))
