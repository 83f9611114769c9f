"""Hostile words for the commands of admins, and clusters that tell profiles init odd things."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

from tests.hostile.cases import Case
from tests.hostile.generate_clients import print_bytes
from tests.hostile.generate_options import ROWS, beside
from tests.hostile.generate_toml import profile
from tests.hostile.generate_values import EXPANSIONS, broken_json, changed, mild, number_word, word

_RECORDED = Path(__file__).parents[1]
_SLURM = {"sinfo": "sinfo.txt", "partition": "partitions.txt", "config": "config.txt", "node": "nodes.txt"}
# What a value of a client's answer ends at.
_VALUE = re.compile(r"(?<=[=|,:])[^\s=|,:]{2,}")
_INSTALLED = ("3.11", "3.12", "3.13")


def admin(random: Random) -> Case:
    """profiles, templates, fetch, bundle, doctor and resume with hostile words."""
    command = random.choice((_profiles, _templates, _fetch, _bundle, _doctor, _resume))
    return command(random)


def cluster(random: Random) -> Case:
    """profiles init, of what a cluster tells; then the profile is checked and planned with."""
    scheduler = random.choice(("slurm", "slurm", "pbs"))
    how = random.choice((("--project",), ("--project",), ("--json",), ()))
    asked = ("profiles", "init", "new", "--scheduler", scheduler, *how)
    plan = ("plan", "--rehearse", "--scheduler", scheduler, "--profile", "new", "--tp", "1")
    then = (("profiles", "show", "new"), ("profiles", "check", "new"), plan) if "--project" in how else ()
    return Case((asked, *then), (ROWS,), clients_of(scheduler, random))


def clients_of(scheduler: str, random: Random) -> dict[str, str]:
    """The scheduler's clients, as lines of sh, which tell what a cluster has told, but for some values."""
    return _of_slurm(random) if scheduler == "slurm" else _of_pbs(random)


def _profiles(random: Random) -> Case:
    name = random.choice((mild(random), word(random), "p"))
    given = profile(random).edits
    verb = random.choice(("init", "show", "show", "check", "list"))
    if verb == "init":
        place = random.choice((("--project",), ("--user",), ("--output", beside(word(random))), ()))
        return Case((("profiles", "init", "--scheduler", "slurm", *place, "--", name),), given, _of_slurm(random))
    names = () if verb == "list" else ("--", name)
    return Case((("profiles", verb, *random.choice(((), ("--json",))), *names), ("profiles", "list")), given)


def _templates(random: Random) -> Case:
    folder, name = beside(word(random)), random.choice((word(random), f"{mild(random)}.j2", "slurm.sbatch.j2"))
    init = ("templates", "init", "--scheduler", random.choice(("slurm", "pbs", "local")), "--", folder, name)
    after = random.choice((
        ("templates", "list", f"--template-dir={folder}"), ("templates", "check", "--", name),
        ("templates", "show", f"--template-dir={folder}", "--", name),
        ("templates", "show", "--source", f"--template-dir={folder}", "--", name),
    ))  # fmt: skip
    return Case((init, after))


def _fetch(random: Random) -> Case:
    """Nothing is fetched: the Hub must not be asked here."""
    model = random.choice((word(random), f"org/{word(random)}", f"hf://{mild(random)}/x", "org/model"))
    more = random.choice(((), ("--revision", word(random)), ("--cache-dir", beside(word(random))), ("--profile", "p")))
    asked = ("fetch", *more, "--", model)
    return Case((asked,), profile(random).edits, variables={"HF_HUB_OFFLINE": "1"})


def _bundle(random: Random) -> Case:
    python = random.choice((word(random), number_word(random), "3", "3.1", "2.7", "3.12/../..", *_INSTALLED))
    folder = beside(word(random)) if python not in _INSTALLED else ROWS.path
    return Case((("bundle", "--python", python, "--", folder),), (ROWS,))


def _doctor(random: Random) -> Case:
    option = random.choice((
        "--account", "--partition", "--qos", "--container", "--directive", "--env", "--profile", "--launcher", "--time",
        "--job-dir", "--template-dir", "--mem",
    ))  # fmt: skip
    said = beside(word(random)) if option == "--job-dir" else random.choice((word(random), mild(random)))
    if option == "--env":
        said = f"WORDS={said}"
    asked = ("doctor", "--json", "--scheduler", random.choice(("slurm", "pbs", "local")), option, said)
    return Case((asked,), profile(random).edits, _of_slurm(random))


def _resume(random: Random) -> Case:
    names = ("--account", "--partition", "--time")
    options = [one for name in names for one in (name, random.choice((mild, word))(random))]
    at = random.choice((0, 0, 2, 4))
    chosen = options[at : at + 2] if random.random() < 0.7 else options[:4]
    scheduler = random.choice(("slurm", "pbs"))
    submit = ("submit", "--rehearse", "--scheduler", scheduler, "--input", ROWS.path, "--name", "new")
    resume = ("resume", "--not-submitted", *chosen, "--", "new")
    return Case((submit, resume, ("status", "new")), (ROWS,), runs_script=True)


def _of_slurm(random: Random) -> dict[str, str]:
    told = {name: (_RECORDED / "slurm/recorded/mixed" / file).read_text() for name, file in _SLURM.items()}
    for name in random.sample(list(told), random.choice((0, 1, 1, 2, 4))):
        told[name] = _damaged(random, told[name])
    said = {name: print_bytes(text.encode(errors="replace")) for name, text in told.items()}
    verbs = [f"*{name}*) {said[name]} ;;" for name in ("partition", "config", "node")]
    return {"sinfo": said["sinfo"], "scontrol": "\n".join(['case "$*" in', *verbs, "esac"]), "sacctmgr": ":"}


def _damaged(random: Random, text: str) -> str:
    """With hostile texts in the place of some values, everywhere that they are."""
    values = sorted(set(_VALUE.findall(text)))
    for value in random.sample(values, min(random.choice((1, 1, 3, 8)), len(values))):
        text = text.replace(value, random.choice((word(random), mild(random), random.choice(EXPANSIONS))))
    return text


def _of_pbs(random: Random) -> dict[str, str]:
    folder = _RECORDED / "pbs/recorded"
    queues = json.loads((folder / random.choice(("queues_polaris.json", "queues_derecho.json"))).read_text())
    nodes = json.loads((folder / "pbsnodes_vnodes.json").read_text())
    for _ in range(random.choice((0, 1, 3, 20))):
        queues = changed(random, queues)
    nodes = changed(random, nodes) if random.random() < 0.5 else nodes
    said = [
        print_bytes(broken_json(random, one) if random.random() < 0.1 else json.dumps(one).encode())
        for one in (queues, nodes)
    ]
    qstat = f'case "$*" in --version) echo pbs_version = 23.06.06 ;; *-Q*) {said[0]} ;; esac'
    return {"qstat": qstat, "pbsnodes": said[1]}
