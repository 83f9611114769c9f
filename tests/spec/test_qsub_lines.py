"""The order of #PBS lines: the user's before the profile's before the template's, and one -v with all variables."""

from __future__ import annotations

import msgspec
import pytest

from tests.schedulers.test_script import CONTEXT
from vllm_hpc.schedulers.script import render_script
from vllm_hpc.spec.qsub_lines import merge_variables, other_lines, resource_lines

pytestmark = pytest.mark.admins


@pytest.mark.parametrize(
    ("lines", "first", "last"),
    [
        ([], [], []),
        (["-m abe -M a@b.org"], [], ["-m abe -M a@b.org"]),  # as it was written
        (["-l filesystems=home"], ["-l filesystems=home"], []),
        (["-lfilesystems=home"], ["-l filesystems=home"], []),
        (["-l a=1", "-l a=2"], ["-l a=2", "-l a=1"], []),  # the profile's, the user's
        (["-l a=1 -l a=2"], ["-l a=1", "-l a=2"], []),
        (["-l a=1,b=2 -m abe"], ["-l a=1,b=2"], ["-m abe"]),
        (["-hl a=1"], ["-l a=1"], ["-h"]),
        (["-l 'a=b c'"], ["-l 'a=b c'"], []),
        (["-A 'a b' -l a=1"], ["-l a=1"], ["-A 'a b'"]),
        (["-v A=1"], [], ["-v A=1"]),
        (["-v A=1", "-v B=2"], [], ["-v A=1,B=2"]),
        (["-v A=1 -h", "-vA=2,B=3"], [], ["-h", "-v A=2,B=3"]),
        (["-v A", "-v B="], [], ["-v A,B="]),
        (["-W depend=afterok:1", "-W group_list=x"], [], ["-W depend=afterok:1", "-W group_list=x"]),
    ],
)
def test_lines_are_parted(lines: list[str], first: list[str], last: list[str]) -> None:
    assert (resource_lines(lines), other_lines(lines)) == (first, last)


def test_each_stands_where_it_wins() -> None:
    context = msgspec.structs.replace(
        CONTEXT, resources=("filesystems=all",), partition="small",
        directives=("-l filesystems=home -q medium -v A=1", "-l filesystems=eagle", "-q big -v B=2"),
    )  # fmt: skip
    lines = [line[5:] for line in render_script("pbs.sh.j2", context).splitlines() if line.startswith("#PBS")]
    named = [line for line in lines if line.startswith(("-l filesystems", "-q", "-v"))]
    assert named == [
        "-l filesystems=eagle", "-l filesystems=home", "-l filesystems=all", "-q small", "-q medium", "-q big",
        "-v A=1,B=2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "merged"),
    [
        ("#PBS -v A=1\n", "#PBS -v A=1\n"),
        ("#PBS -v A=1\n#PBS -N x\n#PBS -v A=2,B=3\n", "#PBS -N x\n#PBS -v A=2,B=3\n"),
        ("#PBS -v A=1 -h\n\n# -v\n#PBS   -v C\n", "#PBS -h\n\n# -v\n#PBS -v A=1,C\n"),
        ('#PBS -v A="b,c"\n#PBS -v D=e\n', "#PBS -v A=b,c,D=e\n"),  # qsub takes the quotes off, too
        ("#PBS -v 'A=b\\,B'\n#PBS -v B=2\n", "#PBS -v 'A=b\\,B,B=2'\n"),
        ("#PBS -v 'A=\"b,B\",C=1'\n#PBS -v B=2\n", "#PBS -v 'A=\"b,B\",C=1,B=2'\n"),
        ("#PBS -v 'A=1,,B='\n#PBS -v 'C=,'\n", "#PBS -v A=1,B=,C=\n"),  # qsub refuses ,,
        ("#PBS -v A=1\necho\n#PBS -v B=2\n", "#PBS -v A=1\necho\n#PBS -v B=2\n"),  # behind a command it is a comment
        ("#PBS -v A='b\n#PBS -v B=2\n", "#PBS -v A='b\n#PBS -v B=2\n"),  # qsub says what is wrong
        ("", ""),
    ],
)
def test_a_templates_variables_are_merged_with_the_users(header: str, merged: str) -> None:
    assert merge_variables(f"#!/bin/bash\n{header}true\n") == f"#!/bin/bash\n{merged}true\n"
