"""What qstat prints where PBS keeps no history, where its JSON is not JSON, and in its plain form.

Recorded on OpenPBS 23.06.06 (its main branch, cd7ab5e), as files in tests/pbs/recorded, or quoted from the issues of
openpbs/openpbs.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.client import Answer, ClientError, ClientTimeoutError, call_client, said_beside
from vllm_hpc.schedulers.pbs import SCHEDULER, query
from vllm_hpc.schedulers.pbs.qstat import parse_plain, parse_qstat, plain_fields
from vllm_hpc.schedulers.scheduler import JobState

pytestmark = pytest.mark.inputs
RECORDED = Path(__file__).parents[1] / "pbs" / "recorded"
FOLDER = JobFolder("job")


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


def without_history(argv: list[str], described: str) -> Answer:
    """A server whose job_history_enable is not set: with -x, exit code 0 and a word on stderr."""
    answer = Answer(recorded("no_history.json") if "-x" in argv else described)
    answer.err = f"qstat: PBS is not configured to maintain job history {argv[-1]}\n" if "-x" in argv else ""
    return answer


def unknown_job(argv: list[str]) -> ClientError:
    error = ClientError(f"qstat refused: Unknown Job Id {argv[-1]}")
    error.code = 153
    return error


# -- without a history -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("described", "job_id", "phase", "reason"),
    [
        ("no_history_running.json", "0.pbshead", "running", ""),
        ("held.json", "4.pbshead", "waiting", "waits: held: 'qrls ID' releases it"),
        ("impossible.json", "6.pbshead", "waiting", "cannot start as requested"),
        ("deleting.json", "10.pbshead", "running", ""),
    ],
)
def test_without_history_a_job_is_asked_for_as_one_that_lives(
    described: str, job_id: str, phase: str, reason: str
) -> None:
    asked: list[list[str]] = []

    def ask(argv: list[str]) -> str:
        asked.append(argv)
        return without_history(argv, recorded(described))

    seen = query(FOLDER, job_id, (), ask)[job_id]
    assert seen.phase == phase
    assert reason in seen.reason
    assert asked == [["qstat", "-x", "-f", "-F", "json", "--", job_id], ["qstat", "-f", "-F", "json", "--", job_id]]


def test_without_history_an_array_is_asked_for_by_its_tasks() -> None:
    tasks = ["2[].pbshead_0", "2[].pbshead_1"]
    found = query(FOLDER, "2[].pbshead", tasks, lambda argv: without_history(argv, recorded("no_history_array.json")))
    assert {found[task].phase for task in tasks} == {"waiting"}


def test_without_history_a_job_that_has_ended_is_forgotten() -> None:
    def ask(argv: list[str]) -> str:
        if "-x" not in argv:
            raise unknown_job(argv)
        return without_history(argv, "")

    assert query(FOLDER, "1.pbshead", (), ask)["1.pbshead"].phase == "forgotten"
    assert SCHEDULER.forgotten_has_ended("1.pbshead")
    assert not SCHEDULER.forgotten_has_ended("1"), "another server may have been asked"


def test_a_server_that_goes_down_between_the_two_questions_is_not_known_to_have_forgotten() -> None:
    def ask(argv: list[str]) -> str:
        if "-x" not in argv:
            raise ClientTimeoutError("qstat did not answer within 15 s: is the controller up?")
        return without_history(argv, "")

    assert query(FOLDER, "1.pbshead", (), ask)["1.pbshead"].phase == "unknown"


def test_what_a_client_says_beside_its_answer_is_kept() -> None:
    answer = call_client(["sh", "-c", "echo out; echo beside >&2"])
    assert (answer, said_beside(answer)) == ("out\n", "beside\n")
    assert said_beside("out\n") == ""


# -- JSON that no parser takes ---------------------------------------------------------------------------------------

# Values as PBS before 20.0 wrote them: of Variable_List, of a comment, of any field (openpbs/openpbs#1255, #2049,
# #2603, #830; argonne-lcf/balsam#324; datasnakes/OrthoEvolution#159).
BROKEN = [
    '"MYVAR":"\\\'\\"asads\\"\\\'"',
    '"MYVAR2":"/home/pbstest01/Mo\\\\\\\'"',
    '"MYVAR2":"ab\\,c"',
    '"foo":005',
    '"FOO1":.123',
    '"FOO2":123.',
    '"FOO3":00',
    '"FOO4":-00',
    '"FOO5":00.123',
    '"FOO6":-00.123',
    '"PBS_O_WORKDIR":"/ddn/mg404c\\,try4"',
    '"PATH":"C:\\opt\\bin"',
    '"note":"/reboot "zaskly scratch" (Sep 04)"',
    '"hex":0x1F',
    '"inf":1e',
    '"nothing":',
    '"job_state":"F\\,"',
    '"two":"a\\\nb"',
    '"bell":"\x07\\,"',
    '"plus":+5',
]


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("layout", ["running.json", "no_history_running.json"])
def test_a_value_that_is_no_json_does_not_hide_how_the_job_is(layout: str, value: str) -> None:
    """In the layout of the release, and in that of its main branch. What is in Variable_List is no field of the job."""
    text = recorded(layout)
    broken = re.sub(r'(\n\s*)("PBS_O_HOME")', lambda match: f"{match[1]}{value},{match[1]}{match[2]}", text)
    assert broken != text
    (seen,) = parse_qstat(broken).values()
    assert seen == JobState("running")


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("finished.json", "completed"),
        ("failed.json", "failed"),
        ("timeout.json", "timeout"),
        ("deleted_running.json", "cancelled"),
        ("deleted_queued.json", "cancelled"),
        ("held.json", "waiting"),
        ("depend.json", "waiting"),
        ("waiting_time.json", "waiting"),
        ("impossible.json", "waiting"),
        ("deleting.json", "running"),
    ],
)
def test_it_is_read_as_the_json_that_it_should_be(name: str, phase: str) -> None:
    text = recorded(name)
    broken = text.replace('"PBS_O_HOME":', '"A":005,\n                "PBS_O_HOME":')
    assert broken != text
    assert parse_qstat(broken) == parse_qstat(text)
    assert {seen.phase for seen in parse_qstat(broken).values()} == {phase}


def test_several_jobs_whose_braces_do_not_match_are_all_read() -> None:
    """As before openpbs/openpbs#585: "Jobs" before each, and one closing brace too few."""
    one, two = recorded("running.json"), recorded("held.json")
    both = one[: one.rindex("}")] + two[two.index('"Jobs"') :]
    assert {name: seen.phase for name, seen in parse_qstat(both).items()} == {
        "37.pbshead": "running", "4.pbshead": "waiting",
    }  # fmt: skip


