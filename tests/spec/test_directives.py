"""Lines for the scheduler: what sbatch would take for an option that is vllm-hpc's own, however it is written."""

from __future__ import annotations

import pytest

from vllm_hpc.spec.directives import OWNED, OWNED_OF_QSUB, OWNED_RESOURCES
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.job_definition import make_request


@pytest.mark.parametrize(
    "line",
    ["--constraint=h100", "--mail-type=END --mail-user=ada@example.org", "-C h100", "-Ch100", "--exclusive", "-H",
     "--begin=now+1hour", "--hold", "--reservation=class", "--nodelist=n[1-4]", "-w n1", "--wait-all-nodes=1",
     "--clusters=a", "-M a", "--comment='a b'", "--nice=100", "--gres=gpu:h100:4", "--dependency=afterok:197",
     "--mem-per-gpu=8G", "--exclude n1 --switches=1", "-x n1", "-LaN", "--output-is-no-option"],
)  # fmt: skip
def test_lines_that_are_the_persons_own(line: str) -> None:
    assert make_request({"model": "demo", "scheduler": "slurm", "directive": [line]}).directive == [line]


@pytest.mark.parametrize("name", [name for name, _ in OWNED])
@pytest.mark.parametrize("form", ["--{}", "--{}=1", "--{} 1", "--exclusive --{}=1", '"--{}=1"'])
def test_an_owned_option_is_refused_in_every_form(name: str, form: str) -> None:
    with pytest.raises(RequestError, match=rf"--directive --{name} cannot be set here: .+"):
        make_request({"model": "demo", "scheduler": "slurm", "directive": [form.format(name)]})


@pytest.mark.parametrize("letter", [letter for _, letter in OWNED if letter])
@pytest.mark.parametrize("form", ["-{}", "-{} 1", "-{}1", "-H{}1", "-H -{} 1"])
def test_an_owned_letter_is_refused_in_every_form(letter: str, form: str) -> None:
    with pytest.raises(RequestError, match=rf"--directive -{letter} cannot be set here: .+"):
        make_request({"model": "demo", "scheduler": "slurm", "directive": [form.format(letter)]})


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
        ("exclusive", "must be an option of the scheduler"),
        ("--comment=it's", "unclosed quote"),
        ("--comment=\\", "trailing backslash"),
    ],
)
def test_a_refusal_names_the_proper_way(line: str, said: str) -> None:
    with pytest.raises(RequestError, match="--directive") as caught:
        make_request({"model": "demo", "scheduler": "slurm", "directive": [line]})
    assert said in str(caught.value)


def pbs(line: str) -> list[str]:
    return make_request({"model": "demo", "scheduler": "pbs", "directive": [line]}).directive


@pytest.mark.parametrize(
    "line",
    ["-l filesystems=home:eagle", "-lfilesystems=home", "-W depend=afterok:12.head", "-W group_list=x",
     "-m abe -M a@b.org",
     "-v RTYPE=rt_HF,USE_SSH=1", "-vA=",
     "-a 202601021200", "-h", "-p 10", "-A 'a b'", "-P x", "-l a=walltime"],
)  # fmt: skip
def test_lines_of_qsub_that_are_the_persons_own(line: str) -> None:
    assert pbs(line) == [line]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        *((f"-{letter}", f"-{letter} cannot be set") for letter in OWNED_OF_QSUB),
        *((f"-h{letter} x", f"-{letter} cannot be set") for letter in OWNED_OF_QSUB),
        *((f"-l {name}=1", f"-l {name} cannot be set") for name in OWNED_RESOURCES),
        *((f"-lx=1,{name}=1", f"-l {name} cannot be set") for name in OWNED_RESOURCES),
        ("-W umask=077", "-W umask cannot be set"),
        ("-W UMASK=077", "-W umask cannot be set"),
        ("-W Output_Path=/x", "-W output_path cannot be set"),
        ("-W Resource_List.walltime=3", "-W resource_list cannot be set"),
        ("-l SELECT=3", "-l select cannot be set"),
        ("-v HF_TOKEN=abc", "looks like a secret"),
        ("-v 'A=b c'", "must be plain NAME=WORD"),
        ("-v A", "must be plain NAME=WORD"),
        ("-v PATH=/bin", "PATH cannot be set"),
        ("-W depend=afterok:1,block=true", "use --wait"),
        ("-J 0-3", "use --array, with --dp"),
        ("-l walltime=1:00", "use --time"),
        ("-l select=4", "use --nodes"),
        ("-o /tmp/x", "'vllm-hpc logs'"),
        ("-A a -J 0-3", "use --array"),
        ("-A a b", "must be options of qsub"),
        ("--version", "must be options of qsub"),
        ("-A a\\ b", "backslash"),
        ("-A 'a", "unclosed quote"),
        ("#PBS -h", "give only what follows '#PBS '"),
    ],
)
def test_a_line_that_is_not_for_qsub_is_refused(line: str, said: str) -> None:
    with pytest.raises(RequestError, match="--directive") as caught:
        pbs(line)
    assert said in str(caught.value)
