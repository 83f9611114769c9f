"""Layouts: what is computed, what is refused, and that every proposal of a refusal works."""

from __future__ import annotations

import re
from itertools import product

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vllm_hpc.spec.errors import LayoutError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.nearest_layout import OPTIONS
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.solve_layout import Asked, solve

# asked, GPUs of a node, then nodes, ranks per node, TP, PP, DP
TABLE = [
    (Asked(), None, (1, 1, 1, 1, 1)),
    (Asked(tp=1), 8, (1, 1, 1, 1, 1)),
    (Asked(nodes=2, tp=16), None, (2, 8, 16, 1, 1)),
    (Asked(nodes=2, tp=16), 8, (2, 8, 16, 1, 1)),
    (Asked(nodes=2, tp=16, gpus_per_node=8), None, (2, 8, 16, 1, 1)),
    (Asked(gpus_per_node=8, tp=16), None, (2, 8, 16, 1, 1)),
    (Asked(tp=16), 8, (2, 8, 16, 1, 1)),
    (Asked(tp=16), 4, (4, 4, 16, 1, 1)),
    (Asked(tp=12), 8, (2, 6, 12, 1, 1)),
    (Asked(nodes=2, tp=8, pp=2), None, (2, 8, 8, 2, 1)),
    (Asked(nodes=4, gpus_per_node=4, tp=4), None, (4, 4, 4, 1, 4)),
    (Asked(nodes=4, tp=4), 4, (4, 4, 4, 1, 4)),
    (Asked(nodes=2, gpus_per_node=8, dp=2), None, (2, 8, 8, 1, 2)),
    (Asked(nodes=4, gpus_per_node=8, dp=2), None, (4, 8, 8, 2, 2)),
    (Asked(nodes=4, gpus_per_node=8, dp=2, pp=4), None, (4, 8, 4, 4, 2)),
    (Asked(nodes=1, gpus_per_node=8), None, (1, 8, 1, 1, 8)),
    (Asked(nodes=1, gpus_per_node=8, pp=2), None, (1, 8, 1, 2, 4)),
    (Asked(dp=4), None, (1, 4, 1, 1, 4)),
    (Asked(dp=4, tp=4), 8, (2, 8, 4, 1, 4)),
    (Asked(nodes=1, tp=3), 8, (1, 6, 3, 1, 2)),
    (Asked(nodes=2, gpus_per_node=4, tp=2, pp=2, dp=2), 4, (2, 4, 2, 2, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "capacity", "expected"), TABLE, ids=str)
def test_what_is_left_out_is_computed(asked: Asked, capacity: int | None, expected: tuple[int, ...]) -> None:
    layout, reasons = solve(asked, capacity)
    assert (layout.nodes, layout.procs_per_node, layout.tp, layout.pp, layout.dp) == expected
    computed = [name for name in OPTIONS if name != "attention_dp" and getattr(asked, name) is None]
    assert bool(reasons) == bool(computed), "what was computed has a reason, what was asked needs none"


REFUSED = [
    (Asked(nodes=3, tp=16), None, ["16", "3"]),
    (Asked(gpus_per_node=8), 4, ["--gpus-per-node 8", "4 GPUs"]),
    (Asked(nodes=1, tp=16), 8, ["16", "8"]),
    (Asked(nodes=2, gpus_per_node=8, tp=3), None, ["3", "8"]),
    (Asked(nodes=2, gpus_per_node=8, dp=3), None, ["16", "DP = 3"]),
    (Asked(nodes=1, gpus_per_node=8, dp=2, tp=3), None, ["4", "TP = 3"]),
    (Asked(nodes=1, gpus_per_node=8, dp=2, pp=3), None, ["4", "PP = 3"]),
    (Asked(nodes=1, gpus_per_node=8, tp=2, pp=2, dp=4), None, ["2 × 2 × 4", "8"]),
    (Asked(nodes=2, tp=8, dp=4), 8, ["32", "16 GPUs", "8"]),
    (Asked(tp=100_000, pp=100_000), 1, ["more than any machine has"]),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "capacity", "said"), REFUSED, ids=str)
def test_a_refusal_names_the_numbers_and_a_way_out(asked: Asked, capacity: int | None, said: list[str]) -> None:
    with pytest.raises(LayoutError) as caught:
        solve(asked, capacity)
    message = str(caught.value)
    assert all(part in message for part in said), message
    assert "\n" not in message
    assert proposals(message), message


@pytest.mark.parametrize(("nodes", "tp", "dp"), [(2, None, 2), (4, 2, 2), (1, None, 1)])
def test_nodes_alone_are_enough(nodes: int, tp: int | None, dp: int) -> None:
    layout, reasons = solve(Asked(nodes=nodes, tp=tp))
    assert (layout.procs_per_node, layout.dp) == (1, dp)
    assert reasons


def test_the_nearest_proposal_comes_first() -> None:
    with pytest.raises(LayoutError, match="try --nodes 4 or --tp"):
        solve(Asked(nodes=3, tp=16))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((2, 4, 3, None, 7), "--nodes 3 --dp 4 or --tp 2 --dp 4"),  # it was: --nodes 21 or --gpus-per-node 21
        ((2, 4, 3, None, None), "--tp 4 or --nodes 3"),
        ((1, 8, 4, None, 3), "--dp 2 or --nodes 3"),
        ((1, 8, 5, None, None), "--tp 4 or --nodes 5"),
        ((2, 8, None, None, 5), "--dp 4 or --nodes 5"),
        ((1, 7, 4, None, 2), "--gpus-per-node 8 or --nodes 8"),
        ((2, 4, 3, 5, 7), "--nodes 21 --pp 4 or --nodes 15 --dp 4"),
        ((None, None, 100_000, 100_000, None), "--pp 1024 without --tp or --tp 1024 without --pp"),
    ],
    ids=str,
)
def test_the_nearest_layout_is_near(asked: tuple[int | None, ...], said: str) -> None:
    with pytest.raises(LayoutError) as caught:
        solve(Asked(*asked))
    assert str(caught.value).endswith(f": try {said}")