def test_a_value_that_looks_like_a_field_is_none() -> None:
    forged = 'x\n    "Jobs":{\n        "37.pbshead":{\n            "job_state":"F"'
    text = recorded("running.json").replace('"PBS_O_HOME":"/home/ada"', f'"PBS_O_HOME":"{forged}\\,"')
    assert parse_qstat(text)["37.pbshead"].phase == "running", "the first of two counts"


# -- the plain form --------------------------------------------------------------------------------------------------


def test_the_plain_form_is_read() -> None:
    fields = plain_fields(recorded("plain_running.txt"))["0.pbshead"]
    assert fields["comment"] == "Job run at Mon Nov 30 at 06:30 on (pbsn1:ncpus=1) and terminated by ada@pbshead"
    assert fields["Output_Path"] == "pbshead:/home/ada/rec.o0"
    assert parse_plain(recorded("plain_running.txt")) == {"0.pbshead": JobState("running")}


@pytest.mark.parametrize(
    ("lines", "phase"),
    [
        ("    job_state = F\n    Exit_status = 0", "completed"),
        ("    job_state = F\n    Exit_status = 271", "cancelled"),
        ("    job_state = F\n    Exit_status = -29", "timeout"),
        ("    job_state = F\n    comment = Job deleted", "cancelled"),
        ("    job_state = F\n    Exit_status = often", "unknown"),
        ("    job_state = H\n    Hold_Types = u", "waiting"),
        ("    Variable_List = A=x,\n\tjob_state = F\n    job_state = R", "running"),
        ("    Resource_List.job_state = F\n    job_state = R", "running"),
        ("    job_state = R\n    job_state = F", "running"),
        ("", "unknown"),
    ],
)
def test_fields_of_the_plain_form(lines: str, phase: str) -> None:
    assert parse_plain(f"Job Id: 1.a\n{lines}\n\n")["1.a"].phase == phase


