"""Whether the first line of a .txt is rather the header of a table."""

from __future__ import annotations

from vllm_hpc.rows.conversations import CONVERSATIONS
from vllm_hpc.rows.likely import NEVER, is_known

_COLUMNS = NEVER | {"prompt", "messages", "custom_id", CONVERSATIONS, "sampling", "tools", "lora", "task"}


def separator_of_header(line: str) -> str | None:
    """What separates the names in a line that looks like a table's header: a tab, or ``,`` ``;`` ``|``; else None."""
    for sign in ("\t", ",", ";", "|"):
        names = [name.strip().strip('"') for name in line.split(sign)]
        count = sum(is_known(name) or name.lower() in _COLUMNS for name in names)
        if count >= 2 and (sign == "\t" or count == len(names)):
            return sign
    return None
