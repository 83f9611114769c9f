"""The card of a job that is watched: its status as a card (api/cards), and what is wrong."""

from __future__ import annotations

from html import escape
from importlib import import_module

from vllm_hpc.jobs.in_words import describe_status
from vllm_hpc.jobs.watch import View
from vllm_hpc.spec.visible import one_line

_ALARM = "color:#c0392b;font-weight:600;margin:.2em 0"


def text(view: View) -> str:
    """The same for what shows no HTML."""
    rate = view.status.tokens_per_s
    first = describe_status(view.status) + (f", {rate:,.0f} tokens/s" if rate else "")
    return "\n".join([first, *(f"! {one_line(alarm)}" for alarm in view.alarms)])


def html(view: View) -> str:
    """Its card; what is wrong stands below it."""
    drawn: str = import_module("vllm_hpc.api.cards").card(view.status)
    return drawn + "".join(f'<div style="{_ALARM}">&#9888; {escape(one_line(alarm))}</div>' for alarm in view.alarms)
