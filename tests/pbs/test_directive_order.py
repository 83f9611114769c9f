"""Which of several #PBS lines counts: spec/qsub_lines.py builds on it, so PBS itself, and the stand-in, are asked."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.admins, pytest.mark.pbs, pytest.mark.usefixtures("pbs")]


def qsub(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    script = folder / "job.sh"
    script.write_text("".join(f"{line}\n" for line in ("#!/bin/bash", "#PBS -h", *(f"#PBS {one}" for one in lines))))
    return subprocess.run(["qsub", script], capture_output=True, text=True, timeout=60, cwd=folder)


def kept(folder: Path, *lines: str) -> dict[str, Any]:
    """What PBS keeps of a script's lines."""
    done = qsub(folder, *lines)
    assert done.returncode == 0, done.stderr
    job_id = done.stdout.strip()
    said = subprocess.run(["qstat", "-f", "-F", "json", job_id], capture_output=True, text=True, check=True)
    subprocess.run(["qdel", job_id], check=True)
    fields: dict[str, Any] = json.loads(said.stdout)["Jobs"][job_id]
    return fields


def test_of_two_resources_the_first_counts(tmp_path: Path) -> None:
    two = kept(tmp_path, "-l cput=1:00:00,mem=1gb", "-l mem=2gb -l cput=2:00:00", "-l cput=3:00:00")["Resource_List"]
    assert (two["cput"].lstrip("0"), two["mem"]) == ("1:00:00", "1gb")
    one = kept(tmp_path, "-l select=2:ncpus=1,cput=1:00:00,cput=2:00:00", "-l select=1", "-l place=scatter:excl")
    asked = one["Resource_List"]
    assert (asked["select"], asked["place"], asked["cput"].lstrip("0")) == ("2:ncpus=1", "scatter:excl", "1:00:00")


def test_of_two_of_any_other_option_the_last_counts(tmp_path: Path) -> None:
    one = kept(
        tmp_path, "-N one -v A=1,B=1 -W umask=077,sandbox=HOME -k doe -a 203001010000",
        "-N two -v B=2,C=2 -W umask=022 -k oe -a 203112312359",
    )  # fmt: skip
    assert (one["Job_Name"], one["Keep_Files"], str(one["umask"]).lstrip("0"), one["sandbox"]) == (
        "two", "oe", "22", "HOME"
    )  # fmt: skip
    assert "2031" in one["Execution_Time"]
    variables = {name: str(one["Variable_List"].get(name)) for name in "ABC"}
    assert variables == {"A": "None", "B": "2", "C": "2"}


def test_where_a_variable_ends(tmp_path: Path) -> None:
    given = r"""A='b,c',B="d,e",C=f\,g,D=h i,E=1,E=2,F=j=k, G=2,H=3,"""
    found = kept(tmp_path, f"-v {shlex.quote(given)}")["Variable_List"]
    assert {name: str(found[name]) for name in "ABCDEFGH"} == {
        "A": "b,c", "B": "d,e", "C": "f,g", "D": "h i", "E": "2", "F": "j=k", "G": "2", "H": "3",
    }  # fmt: skip


def test_totals_are_one_chunk_on_one_host(tmp_path: Path) -> None:
    """Without a hook of the site, such as Gadi's: so a job of several nodes is not to ask with them."""
    asked = kept(tmp_path, "-l ncpus=16", "-l ngpus=8", "-l mem=4gb")["Resource_List"]
    assert (asked["select"], asked["place"]) == ("1:mem=4gb:ncpus=16:ngpus=8", "pack")
    asked = kept(tmp_path, "-l nodes=2:ppn=2")["Resource_List"]
    assert (asked["select"], asked["place"]) == ("2:ncpus=2:mpiprocs=2", "scatter")


REFUSED = [
    (["-l place=scatter"], 7, 'Cannot have "place" without "select"'),
    (["-l select=1:ncpus=1", "-l mem=1gb"], 5, 'cannot be used with "select" or "place", resource is: mem'),
    (["-l nodes=2:ppn=2", "-l select=1"], 6, "Cannot be used with select or place: nodes"),
    (["-l nodes=2:ppn=2:gpus=1"], 241, "node(s) specification error"),
    (["-v NOT_SET_ANYWHERE"], 1, "cannot send environment with the job"),
    (["""-v "A=it's" """], 1, "cannot send environment with the job"),
    (["-v A=1,,B=2"], 1, "cannot send environment with the job"),
    (["-W nosuch=1"], 154, ""),  # the words may be those of the refusal before
    (["-N a b"], 1, "directive error"),
    (["-Y"], 1, "directive error: -Y"),
]


def test_what_qsub_refuses(tmp_path: Path) -> None:
    for lines, code, words in REFUSED:
        done = qsub(tmp_path, *lines)
        assert done.returncode == code, done
        assert words in done.stderr
