"""`vllm-hpc tune`: short jobs, one after another, to find the layout and settings that are fastest for a model.

Each trial is a job like any other, in a folder of its own; ``vllm_hpc.sweep`` says which settings are tried.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.checks import as_path
from vllm_hpc.errors import RefusedError, RequestError, SubmitError
from vllm_hpc.intake import Intake
from vllm_hpc.models import find_model
from vllm_hpc.plan import Plan
from vllm_hpc.planning import check_fits, find_subject, make_plan, with_default_profile
from vllm_hpc.profiles import Profile, load_profile
from vllm_hpc.records import write_json
from vllm_hpc.request import Request, make_request
from vllm_hpc.schedulers import get_scheduler
from vllm_hpc.submission import prepare_untuned
from vllm_hpc.sweep import DEFAULT_SWEEP, DEFAULTS, SWEEPS, search, warmed
from vllm_hpc.tuned import Finding, Setting, Subject, Trial

# Rows of the trials where no input is given: so many waves, or most rows end while others run half empty.
_WAVES = 4
# In all rows of a trial: some hours of one GPU.
_MOST_TOKENS = 100_000_000
# A finding takes some kilobytes.
_FINDING_BYTES = 65_536
# Output tokens of a random row where nobody says.
_OUTPUT_TOKENS = 128


class Tuned(msgspec.Struct, frozen=True):
    """What was found, and the file that the planner reads it from."""

    finding: Finding
    file: Path


def tune(
    model: str,
    *,
    sweep: tuple[str, ...] = DEFAULT_SWEEP,
    rows: int | None = None,
    prompt_tokens: int = 256,
    tell: Callable[[Trial], None] = lambda trial: None,
    **options: Any,
) -> Tuned:
    """Find the fastest setting for a model on the nodes that ``options`` ask for, and keep it for the planner.

    ``options`` are those of ``submit``. Without an input, each trial runs ``rows`` rows of ``prompt_tokens`` random
    tokens in and max_tokens (128) out. ``tell`` hears of each trial, and of runs that do not count. Raises RefusedError
    before anything was made, JobFailedError where not even the planner's own choice runs.
    """
    request = with_default_profile(make_request({"model": model, **options}))
    profile = load_profile(request.profile)
    _check(request, sweep, rows, prompt_tokens)
    plan, _ = make_plan(request, profile, use_tuned=False)
    check_fits(plan)
    subject = find_subject(request, profile, plan)
    if subject is None:
        raise RequestError(f"the planner knows nothing of {model}, and would not find what tune finds: set it yourself")
    _check_place(subject)
    start = _start(plan)
    bench = _Bench(request, profile, subject, start, rows, prompt_tokens)
    trials: list[Trial] = []

    run = bench.run if subject.device == "cpu" else warmed(bench.run, tell)

    def measure(setting: Setting) -> Trial:
        trial = run(setting)
        trials.append(trial)
        tell(trial)
        return trial

    best = search(start, sweep, measure, bench.layouts, bench.row_count)
    given = request.engine  # what was asked for here is not what was found: later jobs ask for themselves
    found = [msgspec.structs.replace(trial, setting=trial.setting.without(given)) for trial in trials]
    finding = Finding(
        model=subject.model, device=subject.device, best=best.without(given), trials=tuple(found), made_at=time.time()
    )  # fmt: skip
    write_json(subject.file, finding)
    return Tuned(finding, subject.file)


def _check_place(subject: Subject) -> None:
    """Refuse to measure what cannot be kept. Raises RequestError."""
    try:
        folder = subject.file.parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # a full disk takes an empty one
            file.write(bytes(_FINDING_BYTES))
    except OSError as error:
        raise RequestError(
            f"a finding cannot be kept ({error}): set XDG_CACHE_HOME to a folder that can be written to"
        ) from None


def _start(plan: Plan) -> Setting:
    layout = plan.layout
    engine = {name: plan.engine[name] for name in SWEEPS if plan.engine.get(name) is not None}
    engine |= {name: int(engine[name]) for name in DEFAULTS if name in engine}  # it may have been typed as a text
    return Setting(tp=layout.tp, pp=layout.pp, dp=layout.dp, engine=engine)


def _check(request: Request, sweep: tuple[str, ...], rows: int | None, prompt_tokens: int) -> None:
    """Refuse what leaves nothing to find. Raises RequestError."""
    if request.input is not None and rows is not None:
        raise RequestError("--rows and --input contradict each other: all rows of the input are run in each trial")
    if (rows or 1) * prompt_tokens > _MOST_TOKENS:
        raise RequestError(
            f"{rows or 1} row(s) of {prompt_tokens} tokens are no short trial: use fewer --rows or --prompt-tokens, "
            f"{_MOST_TOKENS} tokens in all at most"
        )
    if unknown := [name for name in sweep if name not in SWEEPS]:
        raise RequestError(f"--sweep {unknown[0]} is not known: use {', '.join(SWEEPS)}")
    if request.array:
        raise RequestError("--array: a trial is one replica beside the others; leave it out, and use what tune finds")
    named = [name for name in sweep if name in request.engine]
    if named:
        raise RequestError(f"--engine {named[0]} and --sweep {named[0]} contradict each other: leave one of them out")


class _Bench:
    """Runs settings as jobs below one folder, over the same rows."""

    def __init__(
        self, request: Request, profile: Profile, subject: Subject, start: Setting, rows: int | None, prompt: int
    ) -> None:
        self._profile, self._subject, self._start = profile, subject, start
        name = request.name or f"tune-{find_model(request.model).name}-{time.strftime('%Y%m%d-%H%M%S')}"
        self._folder = as_path(request.job_dir, "--job-dir") / name
        if self._folder.exists():
            raise RequestError(f"{self._folder} is there already: choose another --name")
        seqs = int({**DEFAULTS, **start.engine}["max_num_seqs"])
        rows = rows or _WAVES * seqs * start.dp
        self._request = msgspec.structs.replace(request, job_dir=str(self._folder), max_requeues=0)
        # Refuses what can be, before there is a folder.
        get_scheduler(prepare_untuned(self._as_request(start, "trial-1")).scheduler).check_client()
        if request.input is None:
            self._request = self._with_random_rows(rows, prompt)
        self._trials = 0
        self.row_count = sum(1 for _ in Intake(self._request.input).rows())

    def _with_random_rows(self, rows: int, prompt: int) -> Request:
        """All of the same length, and never ended early: then only the setting tells trials apart.

        Raises RequestError where the model takes no such rows.
        """
        output, most = self._request.max_tokens or _OUTPUT_TOKENS, self._subject.shape.positions
        if prompt + output > most:
            raise RequestError(
                f"rows of {prompt} tokens in and {output} out are longer than the model takes ({most}): "
                "use fewer --prompt-tokens or --max-tokens"
            )
        chance = random.Random(0)
        file = self._folder / "rows.jsonl"
        file.parent.mkdir(parents=True)
        tokens = range(self._subject.shape.vocabulary)
        with file.open("w") as out:
            for _ in range(rows):
                out.write(json.dumps({"prompt": chance.choices(tokens, k=prompt)}) + "\n")
        request = self._request
        return msgspec.structs.replace(
            request, input=str(file), max_tokens=output,
            sampling={"ignore_eos": True, **request.sampling},
        )  # fmt: skip

    def layouts(self, start: Setting) -> list[Setting]:
        """All other layouts of the same ranks that agree with what was asked, and fit.

        No more PP than the planner takes: its stages take turns, or wait for each other's first micro-batch.
        """
        return [setting for setting in self._cuts(start) if self._fits(setting)]

    def _cuts(self, start: Setting) -> Iterator[Setting]:
        world = start.tp * start.pp * start.dp
        asked = self._request
        for tp in (size for size in range(1, world + 1) if world % size == 0):
            for pp in sorted({1, start.pp}):
                cut = msgspec.structs.replace(start, tp=tp, pp=pp, dp=world // (tp * pp))
                agrees = all(getattr(asked, name) in (None, getattr(cut, name)) for name in ("tp", "pp", "dp"))
                if world % (tp * pp) == 0 and agrees and cut != start:
                    yield cut

    def _fits(self, setting: Setting) -> bool:
        try:
            plan, _ = make_plan(self._as_request(setting, "fits"), self._profile, whole_input=False, use_tuned=False)
        except RefusedError:
            return False
        return plan.fits is not False

    def run(self, setting: Setting) -> Trial:
        """Run the rows as a job of that setting; an interrupt cancels it."""
        self._trials += 1
        try:
            job = prepare_untuned(self._as_request(setting, f"trial-{self._trials}")).submit()
        except (RefusedError, SubmitError) as error:  # a queue that takes no more loses no trial that is done
            return Trial(setting=setting, tokens_per_s=None, why=str(error))
        try:
            status = job.wait()
        except KeyboardInterrupt:
            job.cancel()
            raise
        summary = job.collect()
        seconds = sum(summary.timings.get(name, 0.0) for name in ("warm-up", "generate", "drain"))
        # The same rows fail in every trial; what is missing was cut off, and its slow end with it.
        is_done = status.state in ("COMPLETED", "PARTIAL") and not summary.rows["missing"]
        if not (is_done and seconds and summary.completion_tokens):
            why = status.reason or (
                f"it ended {status.state}, with {summary.completion_tokens} output tokens and "
                f"{summary.rows['missing']} row(s) missing"
            )
            return Trial(setting=setting, tokens_per_s=None, job=str(job.path), why=why)
        rate = round(summary.completion_tokens / seconds, 1)
        return Trial(setting=setting, tokens_per_s=rate, seconds=round(seconds, 1), job=str(job.path))

    def _as_request(self, setting: Setting, name: str) -> Request:
        return msgspec.structs.replace(
            self._request, name=name, nodes=self._subject.nodes, gpus_per_node=self._subject.procs_per_node,
            tp=setting.tp, pp=setting.pp, dp=setting.dp, engine={**setting.engine, **self._request.engine},
        )  # fmt: skip
