"""The card of a prepared job: its notes, its plan and its script."""

from __future__ import annotations

from vllm_hpc.api.cards.elements import folded, frame, head, items, note, pill, section, tag
from vllm_hpc.api.cards.plan import obstacles, parts_of
from vllm_hpc.api.cards.script import code_box
from vllm_hpc.jobs.in_words import name_of
from vllm_hpc.jobs.submit import Prepared
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.spec.words import counted


def card(prepared: Prepared) -> str:
    """What would be submitted, and that it is not yet."""
    top = head("Prepared", name_of(prepared.folder), pill("NOT SUBMITTED", "wait"))
    how = tag("div", f"for {prepared.scheduler}: .submit() submits exactly this", class_="vh-dim")
    notes = [section("Notes", items(prepared.notes))] if prepared.notes else []
    text = str(prepared.script)
    name = get_scheduler(prepared.scheduler).script
    script = folded(f"{name}: {counted(text.count(chr(10)), 'line')}", code_box("Script", name, text))
    refused = [note(one, "bad") for one in obstacles(prepared.plan)]
    where = tag("div", prepared.folder, class_="vh-path vh-foot")
    return frame(top, how, *refused, *notes, *parts_of(prepared.plan), script, where)
