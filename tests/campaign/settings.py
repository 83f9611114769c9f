"""The layouts that a campaign goes through, and what is drawn for each of its kills."""

from __future__ import annotations

import random
from signal import Signals
from typing import Any

import msgspec

from tests.campaign.targets import TARGETS
from tests.real_jobs import LANES_ON_CPU

# The virtual nodes are one machine: without this, ranks would spin on each other's cores.
# And a dead node is to be missed within the limit of a kill.
_ONE_CORE = {"OMP_NUM_THREADS": "1", "VLLM_HPC_DEAD_S": "45"}

_IN_LANES = {**_ONE_CORE, "PYTHONPATH": LANES_ON_CPU}


class Setting(msgspec.Struct, frozen=True):
    """A layout, and how often it is killed as a share of all kills."""

    name: str
    options: dict[str, Any]
    share: int

    @property
    def is_slurm(self) -> bool:
        """Whether it needs the two-node Slurm."""
        return bool(self.options["scheduler"] == "slurm")


def _local(name: str, share: int, **options: Any) -> Setting:
    return Setting(f"local-{name}", {"scheduler": "local", "env": _ONE_CORE, **options}, share)


def _slurm(name: str, share: int, **options: Any) -> Setting:
    return Setting(f"slurm-{name}", {"scheduler": "slurm", "env": _ONE_CORE, **options}, share)


SETTINGS = {
    setting.name: setting
    for setting in (
        _local("tp1", 6, tp=1, gpus_per_node=1),
        _local("tp2", 9, tp=2, gpus_per_node=2),
        _local("pp2", 6, pp=2, gpus_per_node=2),
        _local("dp2", 9, dp=2, gpus_per_node=2),
        _local("lanes2", 3, tp=1, attention_dp=2, dp=1, gpus_per_node=2, env=_IN_LANES),
        _slurm("tp2", 8, nodes=2, tp=2),
        _slurm("pp2", 6, nodes=2, pp=2, launcher="torchrun"),
        _slurm("dp2", 8, nodes=2, dp=2),
        _slurm("array2", 8, dp=2, array=True),
    )
}


class Draw(msgspec.Struct, frozen=True):
    """One kill as the seed wants it: what, how, and when in an attempt of which task.

    ``moment``: "start" (the script has its number), "load" (a rank is on record), or "rows" (``rows`` are written).
    """

    target: str
    signal: str
    moment: str
    rows: int
    task: int
    victim: float

    @property
    def number(self) -> Signals:
        """The signal itself."""
        return Signals[self.signal]


def draw(setting: Setting, kills: int, seed: int) -> list[Draw]:
    """The kills of a setting. Every target comes with each signal before any comes twice."""
    chance = random.Random(f"{seed} {setting.name}")
    pairs = [(target, name) for target in TARGETS for name in ("SIGKILL", "SIGTERM")]
    drawn: list[tuple[str, str]] = []
    while len(drawn) < kills:
        drawn += chance.sample(pairs, len(pairs))
    found = []
    for target, name in drawn[:kills]:
        moment = chance.choices(("start", "load", "rows"), (1, 2, 7))[0]
        tasks = 2 if setting.options.get("array") else 1
        if moment == "start" and target in ("rank", "agent"):
            moment = "load"  # there is none yet
        found.append(Draw(target, name, moment, chance.randint(1, 60), chance.randrange(tasks), chance.random()))
    return found


def split(kills: int, settings: list[Setting]) -> dict[str, int]:
    """So many kills over the settings, by their shares, in whatever order they are named; each has one at least."""
    settings = [setting for setting in SETTINGS.values() if setting in settings]
    total = sum(setting.share for setting in settings)
    found: dict[str, int] = {}
    given = passed = 0
    for setting in settings:
        passed += setting.share
        found[setting.name] = max(1, round(kills * passed / total) - given)
        given += found[setting.name]
    return found
