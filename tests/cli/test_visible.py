"""What reaches a terminal: no escape sequence of a scheduler, a rank, a file's name or a row."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.crafted import make_job
from vllm_hpc.cli.console import make_console
from vllm_hpc.cli.output import print_json, print_raw, say
from vllm_hpc.cli.visible import visible, visible_json, visible_log
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted

pytestmark = pytest.mark.trust

# Moves the cursor, writes the clipboard, is a bell, a return, a C1's CSI, and turns what follows.
HOSTILE = "a\x1b[2J\x1b]52;c;cm0=\x07\r\x9b31m\x7f\u202eb\u2066\u200f"
CONTROLS = [*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *"\u061c\u200e\u200f\u202a\u202e\u2066\u2069\u2028"]


def is_clean(text: str) -> bool:
    return not [one for one in CONTROLS if one in text and one not in "\n\t"]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda one: f"{ord(one):04x}")
def test_control_is_replaced(control: str) -> None:
    assert visible(f"a{control}b") == (f"a{control}b" if control in "\n\t" else "a\ufffdb")


def test_text_of_all_scripts_is_left() -> None:
    text = "é 日本語 العربية עברית 🙂 \u200d ‍nbsp\u00a0 a\tb\n"
    assert visible(text) == text == visible_log(text)


def test_log_is_shown_without_colours_and_with_lines() -> None:
    log = "\x1b[1;36m(EngineCore pid=1)\x1b[0;0m up\r\n 10%\r 20%\r 30%\n\x1b]0;title\x07"
    assert visible_log(log) == "(EngineCore pid=1) up\n 10%\n 20%\n 30%\n\ufffd]0;title\ufffd"


def test_json_is_escaped_and_the_same() -> None:
    record = {"reason": HOSTILE, HOSTILE: [HOSTILE]}
    shown = visible_json(json.dumps(record, ensure_ascii=False).encode()).decode()
    assert is_clean(shown)
    assert json.loads(shown) == record


def test_console_shows_its_own_colours_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    stream = io.StringIO()
    console = make_console(file=stream, force_terminal=True, color_system="standard", width=100, legacy_windows=False)
    table = Table(box=None)
    table.add_column(HOSTILE)
    table.add_row(Text(HOSTILE, style="red"))
    console.print(table)
    console.print(Text(HOSTILE))
    console.print(HOSTILE, markup=False)
    assert "\x1b[31m" in stream.getvalue(), "rich's own"
    assert is_clean(stream.getvalue().replace("\x1b[31m", "").replace("\x1b[1m", "").replace("\x1b[0m", ""))


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.TextIOWrapper])
def test_log_is_raw_only_where_no_terminal_reads_it(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.TextIOWrapper]
) -> None:
    out = stream(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    print_raw(HOSTILE)
    say(HOSTILE)
    print_json({"a": HOSTILE})
    written = out.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert is_clean(written) == (stream is Terminal)
    assert is_clean(written.removeprefix(HOSTILE))


@pytest.mark.parametrize("command", ["status", "list", "logs", "collect", "cancel", "resume"])
def test_reasons_logs_and_names_of_a_job(desk: Path, run_cli: Cli, command: str) -> None:
    job = make_job(desk / "runs" / f"job{HOSTILE[:1]}")
    (job.path / "logs").mkdir(exist_ok=True)
    job.rank_log(0).write_text(f"Traceback (most recent call last):\nValueError: {HOSTILE}\n")
    words = [] if command == "list" else [str(job.path)]
    done = run_cli(command, *words)
    assert is_clean(done.err)
    assert is_clean(done.out)


@pytest.mark.parametrize(
    "words",
    [("submit", HOSTILE), ("status", HOSTILE), ("submit", "model", "--nodes", HOSTILE), (HOSTILE,),
     ("plan", f"--{HOSTILE}"), ("submit", "model", "--input", HOSTILE),
     ("plan", "model", "--profile", HOSTILE), ("list", "--job-dir", HOSTILE)],
    ids=["model", "job", "number", "command", "option", "input", "profile", "job-dir"],
)  # fmt: skip
def test_words_of_the_command_line(desk: Path, model: Path, run_cli: Cli, words: tuple[str, ...]) -> None:
    done = run_cli(*words)
    assert is_clean(done.out + done.err)


@pytest.mark.parametrize(
    "words",
    [("--input", "rows.jsonl", "--rename", f"{HOSTILE}=prompt"), ("--input", "rows.jsonl", "--rename", HOSTILE),
     ("--input", "rows.jsonl", "--prompt-column", HOSTILE), ("--input", "rows.jsonl", "--prompt-template", HOSTILE),
     ("--input", "rows.jsonl"), ("--input", f"bad{HOSTILE}.jsonl"), ("--profile", "no"), ("--lora", HOSTILE),
     ("--sampling", f"{HOSTILE}=1"), ("--engine", f"{HOSTILE}=1"), ("--env", f"{HOSTILE}=1"), (HOSTILE, HOSTILE),
     ("--time", HOSTILE), ("--gpu", HOSTILE), ("--template-dir", HOSTILE), ("--launcher", HOSTILE)],
    ids=range(16),
)  # fmt: skip
def test_names_that_errors_and_advice_repeat(desk: Path, model: Path, run_cli: Cli, words: tuple[str, ...]) -> None:
    (desk / "vllm-hpc.toml").write_text('[profiles."a\\u001b[2J\\u009b1m"]\n')
    row = {"prompt": "a", "other": "b", f"x{HOSTILE}": "c", "sampling": {f"temperatur{HOSTILE}": 1}}
    (desk / "rows.jsonl").write_text(json.dumps(row) + "\n{}\n")
    (desk / f"bad{HOSTILE}.jsonl").write_text("{")
    done = run_cli("plan", "model", *words)
    assert is_clean(done.out + done.err), repr(done.err)


def test_what_libraries_say(desk: Path) -> None:
    """They write to stderr by themselves: Python's warnings, logging, and whoever prints."""
    program = f"""
import logging, sys, warnings
import vllm_hpc.jobs.find
from vllm_hpc.cli import main

def list_statuses(*given):
    warnings.warn({HOSTILE!r})
    logging.warning({HOSTILE!r})
    print({HOSTILE!r}, file=sys.stderr)
    return []

vllm_hpc.jobs.find.list_statuses = list_statuses
sys.argv = ["vllm-hpc", "list"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=desk, capture_output=True, check=True)
    said = done.stderr.decode()
    assert is_clean(said), said
    assert said.count("]52;c;cm0=") == 3


def test_names_are_no_markup(desk: Path, run_cli: Cli) -> None:
    """rich's, which could hide a name, or end a command with its own error."""
    job = make_job(desk / "runs" / "a[red]b[", scheduler="local")
    write_json(job.submitted, Submitted("local", "[bold]7-1000[/x]:smile:", 0.0))
    for words in (["status", str(job.path)], ["list"]):
        done = run_cli(*words)
        assert (done.code, done.err) == (0, "")
        assert "[bold]7-1000[/x]:smile:" in done.out
        assert "a[red]b[" in done.out


def test_hostile_profile_and_folder(desk: Path, model: Path, run_cli: Cli) -> None:
    (desk / "vllm-hpc.toml").write_text('[profiles.a]\n"key\\u001b[2J" = 1\n')
    assert is_clean(run_cli("plan", "model", "--profile", "a").err)
    (desk / "runs" / f"name{HOSTILE}").mkdir(parents=True)
    (desk / "runs" / f"name{HOSTILE}" / "job.json").write_text("{")
    done = run_cli("list")
    assert "name" in done.out
    assert is_clean(done.out + done.err)
