"""Secrets, handed over in every way in which somebody may: none may be written or printed."""

from __future__ import annotations

import string
from random import Random

from tests.hostile.cases import Case, Edit
from tests.hostile.generate_options import ROWS

_ASK = ("--rehearse", "--scheduler", "slurm", "--input", ROWS.path)
_NAMES = (
    "HF_TOKEN", "OPENAI_API_KEY", "OPENAI_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASS", "DB_PASSWORD", "PGPASSWORD",
    "PGPASS",
    "GITHUB_TOKEN", "MY_CREDENTIAL", "WANDB_API_KEY", "JWT", "SSH_PASSPHRASE", "ACCESS_KEY", "auth_token", "PASSWD",
)  # fmt: skip
# Of those that are told by their shape, whatever they are called.
_SHAPES = {
    "hf_": 34, "sk-": 48, "ghp_": 36, "github_pat_": 40, "glpat-": 20, "xoxb-": 40, "npm_": 36, "AKIA": 16,
    "Bearer ": 40,
    "AIza": 35,
}  # fmt: skip


def secret(random: Random) -> Case:
    """A secret in an option, a file or the environment."""
    name, (shape, length) = random.choice(_NAMES), random.choice(tuple(_SHAPES.items()))
    plain = "".join(random.choices(string.ascii_uppercase + string.digits, k=length))
    shaped = shape + plain
    url = f"https://user:{plain}@proxy.example:3128"
    command = random.choice(("submit", "submit", "plan", "render"))
    variables, edits, options = random.choice((
        ({name: plain}, (), ()),
        ({"WORDS": shaped, "https_proxy": url}, (), ()),
        ({}, (), ("--env", f"{name}={plain}")),
        ({}, (), ("--env", f"WORDS={shaped}")),
        ({}, (), ("--env", f"https_proxy={url}")),
        ({}, (), ("--engine", f"hf_token={plain}")),
        ({}, (), ("--engine", f"download_dir={shaped}")),
        ({}, (), ("--engine", f'hf_overrides={{"a": [{{"{name}": "{plain}"}}]}}')),
        ({}, (), ("--engine", f'hf_overrides={{"a": "{shaped}"}}')),
        ({}, (), ("--sampling", f'extra_args={{"{name.lower()}": "{plain}"}}')),
        ({}, (), ("--sampling", f'extra_args={{"a": ["{shaped}"]}}')),
        ({}, (), ("--directive", f"--comment={shaped}")),
        ({}, (), ("--directive", f"--export={name}={plain}")),
        ({}, (_profile(f'setup = ["export {name}={plain}"]'),), ("--profile", "p")),
        ({}, (_profile(f"setup = ['curl -H \"Authorization: {shaped}\" x']"),), ("--profile", "p")),
        ({}, (_profile(f'env = {{ WORDS = "{shaped}" }}'),), ("--profile", "p")),
        ({}, (_profile(f'env = {{ {name} = "{plain}" }}'),), ("--profile", "p")),
        ({}, (_profile(f'wrapper = ["run", "--header={shaped}"]'),), ("--profile", "p")),
        ({}, (Edit("defined/job.toml", content=f'tp = 1\n[env]\n{name} = "{plain}"\n'.encode()),), ("defined",)),
        ({}, (Edit("defined/job.toml", content=f'tp = "x"\n[engine]\nhf_token = "{shaped}"\n'.encode()),),
        ("defined",)),
        ({}, (), ("--account", shaped)),
        ({}, (), ("--nodes", shaped)),
        ({}, (), ("--time", shaped)),
        ({}, (), ("--", url)),
    ))  # fmt: skip
    return Case(((command, *_ASK, *options),), (ROWS, *edits), variables=variables, secrets=(plain,))


def _profile(line: str) -> Edit:
    return Edit("vllm-hpc.toml", content=f"[profiles.p]\n{line}\n".encode())
