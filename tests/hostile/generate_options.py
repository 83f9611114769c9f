"""Hostile values of every option of every command."""

from __future__ import annotations

from random import Random

from tests.hostile.cases import DONE, JOBS, Case, Edit, some
from tests.hostile.generate_values import mild, number_word, word

ROWS = Edit("rows.jsonl", content=b'{"prompt": "a"}\n{"prompt": "b"}\n')
_COUNTS = (
    "--nodes", "--gpus-per-node", "--tp", "--pp", "--dp", "--attention-dp", "--cpus-per-rank", "--max-tokens",
    "--temperature", "--top-p", "--seed", "--max-requeues", "--drain-lead",
)  # fmt: skip
_TEXTS = (
    "--prompt-column", "--prompt-template", "--gpu", "--scheduler", "--profile", "--partition", "--account", "--qos",
    "--time", "--mem", "--name", "--chat-template", "--lora", "--directive", "--launcher", "--template",
    "--template-dir",
    "--input",
)  # fmt: skip
_PAIRS = ("--rename", "--sampling", "--engine", "--env", "--rehearse-set")
_FLAGS = ("--drop-last-answer", "--seed-rows", "--array", "--json", "--dry-run")
# Names that exist, so that their values are looked at.
_NAMES = {
    "--rename": ("prompt", "id", "text"),
    "--sampling": ("temperature", "top_p", "stop", "seed", "n", "max_tokens", "logit_bias", "structured_outputs",
    "tempreature"),
    "--engine": ("max_num_seqs", "max_model_len", "dtype", "hf_overrides", "quantization", "load_format", "no_such"),
    "--env": ("WORDS", "OMP_NUM_THREADS", "VLLM_HPC_STALL_S", "PATH", "https_proxy", "LD_PRELOAD"),
    "--rehearse-set": ("load_s", "tokens_per_s", "fault", "fault_row", "fault_s", "fault_rank"),
}  # fmt: skip
# What each takes, so that a case gets further.
_TAKEN = {
    "--time": ("10", "1:00:00", "1-00"), "--mem": ("4G", "0"), "--gpu": ("h100-80", "80G"), "--launcher": ("torchrun",
    "pbsdsh"),
    "--temperature": ("0", "0.5", "1e-320"), "--top-p": ("1", "1e-9"), "--drain-lead": ("60", "600"),
    "--template-dir": (".",),
    "--seed": ("0", "-1", "9223372036854775807"), "--rename": ("prompt=text", "id=name"),
    "--rehearse-set": ("load_s=0", "tokens_per_s=5"),
    "--sampling": ("stop=[\"a\"]", "temperature=0", "n=2", "seed=18446744073709551615", "logit_bias={}"),
    "--engine": ("max_num_seqs=4", "max_model_len=100000000000000000000", "enforce_eager=true", "dtype=bfloat16"),
    "--prompt-template": ("{{ prompt }}", "{{ prompt * 3 }}"), "--prompt-column": ("prompt",),
    "--input": ("rows.jsonl", "*.jsonl"),
}  # fmt: skip
# Texts that a shell sees if they are not quoted, and that many options take.
_QUOTED = ("--name", "--partition", "--account", "--qos", "--env", "--directive", "--engine", "--job-dir")


def request(random: Random) -> Case:
    """submit, plan, render and tune with hostile options, and a list of what there is then."""
    command = random.choice(("submit", "submit", "submit", "plan", "render", "tune"))
    jobs = word(random) if random.random() < 0.15 else JOBS
    jobs = beside(jobs)
    options = [one for _ in range(random.choice((1, 1, 2, 3))) for one in _option(random, command)]
    model = (word(random),) if random.random() < 0.1 else ()
    tail = ("--", *model) if model else ()
    chosen = ("--scheduler", random.choice(("slurm", "slurm", "pbs"))) if "--scheduler" not in options else ()
    given = () if "--input" in options else ("--input", ROWS.path)
    asked = (command, "--rehearse", *chosen, *given, "--job-dir", jobs, *options, *tail)
    # A job that tune has submitted would be waited for.
    clients = {"sbatch": "echo no >&2; exit 1", "qsub": "echo no >&2; exit 1"} if command == "tune" else {}
    return Case((asked, ("list", "--job-dir", jobs)), (ROWS,), clients, runs_script=command == "submit")


def shell_words(random: Random) -> Case:
    """Texts that run a command if a shell sees them, in the options that a script holds; the script is run."""
    scheduler = random.choice(("slurm", "pbs"))
    directive = "--comment=" if scheduler == "slurm" else "-l place="
    options: list[str] = []
    for option in some(random, *_QUOTED):
        if scheduler == "pbs" and option == "--qos":
            continue
        said = word(random) if random.random() < 0.1 else mild(random)
        if option == "--job-dir":
            said = beside(said)
        head = {"--env": "WORDS=", "--engine": "served_model_name=", "--directive": directive}.get(option, "")
        options += [option, f"{head}{said}"]
    jobs = () if "--job-dir" in options else ("--job-dir", JOBS)
    asked = ("submit", "--rehearse", "--scheduler", scheduler, "--input", ROWS.path, *jobs, *options)
    return Case((asked,), (ROWS,), runs_script=True)


def job(random: Random) -> Case:
    """status, list, logs, collect, resume and cancel with hostile options, of a job that has ended."""
    command = random.choice(("status", "list", "logs", "collect", "resume", "cancel"))
    which = [] if command == "list" else [DONE if random.random() < 0.6 else word(random)]
    options = {
        "logs": ["--rank", number_word(random)],
        "cancel": ["--job-id", word(random)],
        "resume": [random.choice(("--retry-errors", "--not-submitted", "--json"))],
    }.get(command, ["--json"])
    if random.random() < 0.3:
        options += ["--job-dir", word(random)]
    if random.random() < 0.2:
        options = [word(random)]
    return Case(((command, *options, "--", *which),), has_job=True)


def beside(jobs: str) -> str:
    """A folder of the desk: one that the caller wants elsewhere is no fault."""
    return jobs.replace("/", "_").replace("..", "_").lstrip("~- ") or JOBS


def _option(random: Random, command: str) -> tuple[str, ...]:
    kind = random.random()
    if random.random() < 0.4:
        return _taken(random)
    if command == "tune" and kind < 0.3:
        name = random.choice(("--sweep", "--rows", "--prompt-tokens"))
        return name, word(random) if name == "--sweep" else number_word(random)
    if kind < 0.35:
        return random.choice(_COUNTS), number_word(random)
    if kind < 0.7:
        return random.choice(_TEXTS), word(random)
    if kind < 0.95:
        name = random.choice(_PAIRS)
        key = word(random) if random.random() < 0.2 else random.choice(_NAMES[name])
        return name, f"{key}={number_word(random) if random.random() < 0.4 else word(random)}"
    return (random.choice(_FLAGS),)


def _taken(random: Random) -> tuple[str, ...]:
    """An option with a value that it takes."""
    option = random.choice((*_COUNTS, *_TEXTS, *_PAIRS))
    if option == "--scheduler":
        return option, random.choice(("slurm", "pbs"))
    if option in _COUNTS and option not in _TAKEN:
        return option, random.choice(("1", "2", "4", "100000"))
    if option == "--env":
        return option, f"WORDS={mild(random)}"
    return option, random.choice(_TAKEN.get(option, (mild(random),)))
