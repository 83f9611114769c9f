"""Lists that draw themselves as a table: of ranks, jobs and statuses. In all else they are lists."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from vllm_hpc.jobfolder.records import RankRecord
from vllm_hpc.jobs.in_words import describe_rank, describe_status, lines_of
from vllm_hpc.spec.drawn import Drawn
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted

if TYPE_CHECKING:
    from vllm_hpc.jobs.job import Job
    from vllm_hpc.jobs.status import Status


class Ranks(Drawn, list[RankRecord]):
    """The records of ranks."""

    __slots__ = ()

    def __repr__(self) -> str:
        found = Counter(one_line(rank.outcome, 40) for rank in self).most_common(6)
        outcomes = ", ".join(f"{number} {outcome}" for outcome, number in found)
        return lines_of(counted(len(self), "rank") + (f", {outcomes}" if outcomes else ""), map(describe_rank, self))


class Statuses(Drawn, list["Status"]):
    """The statuses of several jobs."""

    __slots__ = ()

    def __repr__(self) -> str:
        return lines_of(counted(len(self), "job"), map(describe_status, self))


class Jobs(Drawn, list["Job"]):
    """Several jobs; shown newest first, with their statuses, for which each scheduler is asked once."""

    __slots__ = ()

    def __repr__(self) -> str:
        return lines_of(counted(len(self), "job"), map(describe_status, self.statuses()))

    def statuses(self) -> Statuses:
        """Their statuses, in order; UNKNOWN for a job that cannot be read."""
        from vllm_hpc.jobs.status import read_statuses

        return Statuses(read_statuses([job.folder for job in self]))
