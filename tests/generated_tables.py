"""Tables of the docs that are made from the code: each between ``<!-- NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

import os
import re
from pathlib import Path


def check_table(page: Path, name: str, table: str, update: str) -> None:
    """The page has that table; with VLLM_HPC_UPDATE_DOCS=1 it is written. ``update``: the command that does so."""
    text = page.read_text(encoding="utf-8")
    wanted = re.sub(
        rf"(<!-- {name} -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}\n{table}\n\n{match[2]}",
        text,
        flags=re.S,
    )
    if os.environ.get("VLLM_HPC_UPDATE_DOCS") == "1":
        page.write_text(wanted, encoding="utf-8")
        text = wanted
    assert f"<!-- {name} -->" in text
    assert text == wanted, f"meant? {update}"
