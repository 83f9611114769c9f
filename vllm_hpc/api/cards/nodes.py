"""Nodes, GPUs and replicas of a layout as a picture: a box for each node, a cell for each GPU."""

from __future__ import annotations

from markupsafe import Markup

from vllm_hpc.api.cards.elements import join, tag
from vllm_hpc.api.cards.style import HUES
from vllm_hpc.spec.layout import Layout

# GPUs of one node that are drawn, in rows of so many; and GPUs of all nodes.
_MOST_CELLS, _COLUMNS, _MOST_IN_ALL = 16, 8, 64
_WIDTH, _HEIGHT, _GAP, _TOP = 44, 32, 4, 22


def picture(layout: Layout) -> Markup:
    """The nodes, of many the first and the last; each GPU has its replica's colour and name."""
    total = layout.nodes * layout.tasks
    most = max(3, _MOST_IN_ALL // min(layout.procs_per_node, _MOST_CELLS))
    if total <= most:
        boxes = [_node(layout, node) for node in range(total)]
    else:
        boxes = [_node(layout, node) for node in range(most - 1)]
        boxes += [_left_out(layout, range(most - 1, total - 1)), _node(layout, total - 1)]
    key = "R: replica" + ", T: TP rank" * (layout.tp > 1) + ", P: PP stage" * (layout.pp > 1)
    return join([tag("div", *boxes, class_="vh-nodes"), tag("div", key, class_="vh-dim")])


def _left_out(layout: Layout, nodes: range) -> Markup:
    words = f"… {len(nodes):,} more {'node' if len(nodes) == 1 else 'nodes'}: {_replicas(layout, nodes)} …"
    return tag("div", words, class_="vh-more")


def _replicas(layout: Layout, nodes: range) -> str:
    """The replicas that have a rank on these nodes."""
    first = layout.place(nodes[0] * layout.procs_per_node).replica
    last = layout.place((nodes[-1] + 1) * layout.procs_per_node - 1).replica
    return f"replica {first}" if first == last else f"replicas {first:,} to {last:,}"


def _node(layout: Layout, node: int) -> Markup:
    """A node, of array tasks counted within its task."""
    task, inside = divmod(node, layout.nodes)
    name = f"task {task}" + f", node {inside}" * (layout.nodes > 1) if layout.is_array else f"node {node}"
    first, procs = node * layout.procs_per_node, layout.procs_per_node
    cells: list[tuple[int | None, int]] = [(rank, 1) for rank in range(first, first + procs)]
    if procs > _MOST_CELLS:  # the last cell but some stands for the middle
        cells = [*cells[: _MOST_CELLS - 4], (None, procs - _MOST_CELLS + 1), *cells[-3:]]
    cells += [(None, 0)] * min(layout.gpus_per_node - procs, _MOST_CELLS - len(cells))
    columns = min(len(cells), _COLUMNS)
    lines = -(-len(cells) // _COLUMNS)
    width = max(columns * (_WIDTH + _GAP) + _GAP, 9 * len(name))
    height = _TOP + lines * (_HEIGHT + _GAP) + _GAP
    words = f"{name}: {procs} GPUs, {_replicas(layout, range(node, node + 1))}"
    return tag(
        "svg",
        tag("rect", x="0.5", y="0.5", width=str(width - 1), height=str(height - 1), rx="6", class_="vh-node"),
        _text(_GAP + 2, 15, name, 12, "start"),
        *(_cell(layout, cell, place) for place, cell in enumerate(cells)),
        role="img", aria_label=words, viewBox=f"0 0 {width} {height}", width=str(width), height=str(height),
    )  # fmt: skip


def _cell(layout: Layout, cell: tuple[int | None, int], place: int) -> Markup:
    rank, left_out = cell
    row, column = divmod(place, _COLUMNS)
    x, y = _GAP + column * (_WIDTH + _GAP), _TOP + row * (_HEIGHT + _GAP)
    middle = x + _WIDTH // 2
    if rank is None:
        words = f"+{left_out}" if left_out else "idle"
        return join([_box(x, y, "vh-node"), _text(middle, y + 20, words, 11)])
    at = layout.place(rank)
    lane, has_lanes = at.lane % layout.attention_dp, layout.attention_dp > 1
    inside = " ".join([f"L{lane}"] * has_lanes + [f"T{at.tp}"] * (layout.tp > 1) + [f"P{at.pp}"] * (layout.pp > 1))
    whose = f"replica {at.replica}, lane {lane}" if has_lanes else f"replica {at.replica}"
    title = tag("title", f"rank {rank}: {whose}, TP rank {at.tp}, PP stage {at.pp}")
    name = _text(middle, y + (14 if inside else 20), f"R{at.replica}", 11 if at.replica < 10_000 else 9)
    second = _text(middle, y + 26, inside, 9 if len(inside) < 8 else 7) if inside else ""
    return tag("g", title, _box(x, y, f"vh-cell vh-r{at.replica % HUES}"), name, second)


def _box(x: int, y: int, look: str) -> Markup:
    return tag("rect", x=str(x), y=str(y), width=str(_WIDTH), height=str(_HEIGHT), rx="4", class_=look)


def _text(x: int, y: int, words: str, size: int, anchor: str = "middle") -> Markup:
    return tag("text", words, x=str(x), y=str(y), font_size=str(size), text_anchor=anchor)
