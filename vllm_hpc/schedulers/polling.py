"""Query schedulers about jobs, but not too often.

All users share them, and the clients of one that is down are slow to fail.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.client import ClientError, ClientTimeoutError, call_client
from vllm_hpc.schedulers.scheduler import JobState, Question, Scheduler, installed_scheduler
from vllm_hpc.schedulers.shared_answers import SharedAnswers

# A client that fails faster than this may be called again for the next job.
_SLOW_S = 2.0
# Users wait for the end of a job that is leaving: keep its answers for a shorter time.
_LEAVING_S = 5.0


class StatusCache:
    """Keeps every answer, and the failure of a client that was slow to fail, for ``keep_s`` seconds; 0: none.

    ``shares``: an answer that another process got in the last ten seconds will do (shared_answers.py). Who acts on it,
    to cancel or to submit again, asks.
    """

    def __init__(self, keep_s: float = 0.0, shares: bool = False) -> None:
        self._keep_s, self._shares = keep_s, shares
        self._seen: dict[str, tuple[float, dict[str, JobState]]] = {}
        self._failed: dict[tuple[str, ...], tuple[float, ClientError]] = {}

    def query(
        self, scheduler: str, job: JobFolder, job_id: str, tasks: Sequence[str], is_leaving: bool = False
    ) -> dict[str, JobState]:
        """What the scheduler says of these tasks of a job. A job that ``is_leaving`` is queried more often.

        Not in a list of jobs, which keeps all answers.
        """
        at, seen = self._seen.get(str(job.path), (0.0, {}))
        keep_s = _LEAVING_S if is_leaving and self._keep_s < float("inf") else self._keep_s
        if seen.keys() >= set(tasks) and self._is_fresh(at, keep_s):
            return seen
        asked = installed_scheduler(scheduler)
        if asked is None:
            return dict.fromkeys(tasks, JobState("unknown", f"no scheduler {scheduler!r} is installed here"))
        if not asked.is_id(job_id):
            return dict.fromkeys(tasks, JobState("unknown", f"{job_id[:100]!r} is no job id of {scheduler}"))
        question = Question(job, job_id, tuple(tasks))
        shared = SharedAnswers(scheduler, asked)
        if self._shares:
            seen = shared.query([question], partial(self._ask_all, asked))[0]
        else:
            began = time.time()
            seen = self._ask_one(asked, question)
            shared.keep(question, began, seen)
        self._seen[str(job.path)] = time.monotonic(), seen
        return seen

    def query_all(self, questions: Mapping[str, Sequence[Question]]) -> None:
        """Ask each scheduler once for several jobs, if it can be asked so, for ``query`` to find the answers."""
        for name, those in questions.items():
            asked = installed_scheduler(name)
            if asked is None or asked.query_all is None:
                continue
            those = [one for one in those if asked.is_id(one.job_id)]
            if len(those) < 2:
                continue
            found = SharedAnswers(name, asked).query(those, partial(self._ask_all, asked))
            for question, seen in zip(those, found, strict=True):
                self._seen[str(question.job.path)] = time.monotonic(), seen

    def _ask_all(self, asked: Scheduler, questions: Sequence[Question]) -> list[dict[str, JobState]]:
        """Ask for several jobs, if it can be, else for one after the other."""
        if len(questions) > 1 and asked.query_all is not None:
            return asked.query_all(questions, self._ask)
        return [self._ask_one(asked, question) for question in questions]

    def _ask_one(self, asked: Scheduler, question: Question) -> dict[str, JobState]:
        try:
            return asked.query(question.job, question.job_id, question.tasks, self._ask)
        except ClientError as error:  # ours catch it; another package's may not
            return dict.fromkeys(question.tasks, JobState("unknown", str(error)))

    def _ask(self, argv: list[str]) -> str:
        client = (argv[0], *(word for word in argv if word.startswith(("--clusters=", "--context="))))
        at, failure = self._failed.get(client, (0.0, None))
        if failure is not None and self._is_fresh(at, self._keep_s):
            raise failure
        began = time.monotonic()
        try:
            return call_client(argv)
        except ClientError as error:
            ended = time.monotonic()
            if isinstance(error, ClientTimeoutError) or ended - began >= _SLOW_S:
                self._failed[client] = ended, error
            raise

    def _is_fresh(self, at: float, keep_s: float) -> bool:
        return time.monotonic() - at < min(keep_s, self._keep_s)
