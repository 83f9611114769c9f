"""Lines for the scheduler: what sbatch would take for an option that is vllm-hpc's own, however it is written."""

from __future__ import annotations

import pytest

from vllm_hpc.directives import OWNED
from vllm_hpc.errors import RequestError
from vllm_hpc.request import make_request


@pytest.mark.parametrize(
    "line",
    ["--constraint=h100", "--mail-type=END --mail-user=ada@example.org", "-C h100", "-Ch100", "--exclusive", "-H",
     "--begin=now+1hour", "--hold", "--reservation=class", "--nodelist=n[1-4]", "-w n1", "--wait-all-nodes=1",
     "--clusters=a", "-M a", "--comment='a b'", "--nice=100", "--gres=gpu:h100:4", "--dependency=afterok:197",
     "--mem-per-gpu=8G", "--exclude n1 --switches=1", "-x n1", "-LaN", "--output-is-no-option"],
)  # fmt: skip
def test_lines_that_are_the_persons_own(line: str) -> None:
    assert make_request({"model": "demo", "directive": [line]}).directive == [line]


@pytest.mark.parametrize("name", [name for name, _ in OWNED])
@pytest.mark.parametrize("form", ["--{}", "--{}=1", "--{} 1", "--exclusive --{}=1", '"--{}=1"'])
def test_an_owned_option_is_refused_in_every_form(name: str, form: str) -> None:
    with pytest.raises(RequestError, match=rf"--directive --{name} is not yours to set here: .+"):
        make_request({"model": "demo", "directive": [form.format(name)]})


@pytest.mark.parametrize("letter", [letter for _, letter in OWNED if letter])
@pytest.mark.parametrize("form", ["-{}", "-{} 1", "-{}1", "-H{}1", "-H -{} 1"])
def test_an_owned_letter_is_refused_in_every_form(letter: str, form: str) -> None:
    with pytest.raises(RequestError, match=rf"--directive -{letter} is not yours to set here: .+"):
        make_request({"model": "demo", "directive": [form.format(letter)]})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--array=0-3", "use --array, with --dp"),
        ("--arr=0-3", "use --array, with --dp"),  # getopt takes what is short for one option
        ("--nodes=4", "use --nodes"),
        ("-J other", "use --name"),
        ("--export=NONE", "export_environment in a profile"),
        ("hetjob", "submit two jobs"),
        ("#SBATCH --exclusive", "give only what follows '#SBATCH '"),
        ("#PBS -l walltime=1", "give only what follows '#PBS '"),
        ("exclusive", "no option"),
        ("--comment=it's", "not closed"),
        ("--comment=\\", "backslash at its end"),
    ],
)
def test_a_refusal_names_the_proper_way(line: str, said: str) -> None:
    with pytest.raises(RequestError, match="--directive") as caught:
        make_request({"model": "demo", "directive": [line]})
    assert said in str(caught.value)
