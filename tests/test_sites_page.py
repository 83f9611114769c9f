"""docs/sites.md: what the gallery has, made from its files.

After a wanted change: ``VLLM_HPC_UPDATE_DOCS=1 pytest tests/test_sites_page.py``, and read the diff.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.admins
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "sites.md"
GALLERY = sorted((ROOT / "vllm_hpc" / "sites").glob("*.toml"))
UPDATE = "VLLM_HPC_UPDATE_DOCS=1 pytest tests/test_sites_page.py"
INTRODUCTION = """# Profiles of sites

<!-- Made from vllm_hpc/sites by tests/test_sites_page.py. -->

These profiles are part of vllm-hpc: `--profile site/polaris` works after an installation, and a file of yours may add
to one under its name, or extend it:

```toml
[profiles.polaris]
extends = "site/polaris"
account = "my_project"
```

They were collected from public texts, and none was tried on its machine: **look at the script first**
(`vllm-hpc render --profile site/polaris --nodes 2 --time 1:00:00 --account my_project MODEL`), and compare it with the
site's own example. Each line of a file says where it is from, of which date, and how sure it is: H, the site's
documentation; M, an excerpt of it, or several third parties that agree; L, one third party. What no source tells is
left out. Limits change from year to year: a file of yours, or of your site in /etc/xdg/vllm-hpc, overrides them key by
key.

Queues are tried in this order; a job goes to one in brackets only if asked to (`--queue`).

"""


def rows(path: Path) -> tuple[str, dict[str, Any], str]:
    """A file's name, its profile, and the comments at its head."""
    text = path.read_text(encoding="utf-8")
    ((name, profile),) = tomllib.loads(text)["profiles"].items()
    return name, profile, text.partition("\n\n")[0]


def queue(name: str, table: dict[str, Any]) -> str:
    least, most, time = table.get("min_nodes"), table.get("max_nodes"), table.get("max_time")
    some = (
        "1 node" if most == 1 else f"{least or 1}–{most} nodes" if most else f"{least} nodes or more" if least else ""
    )
    limits = ", ".join(filter(None, [some, time]))
    words = f"{name}: {limits}" if limits else name
    return f"({words})" if table.get("by_request") else words


def head(comments: str) -> tuple[str, list[str], str]:
    """The machine, its sources, and what else the head says."""
    lines = [line.removeprefix("#").strip() for line in comments.splitlines()]
    text = re.sub(r"\s+", " ", " ".join(lines[1:]))
    legend = "H: the site's documentation; M: an excerpt of it, or several third parties; L: one third party. "
    sources, _, notes = text.partition(legend)
    found = [source.strip() for source in sources.split("Source ") if source.strip()]
    return lines[0], found, notes.removeprefix("Tried on no machine.").strip()


def page() -> str:
    text = INTRODUCTION + "| profile | scheduler | queues | to give |\n| --- | --- | --- | --- |\n"
    details = ""
    for path in GALLERY:
        name, profile, comments = rows(path)
        queues = "; ".join(queue(*one) for one in profile.get("queues", {}).items())
        needs = ", ".join(f"`--{key}`" for key in profile.get("required", [])) or "nothing"
        text += f"| `{name}` | {profile['scheduler']} | {queues} | {needs} |\n"
        machine, sources, notes = head(comments)
        details += f"\n## {name}: {machine}\n\n{profile['description'].rstrip('.')}.\n"
        details += "".join(f"\n- {source}" for source in sources) + "\n"
        details += f"\n{notes}\n" if notes else ""
    return text + details


def test_the_page_is_that_of_the_files() -> None:
    if os.environ.get("VLLM_HPC_UPDATE_DOCS") == "1":
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), f"meant? {UPDATE}"


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_a_file_says_its_machine_sources_and_dates(path: Path) -> None:
    name, profile, comments = rows(path)
    machine, sources, _ = head(comments)
    assert name == f"site/{path.stem}"
    assert machine
    assert profile["description"]
    assert all(re.match(r"[\w-]+ \(\d{4}[^)]*\): \S", source) for source in sources), sources