@pytest.mark.parametrize("json", ['{"Jobs":{"0.pbshead":{"job_state":"R","foo":005}}}', "qstat: all is well", ""])
def test_where_no_line_of_it_can_be_read_pbs_is_asked_for_the_plain_form(json: str) -> None:
    asked: list[list[str]] = []

    def ask(argv: list[str]) -> str:
        asked.append(argv)
        return json if "json" in argv else recorded("plain_running.txt")

    assert query(FOLDER, "0.pbshead", (), ask)["0.pbshead"] == JobState("running")
    assert asked[1] == ["qstat", "-x", "-f", "--", "0.pbshead"]


def test_an_answer_that_says_nothing_in_any_form_is_unknown_and_says_so() -> None:
    seen = query(FOLDER, "0.pbshead", (), lambda argv: "Welcome to the cluster")["0.pbshead"]
    assert seen == JobState("unknown", "qstat's answer is not JSON")


# -- ids -------------------------------------------------------------------------------------------------------------

# What a site's qsub printed -> the id. After spotify/luigi#2098, yarden/MISO#105, broadinstitute/cromwell#181 (banners
# before it, and in words), nextflow-io/nextflow#96 (ids with and without a domain).
PRINTED = {
    "4711\n": "4711",
    "4711.1.pbs\n": "4711.1.pbs",
    "4711[].1.pbs\n": "4711[].1.pbs",
    "4711.head\nYour balance is 2.50 hours of 20000, until 2027.\n": "4711.head",
    "2024\n4711.head\n": "4711.head",
    "4711.head\n2024\n": "4711.head",
    "4711.head\r\n": "4711.head",
    "  4711.head  \n": "4711.head",
    "12.old\n4711.head\n": "4711.head",
    "Your job 4711.head has been submitted.\n": "4711.head",
    "submitted 4711.head.\n": "4711.head",
    "<4711.head>\n": "4711.head",
    "1584224.biocluster.igb.illinois.edu\n": "1584224.biocluster.igb.illinois.edu",
    'A nonsense line about LD_LIBRARY_PATH\nYour job 260032 ("name") has been submitted\n': "260032",
    "JSV: No h_data is set; setting default h_data=1G\nYour job 260032 (x)\n": "260032",
    "job id: 4711[]\n": "4711[]",
    "4711\nYou have 20000 core hours left\n": "4711",
    "PBS 19.2.8 is here\n77[].srv\n": "77[].srv",
    "10.0.0.1 is down\n5.s1\n": "5.s1",
    "3.x:15001\n": "3.x:15001",
}


@pytest.mark.parametrize("printed", PRINTED)
def test_the_id_is_the_last_word_that_is_one(printed: str) -> None:
    match = SCHEDULER.id_pattern.search(printed)
    assert match is not None
    assert match[1] == PRINTED[printed]


@pytest.mark.parametrize("printed", ["", "submitted\n", "used 2.50h of 3.5GB\n", "quota: 20000\n", "v1.2 of 2024-01\n"])
def test_what_is_no_id_is_not_taken_for_one(printed: str) -> None:
    assert SCHEDULER.id_pattern.search(printed) is None


@pytest.mark.parametrize(
    ("job_id", "tasks"), [("37", ["37"]), ("9[]", ["9[]_0", "9[]_1", "9[]_2", "9[]_3"])], ids=["job", "array"]
)
def test_a_job_is_found_by_an_id_without_its_server(job_id: str, tasks: list[str]) -> None:
    text = recorded("array_running.json" if "[" in job_id else "running.json")
    found = query(FOLDER, job_id, tasks, lambda argv: text)
    assert {found[task].phase for task in tasks} <= {"running", "waiting"}
