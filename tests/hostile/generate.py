"""All surfaces by name, and the case of a seed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.hostile.cases import Case
from tests.hostile.generate_admin import admin, cluster
from tests.hostile.generate_clients import question, submission
from tests.hostile.generate_folders import folder
from tests.hostile.generate_models import config, weights
from tests.hostile.generate_options import job, request, shell_words
from tests.hostile.generate_rows import files, rows
from tests.hostile.generate_secrets import secret
from tests.hostile.generate_toml import chat_template, job_toml, profile, template

# Surface -> its generator, the seeds in make test, and those in test-full beside them.
SURFACES: dict[str, tuple[Callable[[Random], Case], int, int]] = {
    "options": (request, 50, 350),
    "shell": (shell_words, 15, 85),
    "job": (job, 20, 130),
    "job-toml": (job_toml, 25, 175),
    "profile": (profile, 25, 175),
    "template": (template, 15, 85),
    "chat-template": (chat_template, 10, 65),
    "config": (config, 25, 175),
    "weights": (weights, 15, 85),
    "rows": (rows, 35, 265),
    "files": (files, 10, 65),
    "folder": (folder, 30, 220),
    "submission": (submission, 10, 65),
    "question": (question, 10, 65),
    "secret": (secret, 15, 85),
    "admin": (admin, 8, 192),
    "cluster": (cluster, 4, 116),
}


def make(surface: str, seed: int) -> Case:
    """The case of a surface and a seed."""
    return SURFACES[surface][0](Random(f"{surface} {seed}"))
