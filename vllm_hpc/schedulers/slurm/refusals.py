"""What to do when sbatch refuses a job.

Slurm's sentences are those of src/common/slurm_errno.c (22.05 to 26.05); plugins of sites put their own before them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from vllm_hpc.schedulers.slurm.environment import is_given
from vllm_hpc.schedulers.slurm.reasons import advise_refused


class _Hint(NamedTuple):
    """Advice for messages that contain ``pattern``: ``otherwise`` for a job that does not set ``option``."""

    pattern: str
    advice: str
    option: str = ""
    otherwise: str = ""


_POLICY = re.compile("accounting/qos policy", re.IGNORECASE)
_LIMITS = "'sacctmgr show qos' and 'sacctmgr show assoc user=$USER' show the limits"
_IN_DIRECTIVE = "correct or remove {} in --directive"
_LATER = "nothing was submitted; try again later"
# The first one that matches is given, so words that messages of sites may contain by chance (gpu) come last.
_HINTS = [
    _Hint(r"unrecognized option|invalid option", "sbatch does not take that option of --directive or of the profile"),
    _Hint(r"invalid --[\w-]+ specification", "correct that option of --directive or of the profile"),
    _Hint(r"invalid job array", "lower --dp: 'scontrol show config' shows MaxArraySize, the most tasks of an array"),
    _Hint(
        r"time limit|specify .*(run ?time|walltime|-t\b)",
        "choose a shorter --time, or another --partition: 'sinfo -o \"%P %l\"' shows the limits",
        "--time",
        "give --time: 'sinfo -o \"%P %l\"' shows the limits",
    ),
    _Hint(
        r"memory (specification|required)",
        "lower --mem: 'sinfo -o \"%P %m\"' shows what nodes have, in MB",
        "--mem",
        "give --mem: 'sinfo -o \"%P %m\"' shows what nodes have, in MB",
    ),
    _Hint(
        r"partition.*(not available|down state|inactive)|part.*config.* not available",
        "choose another --partition, or wait for this one: 'sinfo' shows their states",
    ),
    _Hint(r"not permitted to use this partition", "choose another --partition, or ask the site for access"),
    _Hint(
        r"invalid account|account/partition combination|\b(no|missing) (account|project)"
        r"|specify .*\b(account|project|allocation)\b",
        "'sacctmgr show assoc user=$USER' lists your accounts, and their partitions",
        "--account",
        "give --account: 'sacctmgr show assoc user=$USER' lists your accounts",
    ),
    _Hint(
        r"invalid qos|specify .*\bqos",
        "choose another --qos: 'sacctmgr show assoc user=$USER format=account,qos' lists yours",
        "--qos",
        "give --qos: 'sacctmgr show assoc user=$USER format=account,qos' lists yours",
    ),
    _Hint(
        r"invalid partition|partition .*not valid|\b(no|default|specify) .*partition",
        "choose another --partition: 'sinfo' lists them",
        "--partition",
        "give --partition: 'sinfo' lists the partitions",
    ),
    _Hint(r"node count", "choose another --nodes: 'scontrol show partition' shows MinNodes and MaxNodes"),
    _Hint(r"invalid node name|nodes not in this partition", "correct --nodelist in --directive: 'sinfo -N' lists them"),
    _Hint(
        r"node configuration is not available|more processors|cpu count",
        "'sinfo -o \"%P %D %c %m %G\"' shows what nodes have",
    ),
    _Hint(r"feature", f"{_IN_DIRECTIVE.format('--constraint')}: 'sinfo -o \"%P %f\"' lists the features"),
    _Hint(r"reservation", f"{_IN_DIRECTIVE.format('--reservation')}: 'scontrol show reservation' lists them"),
    _Hint(r"licen[sc]e", f"{_IN_DIRECTIVE.format('--licenses')}: 'scontrol show licenses' lists them"),
    _Hint(r"burst.?buffer", f"{_IN_DIRECTIVE.format('--bb or --bbf')}: 'scontrol show burstbuffer' shows more"),
    _Hint(r"dependency", f"{_IN_DIRECTIVE.format('--dependency')}: 'squeue --me' lists your jobs"),
    _Hint(r"wckey", f"{_IN_DIRECTIVE.format('--wckey')}: 'sacctmgr show wckey' lists them"),
    _Hint(r"qos usage threshold", "choose another --qos or --account, or wait until less of it is used"),
    _Hint(r"submissions disabled|presently disabled|maxjobcount|rate limit|temporarily|standby", _LATER),
    _Hint(r"unable to contact|connection refused", "nothing was submitted; try again when the controller is up"),
    _Hint(r"incompatible versions", "this machine's Slurm is not the cluster's: use another login node"),
    _Hint(
        r"permission denied|invalid (user|group) id|authentication|credential",
        "Slurm does not let you submit from this machine: ask the site for access",
    ),
    _Hint(r"i/o error writing", "nothing was submitted: the controller's disk may be full: tell the site"),
    _Hint(
        r"specify a .*type|gpu:<?type|with and without type",
        'name the GPU\'s type: gpu_flag = "gres" in the profile, and --directive=--gres=gpu:TYPE:N; '
        "'sinfo -o \"%P %G\"' shows the types",
    ),
    _Hint(
        r"switch to --gpus\b",
        'gpu_flag = "gpus-per-node" in the profile may do; if not, add --directive=--gpus=N',
    ),
    _Hint(
        r"\bgres\b|\bgpus?\b|\btres\b",
        "the site may need another gpu_flag in the profile: gpus-per-node or gres; "
        "'sinfo -o \"%P %G\"' shows what nodes have",
    ),
    _Hint(
        r"unspecified error|job_?submit|plugin",
        "a plugin of the site refused the job: see its message, or the site's documentation",
    ),
]


def explain(words: str, script: Path) -> str:
    """What to do about sbatch's refusal of this script; empty if nothing is known."""
    if _POLICY.search(words):
        return _explain_policy(words)
    hint = next((hint for hint in _HINTS if re.search(hint.pattern, words, re.IGNORECASE)), None)
    if hint is None:
        return ""
    return hint.otherwise if hint.option and not is_given(hint.option, script) else hint.advice


def _explain_policy(words: str) -> str:
    """The limit is named on a line of its own, by Slurm 20.11 and later; not by older ones."""
    advice = next(filter(None, map(advise_refused, re.findall(r"\w+", words))), "")
    return f"{advice or 'you have too many jobs, or this one asks for too much'}: {_LIMITS}"
