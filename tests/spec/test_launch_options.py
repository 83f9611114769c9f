"""srun_options and torchrun_options: what the layout or the script sets is refused, however it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.marks import needs_torch
from vllm_hpc.spec.directives import OWNED, check_owned
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.launch_options import (
    OWNED_OF_SRUN,
    OWNED_OF_TORCHRUN,
    check_srun_options,
    check_torchrun_options,
)

pytestmark = pytest.mark.admins

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
# What torchrun has besides, and a site may set.
OF_THE_SITE = {
    "--monitor-interval", "--start-method", "--event-log-handler", "--role", "--local-ranks-filter", "--logs-specs",
    "--duplicate-stdout-filters", "--duplicate-stderr-filters", "--numa-binding", "--shutdown-timeout",
}  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        [], ["--mpi=none"], ["--network=single_node_vni"], ["--gpus-per-task=1", "--gpu-bind=closest"], ["-u"],
        ["--mem-bind=local"], ["-T4"], ["--hint=nomultithread"], ["--gres=gpu:a100:4"], ["--unbuffered"], ["-Qu"],
        ["--task-prolog=/opt/it's here"], ["--mem=0"], ["--overlap"], ["--container-mounts=/a:/b"], ["--propagate"],
    ],
)  # fmt: skip
def test_what_a_site_may_add_to_srun(words: list[str]) -> None:
    check_srun_options(words, "srun_options")


@pytest.mark.parametrize("name", [name for name, _ in OWNED_OF_SRUN])
@pytest.mark.parametrize("form", ["--{}", "--{}=1"])
def test_what_the_layout_sets_of_srun_is_refused(name: str, form: str) -> None:
    with pytest.raises(RequestError, match=rf"^srun_options --{name} cannot be set here: .+"):
        check_srun_options(["--mpi=none", form.format(name)], "srun_options")


@pytest.mark.parametrize("letter", [letter for _, letter in OWNED_OF_SRUN if letter])
@pytest.mark.parametrize("form", ["-{}", "-{}1", "-u{}1", "-QuX{}"])
def test_a_letter_of_srun_is_refused_in_every_form(letter: str, form: str) -> None:
    with pytest.raises(RequestError, match=rf"srun_options -{letter} cannot be set here"):
        check_srun_options([form.format(letter)], "srun_options")


@pytest.mark.parametrize("name", [name for name, _ in OWNED_OF_TORCHRUN])
@pytest.mark.parametrize("form", ["--{}", "--{}=1"])
def test_what_the_script_sets_of_torchrun_is_refused(name: str, form: str) -> None:
    for written in (name, name.replace("-", "_")):
        with pytest.raises(RequestError, match=rf"^torchrun_options --{name} cannot be set here: .+"):
            check_torchrun_options([form.format(written)], "torchrun_options")


@pytest.mark.parametrize("letter", [letter for _, letter in OWNED_OF_TORCHRUN if letter])
@pytest.mark.parametrize("form", ["-{}", "-{}3", "-{}=3"])
def test_a_letter_of_torchrun_is_refused(letter: str, form: str) -> None:
    with pytest.raises(RequestError, match=rf"torchrun_options -{letter} cannot be set here"):
        check_torchrun_options([form.format(letter)], "torchrun_options")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--nod=3", "--nodes cannot be set here: use --nodes"),
        ("--ntasks-per=3", "--ntasks-per-node"),
        ("--cpu-b=none", "use cpu_bind in the profile"),
        ("--cpu_bind=none", "use cpu_bind in the profile"),
        ("--outp=x", "'vllm-hpc logs'"),
        ("none", "must be options, each with its value in the same word, as in --mpi=none, not 'none'"),
        ("", "must be options"), ("-", "must be options"), ("--", "must be options"), ("---", "must be options"),
        ("--mpi=a\nb", "control character"), (" --mpi", "must be options"), ("$(id)", "must be options"),
        ("; reboot", "must be options"), ("\0", "control character"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_and_names_the_proper_way(word: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_srun_options([word], "srun_options in profile 'x'")
    assert str(caught.value).startswith("srun_options in profile 'x' ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "word", ["--nnode=2", "--rdzv_end=x", "--max-r=1", "--no_py", "--virtual", "-mfoo", "script.py"]
)
def test_abbreviations_of_torchrun_are_refused(word: str) -> None:
    with pytest.raises(RequestError, match="torchrun_options"):
        check_torchrun_options([word], "torchrun_options")


@needs_torch
def test_every_option_of_torchrun_is_the_scripts_or_the_sites() -> None:
    from torch.distributed.run import get_args_parser

    parser = get_args_parser()
    known = {text.replace("_", "-") for action in parser._actions for text in action.option_strings}
    ours = {f"--{name}" for name, _ in OWNED_OF_TORCHRUN} | {f"-{letter}" for _, letter in OWNED_OF_TORCHRUN if letter}
    assert known - OF_THE_SITE == ours
    for option in sorted(OF_THE_SITE & known):
        check_torchrun_options([f"{option}=1"], "torchrun_options")


@pytest.mark.parametrize("table", [OWNED_OF_SRUN, OWNED_OF_TORCHRUN])
def test_the_readme_has_the_tables(table: dict[tuple[str, str], str]) -> None:
    for name, _ in table:
        assert re.search(rf"`(--{name}|{name})\b", README), name


def test_a_profiles_directives_are_held_to_the_same_table() -> None:
    for name, _ in OWNED:
        with pytest.raises(RequestError, match=rf"^directives of profile 'x' --{name} cannot be set here"):
            check_owned((f"--{name}=1",), "slurm", "directives of profile 'x'")
    with pytest.raises(RequestError, match=r"^directives of profile 'x' -l select cannot be set here"):
        check_owned(("-l select=3",), "pbs", "directives of profile 'x'")
