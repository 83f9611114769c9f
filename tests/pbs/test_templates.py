"""A site's template and the user's directives on PBS: of -l the user's comes first, of all else last; one -v."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.real_jobs import submit_long

pytestmark = [pytest.mark.admins, pytest.mark.pbs, pytest.mark.ranks]

SITE = """{% extends "pbs.sh.j2" %}
{% block directives %}{{ super() }}#PBS -l cput=1:00:00
#PBS -v SITE=template,BOTH=template
#PBS -a 203001010000
{% endblock %}
"""


def test_the_users_directive_wins(tmp_path: Path, pbs: list[str]) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "pbs.sh.j2").write_text(SITE)
    given = ["-l cput=2:00:00 -v BOTH=user", "-v USERS=own", "-a 203112312359"]
    job = submit_long(
        None,
        tmp_path,
        scheduler="pbs",
        nodes=2,
        template_dir=str(tmp_path / "templates"),
        directive=given,
        max_requeues=3,
    )
    said = subprocess.run(["qstat", "-f", "-F", "json", str(job.job_id)], capture_output=True, text=True, check=True)
    (fields,) = json.loads(said.stdout)["Jobs"].values()
    job.cancel()
    assert re.fullmatch("0?2:00:00", fields["Resource_List"]["cput"])
    named = {name: fields["Variable_List"].get(name) for name in ("SITE", "BOTH", "USERS")}
    assert named == {"SITE": "template", "BOTH": "user", "USERS": "own"}
    assert "2031" in fields["Execution_Time"]
    assert (fields["job_state"], fields["Resource_List"]["place"]) == ("W", "scatter")
    assert fields["Resource_List"]["select"].startswith("2:")