def proposals(message: str) -> list[tuple[dict[str, int], list[str]]]:
    """The values, and the fields to leave out, of every '--opt N [--opt N | without --opt [and --opt]]' on offer."""
    fields = {option: name for name, option in OPTIONS.items()}
    tail = message.split(": try ")[1]
    found = []
    for offer in tail.split(" or "):
        match = re.fullmatch(r"(--[a-z-]+ \d+(?: --[a-z-]+ \d+)?)(?: without (.+))?", offer)
        assert match, f"{offer!r} in {message!r} is no proposal"
        values = {fields[option]: int(value) for option, value in re.findall(r"(--[a-z-]+) (\d+)", match[1])}
        found.append((values, [fields[o] for o in match[2].split(" and ")] if match[2] else []))
    return found


# What is refused is searched for a way out: the larger a number, the longer.
numbers = st.one_of(st.none(), st.integers(1, 20), st.sampled_from([24, 32, 48, 64]))
few = st.one_of(st.none(), st.none(), st.integers(1, 8))
wishes = st.builds(Asked, numbers, numbers, numbers, numbers, numbers, few, spreads=st.booleans())
capacities = st.one_of(st.none(), st.integers(1, 16))


@st.composite
def of_a_layout(draw: st.DrawFn) -> tuple[Asked, int | None]:
    """Some numbers of a layout, and the GPUs of a node that has as many: of these few are refused."""
    tp, pp, dp = draw(st.integers(1, 16)), draw(st.integers(1, 6)), draw(st.integers(1, 12))
    lanes = draw(st.sampled_from([1, 1, 2, 4, 8]))
    world = tp * pp * dp * lanes
    procs = draw(st.sampled_from([procs for procs in range(1, 17) if world % procs == 0]))
    gpus = draw(st.integers(procs, 16))
    given = (world // procs, gpus, tp, pp, dp, lanes)
    asked = Asked(*[draw(st.sampled_from([number, None])) for number in given], spreads=draw(st.booleans()))
    return asked, draw(st.one_of(st.none(), st.integers(gpus, 16)))


@given(wish=st.one_of(*[of_a_layout()] * 5, st.tuples(wishes, capacities)))
@settings(max_examples=300, deadline=None)
def test_every_layout_adds_up_and_respects_what_was_given(wish: tuple[Asked, int | None]) -> None:
    asked, capacity = wish
    try:
        layout, _ = solve(asked, capacity)
    except LayoutError:
        assume(False)
    assert layout.nodes * layout.procs_per_node == layout.replica_size * layout.dp == layout.world_size
    assert layout.attention_dp == 1 or asked.attention_dp or asked.spreads
    assert layout.procs_per_node <= layout.gpus_per_node
    assert capacity is None or layout.gpus_per_node <= capacity
    for name, value in msgspec.structs.asdict(asked).items():
        assert name == "spreads" or value is None or getattr(layout, name) == value, name


@given(asked=wishes, capacity=capacities)
@settings(max_examples=100, deadline=None)
def test_every_proposal_of_a_refusal_is_accepted(asked: Asked, capacity: int | None) -> None:
    try:
        solve(asked, capacity)
    except LayoutError as refused:
        message = str(refused)
    else:
        assume(False)
    for values, without in proposals(message):
        changed = msgspec.structs.replace(asked, **values, **dict.fromkeys(without))
        layout, _ = solve(changed, capacity)
        assert {name: getattr(layout, name) for name in values} == values


sizes = st.integers(1, 6)


@given(tp=sizes, pp=sizes, dp=sizes, lanes=sizes)
def test_place_is_a_bijection_with_tp_fastest(tp: int, pp: int, dp: int, lanes: int) -> None:
    world = tp * pp * dp * lanes
    layout = Layout(nodes=1, gpus_per_node=1024, procs_per_node=world, tp=tp, pp=pp, dp=dp, attention_dp=lanes)
    places = [layout.place(rank) for rank in range(world)]
    assert [(place.lane, place.pp, place.tp) for place in places] == list(
        product(range(dp * lanes), range(pp), range(tp))
    )
    assert [place.replica for place in places] == [lane // lanes for lane in range(dp * lanes) for _ in range(tp * pp)]
    assert [place.rank for place in places] == list(range(tp * pp * lanes)) * dp
    assert [place.lane_rank for place in places] == list(range(tp * pp)) * dp * lanes
    assert layout.lanes == dp * lanes


def test_plan_json_has_the_keys_that_people_script_against() -> None:
    layout, reasons = solve(Asked(nodes=2, tp=16))
    shown = Plan(layout=layout, engine={"dtype": "auto"}, reasons=tuple(reasons)).to_json()
    assert set(shown) == {
        "nodes", "gpus_per_node", "procs_per_node", "tp", "pp", "attention_dp", "dp", "world_size", "fits", "reasons",
        "memory", "engine", "kv_tokens", "concurrency", "order", "runners_up", "choices", "model", "cost",
    }  # fmt: skip
    assert set(shown["memory"]) == {"weights_gib", "kv_gib_per_gpu", "per_gpu_gib", "gpu_gib", "weights_gib_per_gpu"}
    assert (shown["world_size"], shown["fits"], shown["engine"]) == (16, None, {"dtype": "auto"})
