"""Hostile job.toml, profiles and templates."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tests.hostile.cases import CANARY, Case, Edit
from tests.hostile.generate_options import ROWS
from tests.hostile.generate_values import expansion, mild, nested, number, text, value

_ASK = ("submit", "--rehearse", "--scheduler", "slurm", "--input", ROWS.path)
_JOB_KEYS = (
    "model", "input", "nodes", "gpus_per_node", "tp", "pp", "dp", "attention_dp", "ep", "scheduler", "profile",
    "partition", "account", "qos", "time", "mem", "cpus_per_rank", "name", "job_dir", "max_tokens", "temperature",
    "top_p", "seed", "seed_rows", "lora", "chat_template", "prompt_column", "prompt_template", "id_column", "keep",
    "rename", "sampling", "engine", "env", "directive", "gpu", "launcher", "array", "template", "template_dir",
    "max_requeues", "drain_lead", "rehearse", "rehearse_set",
    "no_such",
)  # fmt: skip
# Not setup and head_command: their lines are the site's own shell.
_PROFILE_KEYS = (
    "partition", "account", "qos", "time", "mem", "cpus_per_rank", "gpus_per_node", "cpus_per_node", "mem_per_node",
    "gpu",
    "gpu_memory_gib", "gpu_flag", "exclusive", "gpu_request", "account_flag", "chunk", "resources", "launcher",
    "launcher_options", "wrapper", "head_suffix", "export_environment", "env", "template_dir", "no_such",
    "secrets", "offline", "scratch", "cache_dir",
)  # fmt: skip
_LISTS = ("secrets", "chunk", "resources", "launcher_options", "wrapper", "directive", "keep")
# What some keys take, so that a case gets further.
_TAKEN: dict[str, tuple[Any, ...]] = {
    "time": ("10", "1-00"), "mem": ("4G",), "gpus_per_node": (1, 4), "cpus_per_node": (8,), "gpu": ("h100-80",),
    "tp": (1, 2),
    "gpu_memory_gib": (1e300, 5e-324, 80), "gpu_flag": ("gres", "none"), "exclusive": (True,), "launcher": ("srun",),
    "export_environment": (False,), "head_suffix": ("i", ".a"), "env": ({"WORDS": "$(touch CANARY)"},), "nodes": (1,
    100_000),
    "dp": (1, 2, 100_000), "attention_dp": (1, 4), "ep": (True,),
    "array": (True, False), "seed": (1, 2**63), "max_requeues": (0, 10_000), "rehearse": (True,),
    "sampling": ({"n": 2}, {"seed": 2**64}), "engine": ({"max_num_seqs": 4},), "input": ("../rows.jsonl",),
    "job_dir": ("runs",), "secrets": (["HF_TOKEN"],), "offline": (True,), "scratch": ("$(touch CANARY)", "/tmp/$USER"),
    "cache_dir": ("/tmp/c'$(touch CANARY)",),
}  # fmt: skip
_TEMPLATES = (
    f"{{{{ cycler.__init__.__globals__.os.system('touch {CANARY}') }}}}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ job|attr('__class__') }}",
    "{% for a in range(10**9) %}{% endfor %}",
    "{{ 'x' * 10**11 }}",
    "{{ 10**10**8 }}",
    "{% include '/etc/passwd' %}",
    "{% include '../../secret' %}",
    "{% extends 'mine.sh.j2' %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    f"{{{{ lipsum.__globals__['os'].popen('touch {CANARY}').read() }}}}",
    "{{ joiner.__init__.__globals__ }}",
    "{% import 'mine.sh.j2' as mine %}",
    "{{ 1/0 }}",
    "{{ undefined.name }}",
    "{% if %}",
    "{{ '%s'.format }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(layout) }}",
    "\x1b[2J{{",
    "{{ 'a'.ljust(10**9) }}",
)


def job_toml(random: Random) -> Case:
    """A job definition with hostile values, or one that is no TOML."""
    table = {key: _of(random, key) for key in random.sample(_JOB_KEYS, random.choice((1, 1, 2, 3)))}
    asked = (random.choice(("submit", "plan", "render")), *_ASK[1:], "defined")
    return Case((asked,), (ROWS, Edit("defined/job.toml", content=_bytes(random, {"tp": 1, **table}))))


def profile(random: Random) -> Case:
    """A profile with hostile values, of the working directory or of the user."""
    keys = random.sample(_PROFILE_KEYS, random.choice((1, 1, 2, 3)))
    table = _words(random) if random.random() < 0.4 else {key: _of(random, key) for key in keys}
    name = random.choice(("p", "p", "p", text(random).replace("\0", "")))
    file = random.choice(("vllm-hpc.toml", "config/vllm-hpc/config.toml"))
    asked = (random.choice(("submit", "submit", "plan", "render")), *_ASK[1:], f"--profile={name}")
    scheduler = {"scheduler": "pbs"} if random.random() < 0.1 else {}
    content = _bytes(random, {"profiles": {name: {**table, **scheduler}}})
    return Case((asked,), (ROWS, Edit(file, content=content)), runs_script=asked[0] == "submit")


def template(random: Random) -> Case:
    """A template of a folder that somebody else has filled."""
    said = random.choice((*_TEMPLATES, text(random).replace("\ud83d", "").replace("\udcff\udcfe", "")))
    name = random.choice(("mine.sh.j2", "mine.sh.j2", "slurm.sbatch.j2", "_torchrun.sh.j2"))
    asked_for = "slurm.sbatch.j2" if name.startswith("_") else name
    how = random.choice(("write",) * 9 + ("folder", "fifo", "loop", "zeros", "away", "binary"))
    content = (
        said.encode(errors="replace") if random.random() < 0.5 else b"#!/bin/bash\n" + said.encode(errors="replace")
    )
    asked = (random.choice(("submit", "render")), *_ASK[1:], "--template-dir", "folder", "--template", asked_for)
    file = Edit(f"folder/{name}", how, content)  # type: ignore[arg-type]
    return Case((asked,), (ROWS, file))


def chat_template(random: Random) -> Case:
    """A --chat-template, or a --prompt-template that the login node runs on every row."""
    said = random.choice((*_TEMPLATES, text(random), expansion(random))).replace("\0", "")
    if random.random() < 0.5:
        return Case(((*_ASK, f"--prompt-template={said}"),), (ROWS,))
    file = Edit("chat.jinja", content=said.encode(errors="surrogatepass"))
    return Case(((*_ASK, "--chat-template", "chat.jinja"),), (ROWS, file))


def _words(random: Random) -> dict[str, Any]:
    """A profile that is taken, whose words a shell must see quoted."""
    texts = {key: mild(random) for key in ("partition", "account", "qos") if random.random() < 0.3}
    return {**texts, "wrapper": [mild(random), mild(random)], "env": {"WORDS": mild(random)}}


def _of(random: Random, key: str) -> Any:
    if key in _LISTS and random.random() < 0.7:
        return [mild(random) for _ in range(random.randrange(3))]
    if key == "job_dir":
        return random.choice((number(random), [], "runs"))
    if key in ("env", "sampling", "engine", "rename") and random.random() < 0.7:
        return {random.choice(("WORDS", "stop", "dtype", "prompt")): value(random)}
    if random.random() < 0.4 and key in _TAKEN:
        return random.choice(_TAKEN[key])
    kind = random.random()
    if kind < 0.35:
        return mild(random)
    return random.choice((text(random), number(random), value(random), nested(random)))


def _bytes(random: Random, table: dict[str, Any]) -> bytes:
    """TOML; one of four times with something wrong with it."""
    whole = "".join(f"{_key(key)} = {_toml(one)}\n" for key, one in table.items()).encode()
    if random.random() < 0.75:
        return whole
    cut = random.randrange(len(whole))
    return random.choice((
        whole[:cut], b"\xef\xbb\xbf" + whole, whole.replace(b"\n", b"\r\n"), whole + whole, b"\0" + whole,
        whole[:cut] + b"\0" + whole[cut:], b"\xff" + whole, whole.decode().encode("utf-16"), b"a = " + b"[" * 50_000,
        b"a" + b".a" * 5000 + b" = 1", b"n = " + b"9" * 5000, b"# " + b"x" * 2_000_000, b"", random.randbytes(100),
        b"d = 9999-99-99", b"x = {a = {a = {}}}",
    ))  # fmt: skip


def _key(key: str) -> str:
    return json.dumps(key.encode(errors="replace").decode())


def _toml(given: Any) -> str:
    """A TOML value; null has none, and becomes an empty table."""
    if isinstance(given, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(one)}" for key, one in given.items()) + "}"
    if isinstance(given, list):
        return f"[{', '.join(map(_toml, given))}]"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, float):
        return str(given)
    return "{}" if given is None else str(given) if isinstance(given, int) else _key(given)
