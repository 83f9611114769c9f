"""Who waits for whom, of ranks in made-up states: the odd one first, whatever the others do."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_hpc.jobfolder.debug_records import Collective, Frame, RankView
from vllm_hpc.jobfolder.judge_hang import judge, ranks_in_words

pytestmark = pytest.mark.programs

SCRIPT = "/home/u/myprog.py"
LOOP = "/x/lib/python3.11/site-packages/vllm_hpc/engine/loop/loop.py"


def view(rank: int, host: str = "node1", **more: Any) -> RankView:
    given = {"attempt": 1, "pid": 100 + rank, "source": "rank", "at": 5.0, "process": "S", **more}
    return RankView(rank=rank, host=host, **given)


def waits(rank: int, operation: str = "barrier", line: int = 31, host: str = "node1", **more: Any) -> RankView:
    """A rank in a collective that this line of a script has called."""
    inner = Frame("/x/site-packages/torch/distributed/distributed_c10d.py", 5356, operation)
    site = Frame(SCRIPT, line, "main")
    members, sequence = more.pop("members", ()), more.pop("sequence", None)
    at = Collective(operation=operation, site=site, group="0", members=members, sequence=sequence)
    return view(rank, host, stack=(inner, site), collective=at, **more)


def computes(rank: int, line: int = 40, host: str = "node1", **more: Any) -> RankView:
    return view(rank, host, stack=(Frame(SCRIPT, line, "compute"),), **more)


def test_a_rank_that_skips_a_barrier() -> None:
    found = judge([waits(0), computes(1, host="node2", process="R"), waits(2), waits(3)])
    assert (found.kind, found.odd) == ("elsewhere", (1,))
    assert found.lines == (
        "rank 1 (node2): is not in the barrier that ranks 0, 2, 3 wait in: at myprog.py:40 in compute",
        "ranks 0, 2, 3 wait in barrier (myprog.py:31 in main)",
    )


def test_two_ranks_of_which_one_waits() -> None:
    found = judge([computes(0), waits(1)])
    assert found.lines == (
        "rank 0 (node1): is not in the barrier that rank 1 waits in: at myprog.py:40 in compute",
        "rank 1 waits in barrier (myprog.py:31 in main)",
    )


def test_a_rank_of_another_group_is_not_the_one() -> None:
    """Rank 2 computes, too, but those who wait do not need it."""
    members = (0, 1)
    found = judge([waits(0, members=members), computes(1), computes(2, line=50), waits(3, members=(0, 3))])
    assert found.odd == (1,)


@pytest.mark.parametrize(
    ("process", "words"),
    [("T", "stopped by a signal (T), last seen at loop.py:120 in 'step'"), ("t", "held by a debugger (t), last seen")],
)
def test_a_rank_that_is_stopped(process: str, words: str) -> None:
    frame = Frame(LOOP.replace("/x/lib/python3.11/site-packages", "/checkout"), 120, "_step")
    stopped = view(1, "node2", source="agent", process=process, stack=(frame,), phase="step")
    found = judge([waits(0), stopped, waits(2), computes(3)])
    assert (found.kind, found.odd) == ("stopped", (1,))
    assert found.lines[0].startswith(f"rank 1 (node2): {words.replace('at loop.py:120', 'at loop.py:120 in _step')}")


def test_a_process_that_is_gone_comes_before_all_else() -> None:
    gone = view(2, source="agent", process="gone")
    found = judge([waits(0), view(1, source="agent", process="T"), gone])
    assert (found.kind, found.odd) == ("gone", (2,))
    assert found.lines[0] == "rank 2 (node1): its process (102) is gone: nothing is known of what it does"


def test_ranks_of_which_nothing_is_known() -> None:
    """It said "rank 0 is nothing is known of what it does"."""
    found = judge([view(0), view(1), view(2, source="agent", process="gone")])
    assert found.lines[1:] == ("nothing is known of what ranks 0, 1 do",)


def test_a_rank_that_has_ended_while_others_wait() -> None:
    found = judge([waits(0), view(1, source="records", outcome="ok"), waits(2)])
    assert found.lines == (
        "rank 1 (node1): has ended, and others wait for it",
        "ranks 0, 2 wait in barrier (myprog.py:31 in main)",
    )


def test_a_rank_that_has_ended_before_the_others_is_not_odd() -> None:
    assert judge([computes(0), view(1, outcome="ok"), waits(2, members=(0, 2))]).odd == (0,)


def test_a_rank_of_which_nobody_knows() -> None:
    found = judge([waits(0), view(1, "node2", source="records", silent_s=42.0), waits(2)])
    assert (found.kind, found.odd) == ("silent", (1,))
    assert found.lines[0].startswith(
        "rank 1 (node2): does not answer, nor does its node; its last sign of life is 42 s"
    )


def test_a_rank_that_waits_for_a_disk() -> None:
    found = judge([waits(0), computes(1, process="D", waits_in="nfs_wait")])
    assert found.lines[0] == (
        "rank 1 (node1): waits for a disk, a file system or a device (D, nfs_wait) at myprog.py:40 in compute"
    )


def test_a_library_that_holds_the_interpreter() -> None:
    found = judge([waits(0), computes(1, source="neighbour", process="R")])
    assert found.kind == "locked"
    assert found.lines[0].endswith("its Python does not (a library holds the interpreter) at myprog.py:40 in compute")


def test_two_nodes_that_do_not_reach_each_other() -> None:
    """All wait in the same collective; of the two nodes it is the one without rank 0."""
    found = judge([waits(0, address="10.0.0.1"), waits(1, host="node2", address="10.0.0.2", unreached=("10.0.0.1",))])
    assert (found.kind, found.odd) == ("cut", (1,))
    assert found.lines[0] == (
        "rank 1 (node2): cut off: node2 and node1 do not reach each other: waits in barrier (myprog.py:31 in main)"
    )


def test_a_node_that_no_other_reaches() -> None:
    one, two, three = "10.0.0.1", "10.0.0.2", "10.0.0.3"
    found = judge(
        [
            waits(0, address=one, unreached=(two,)),
            waits(1, host="node2", address=two),
            waits(2, host="node3", address=three, unreached=(two,)),
        ]
    )
    assert found.odd == (1,)
    assert "cut off: node2 and node1, node3 do not reach each other" in found.lines[0]


def test_the_head_that_no_other_reaches() -> None:
    one, two, three = "10.0.0.1", "10.0.0.2", "10.0.0.3"
    found = judge(
        [
            waits(0, address=one),
            waits(1, host="node2", address=two, unreached=(one,)),
            waits(2, host="node3", address=three, unreached=(one,)),
        ]
    )
    assert found.odd == (0,)


def test_a_rank_that_is_a_collective_behind() -> None:
    """All are in all_reduce, at the same line of a loop."""
    members = (0, 1, 2)
    found = judge([waits(n, "all_reduce", members=members, sequence=18 - (n == 2)) for n in members])
    assert (found.kind, found.odd) == ("behind", (2,))
    assert found.lines[0].startswith("rank 2 (node1): is at an earlier collective (17 of its group, others at 18)")


def test_a_rank_in_another_collective() -> None:
    found = judge([waits(0), waits(1), waits(2, "all_reduce", line=35), waits(3)])
    assert found.lines == (
        "rank 2 (node1): waits in all_reduce (myprog.py:35 in main)",
        "ranks 0, 1, 3 wait in barrier (myprog.py:31 in main)",
    )


def test_a_rank_whose_file_system_hangs_while_the_others_agree() -> None:
    loop = Frame("/checkout/vllm_hpc/engine/loop/loop.py", 174, "_ask")
    agrees = Collective(operation="broadcast", site=Frame(loop.file, 198, "_hear"))
    found = judge(
        [
            view(0, phase="claim rows", stack=(loop,)),
            view(1, phase="wait for the replica's other ranks", collective=agrees),
        ]
    )
    assert found.odd == (0,)
    assert found.lines[0].endswith("that rank 1 waits in: at loop.py:174 in _ask, in 'claim rows'")


@pytest.mark.parametrize("number", [1, 2, 4])
def test_ranks_that_all_wait_in_the_same_collective(number: int) -> None:
    found = judge([waits(rank, members=tuple(range(number)), sequence=3) for rank in range(number)])
    assert (found.kind, found.odd) == ("", ())
    assert "barrier (myprog.py:31 in main, collective 3)" in found.lines[0]
    assert ("no rank is odd" in found.lines[0]) == (number > 1)


def test_ranks_at_as_many_places_as_there_are_ranks() -> None:
    found = judge([computes(0, 1), computes(1, 2), computes(2, 3)])
    assert found.odd == ()
    assert len(found.lines) == 3


def test_a_replica_that_gets_on_is_left_alone() -> None:
    """Its ranks wait for each other, too, for moments."""
    found = judge(
        [
            waits(0, members=(0, 1), still_s=900.0),
            computes(1),
            computes(2, line=50),
            waits(3, members=(2, 3), still_s=0.0),
        ]
    )
    assert found.odd == (1,)


def test_two_ranks_at_two_places_are_not_judged() -> None:
    assert judge([computes(0, 1), computes(1, 2)]).odd == ()
    found = judge([waits(0), waits(1, "all_reduce", line=35)])
    assert found.odd == ()
    assert found.lines == (
        "ranks wait in different collectives",
        "rank 0 waits in barrier (myprog.py:31 in main)",
        "rank 1 waits in all_reduce (myprog.py:35 in main)",
    )


def test_a_users_line_is_named_below_vllms() -> None:
    deep = (
        Frame("/x/site-packages/torch/_ops.py", 1, "__call__"),
        Frame("/x/site-packages/vllm/distributed/parallel_state.py", 500, "all_reduce"),
        Frame("/x/site-packages/vllm/model_executor/layers/linear.py", 120, "forward"),
        Frame(SCRIPT, 12, "<module>"),
    )
    found = judge([view(0, stack=deep, collective=Collective(operation="all_reduce", site=deep[2])), computes(1)])
    assert found.lines[1] == (
        "rank 0 waits in all_reduce (vllm/model_executor/layers/linear.py:120 in forward, called by myprog.py:12)"
    )


def test_thousands_of_ranks_make_a_few_lines() -> None:
    views = [waits(n, host=f"node{n // 8}") for n in range(4096)]
    views[77] = computes(77, host="node9")
    found = judge(views)
    assert found.odd == (77,)
    assert len(found.lines) == 2
    assert max(map(len, found.lines)) < 200
    many = judge([computes(n) if n % 3 == 0 else waits(n) for n in range(4096)])
    assert len(many.lines) < 20


def test_no_rank_at_all() -> None:
    assert judge([]).lines == ("nothing is known of any rank",)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [([3], "rank 3"), ([0, 2, 3], "ranks 0, 2, 3"), ([5, 0, 2, 3, 4, 4], "ranks 0, 2-5"), ([0, 1], "ranks 0, 1")],
)
def test_ranks_in_words(ranks: list[int], words: str) -> None:
    assert ranks_in_words(ranks) == words
