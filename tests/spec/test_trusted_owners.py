"""Whose profiles and job definitions are obeyed, and how another user becomes trusted."""

from __future__ import annotations

import contextlib
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from tests.conftest import Cli
from vllm_hpc.jobs.submit import submit
from vllm_hpc.spec.errors import ProfileError, TemplateError
from vllm_hpc.spec.foreign_options import ACTS_AS_YOU
from vllm_hpc.spec.profile_layers import find_profile, load_profile
from vllm_hpc.spec.request import Request

pytestmark = pytest.mark.trust

OTHERS = 61_999
PROFILE = '[profiles.site]\nqos = "q"\n'


@pytest.fixture
def foreign(desk: Path) -> Path:
    """./vllm-hpc.toml of another user."""
    return give(desk / "vllm-hpc.toml", PROFILE)


def give(path: Path, text: str) -> Path:
    if os.geteuid() != 0:
        pytest.skip("a file of another user needs root")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.chown(path, OTHERS, OTHERS)
    return path


def user_file(desk: Path, text: str) -> Path:
    path = desk / "config" / "vllm-hpc" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_another_users_profile_is_refused_until_they_are_trusted(desk: Path, foreign: Path) -> None:
    """It says what is run (setup, wrapper, head_command), and came before the user's own."""
    path = user_file(desk, PROFILE)
    with pytest.raises(ProfileError) as refused:
        load_profile("site")
    said = f"'vllm-hpc.toml' belongs to another user ({OTHERS}): if what they write may run as you, add "
    assert str(refused.value) == f"{said}trusted_owners = [{OTHERS}] to {path}, or make a copy of your own"
    user_file(desk, f"trusted_owners = [{OTHERS}]\n")
    assert find_profile("site").where("site") == f"profile 'site' is of {foreign}, which belongs to {OTHERS}"


def test_the_site_says_whom_all_its_users_trust(desk: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pwd.getpwnam", lambda name: pwd.struct_passwd(("pi", "x", OTHERS, 0, "", "/", "")))
    path = Path(os.environ["XDG_CONFIG_DIRS"], "vllm-hpc", "config.toml")
    path.parent.mkdir(parents=True)
    path.write_text('trusted_owners = ["pi"]\n')
    assert load_profile("site").qos == "q"
    path.chmod(0o666)
    with pytest.raises(ProfileError, match="belongs to another user"):
        load_profile("site")
    path.chmod(0o644)
    os.chown(path, OTHERS, OTHERS)
    with pytest.raises(ProfileError, match="belongs to another user"):
        load_profile("site")


@pytest.mark.usefixtures("foreign")
def test_a_file_that_others_can_write_to_trusts_nobody_and_is_named(desk: Path) -> None:
    path = user_file(desk, f"trusted_owners = [{OTHERS}]\n")
    path.chmod(0o666)
    with pytest.raises(ProfileError) as refused:
        load_profile("site")
    assert f"to {path}, and 'chmod go-w' that file, to which others can write, or make a copy" in str(refused.value)


@pytest.mark.usefixtures("foreign")
def test_the_key_is_not_one_of_a_profile(desk: Path) -> None:
    path = user_file(desk, f"[profiles.site]\ntrusted_owners = [{OTHERS}]\n")
    with pytest.raises(ProfileError) as refused:
        load_profile("site")
    assert str(refused.value).startswith(f"{path}")
    assert "'trusted_owners' must stand at the top of the file, not below [profiles.site]" in str(refused.value)


@pytest.mark.usefixtures("foreign")
def test_a_trusted_user_does_not_say_whom_else_to_trust(desk: Path) -> None:
    os.chown(user_file(desk, f"trusted_owners = [{OTHERS}]\n"), OTHERS + 1, OTHERS + 1)
    with pytest.raises(ProfileError, match=r"'vllm-hpc\.toml' belongs to another user"):
        load_profile("site")


def test_the_working_directory_does_not_say_whom_to_trust(desk: Path) -> None:
    (desk / "vllm-hpc.toml").write_text(f'\ntrusted_owners = ["root"]\n{PROFILE}')
    with pytest.raises(ProfileError, match=r"^vllm-hpc\.toml:2: 'trusted_owners' must be in the user's or the site's"):
        load_profile("site")


@pytest.mark.parametrize("value", ['"alice"', "1.5", "[1.5]", "[true]", "{ a = 1 }", '[["a"]]'])
def test_what_names_no_users_is_refused_with_its_line(desk: Path, value: str) -> None:
    path = user_file(desk, f"trusted_owners = {value}\n{PROFILE}")
    with pytest.raises(ProfileError) as refused:
        load_profile("site")
    assert f"{path}:1: 'trusted_owners' must be a list of names or uids" in str(refused.value)


@pytest.mark.usefixtures("foreign")
def test_an_unknown_user_is_named(desk: Path) -> None:
    user_file(desk, 'trusted_owners = ["nobody-of-that-name"]\n')
    with pytest.raises(ProfileError, match="no user is called 'nobody-of-that-name' here"):
        load_profile("site")


def test_what_others_can_write_to_is_refused(desk: Path) -> None:
    (desk / "vllm-hpc.toml").write_text(PROFILE)
    (desk / "vllm-hpc.toml").chmod(0o666)
    with pytest.raises(ProfileError, match=r"^others can write to 'vllm-hpc\.toml': 'chmod go-w' it, if you trust"):
        load_profile("site")


def test_whoever_made_a_link_chose_the_file(desk: Path) -> None:
    user_file(desk, PROFILE).rename(desk / "other.toml")
    (desk / "vllm-hpc.toml").symlink_to("other.toml")
    assert load_profile("site").qos == "q"
    if os.geteuid() == 0:
        os.chown(desk / "vllm-hpc.toml", OTHERS, OTHERS, follow_symlinks=False)
        with pytest.raises(ProfileError, match="belongs to another user"):
            load_profile("site")


def test_so_did_whoever_made_a_link_above_it(desk: Path) -> None:
    """Or one that a link leads to: 'templates' is then a folder of their choice, with files of the user's."""
    (desk / "made" / "templates").mkdir(parents=True)
    (desk / "made" / "templates" / "slurm.sbatch.j2").write_text('{% extends "packaged/slurm.sbatch.j2" %}')
    (desk / "theirs").symlink_to("made")
    (desk / "own").symlink_to("theirs/templates")
    submit(rehearse=True, scheduler="slurm", template_dir="own", name="first")
    if os.geteuid() == 0:
        os.chown(desk / "theirs", OTHERS, OTHERS, follow_symlinks=False)
        with pytest.raises(TemplateError, match=rf"^the link '{desk}/theirs' belongs to another user \({OTHERS}\): if"):
            submit(rehearse=True, scheduler="slurm", template_dir="own", name="second")


def test_root_is_known_by_the_place_where_a_container_hides_owners(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site's file, in /etc of a container that maps the user alone."""
    monkeypatch.setattr("vllm_hpc.spec.user_namespace._hidden_uid", lambda: OTHERS)
    path = give(Path(os.environ["XDG_CONFIG_DIRS"], "vllm-hpc", "config.toml"), PROFILE)
    with pytest.raises(ProfileError, match=r"config\.toml' belongs to a user whom this container does not show: make"):
        load_profile("site")
    monkeypatch.setattr("vllm_hpc.spec.trusted_owners.SYSTEM_FOLDERS", (path.parents[1],))
    assert load_profile("site").qos == "q"


def test_plan_and_submit_name_the_file(desk: Path, run_cli: Cli) -> None:
    (desk / "vllm-hpc.toml").write_text(PROFILE)
    user_file(desk, PROFILE)
    said = f"profile 'site' is of {desk}/vllm-hpc.toml, over {desk}/config/vllm-hpc/config.toml"
    assert said in run_cli("plan", "--rehearse", "--profile", "site", "--scheduler", "slurm").out
    assert said not in run_cli("plan", "--rehearse", "--scheduler", "slurm").out
    words = ["--rehearse", "--profile", "site", "--scheduler", "slurm", "--name", "first"]
    assert f"Note: {said}\n" in run_cli("submit", *words).err
    assert said in (desk / "runs/first/job.json").read_text()


def test_they_say_that_others_can_replace_it(desk: Path) -> None:
    """With another file of the user's, as any of a project's group can: it is taken, for so do all its users work."""
    (desk / "vllm-hpc.toml").write_text(PROFILE)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        (desk / "vllm-hpc.toml").rename(Path(folder, "vllm-hpc.toml"))
        Path(folder).chmod(0o757)
        with contextlib.chdir(folder):
            found = find_profile("site").where("site")
    assert found == f"profile 'site' is of {folder}/vllm-hpc.toml, in a folder that others can write to"


def test_another_users_job_definition_is_said_to_be_theirs(desk: Path, run_cli: Cli) -> None:
    give(desk / "job" / "job.toml", 'rehearse = true\nscheduler = "slurm"\nmax_tokens = 5\n')
    said = f"'job/job.toml' belongs to another user ({OTHERS})"
    assert said in run_cli("plan", "job").out
    assert f"Note: {said}\n" in run_cli("submit", "job").err
    with pytest.warns(UserWarning, match="belongs to another user"):
        submit("job", name="second")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("env", "{ LD_PRELOAD = '/tmp/x.so' }"), ("engine", "{ trust_remote_code = true }"), ("job_dir", "'/tmp'"),
        ("directive", "['--constraint=x']"), ("template", "'x.j2'"), ("template_dir", "'.'"), ("account", "'rich'"),
        ("launcher", "'srun'"), ("pass_env", "['HF_TOKEN']"),
    ],
)  # fmt: skip
def test_what_acts_as_the_user_in_it_is_refused(desk: Path, run_cli: Cli, key: str, value: str) -> None:
    """Whoever can write in a model's folder, or in the working directory, could leave it there: MODEL is then that."""
    text = f"rehearse = true\nscheduler = 'slurm'\n{key} = {value}\n"
    give(desk / "job" / "job.toml", text)
    outcome = run_cli("submit", "job")
    assert (outcome.code, outcome.out) == (2, "")
    said = f"'{key}' may run or be charged as yours, but 'job/job.toml' belongs to another user ({OTHERS})"
    assert outcome.err.startswith(f"Error: job/job.toml: {said}") and len(outcome.err.splitlines()) == 1
    os.chown(desk / "job" / "job.toml", 0, 0)
    (desk / "job" / "job.toml").chmod(0o666)
    assert "but others can write to 'job/job.toml': 'chmod go-w' it" in run_cli("submit", "job").err


def test_names_that_the_user_passes_add_to_theirs_and_so_do_not_stand_for_them(
    desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "x")
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    give(desk / "job" / "job.toml", "rehearse = true\nscheduler = 'slurm'\npass_env = ['HF_TOKEN']\n")
    outcome = run_cli("render", "job", "--env", "MINE")
    assert outcome.code == 2
    assert "'pass_env' may run or be charged as yours" in outcome.err
    give(desk / "job" / "job.toml", "rehearse = true\nscheduler = 'slurm'\n")
    assert "keep_passed MINE\n" in run_cli("render", "job", "--env", "MINE").out


def test_what_the_user_gives_in_its_place_is_taken(desk: Path, run_cli: Cli) -> None:
    text = "rehearse = true\nscheduler = 'slurm'\naccount = 'rich'\nlauncher = 'torchrun'\nenv = { A = '1' }\n"
    give(desk / "job" / "job.toml", text)
    own = ("--account", "mine", "--launcher", "srun")
    assert "'env' may run or be charged as yours" in run_cli("render", "job", *own, "--env", "B=1").err
    give(desk / "job" / "job.toml", text.replace("env =", "#"))
    outcome = run_cli("render", "job", *own)
    assert (outcome.code, "--account=mine" in outcome.out, "rich" in outcome.out) == (0, True, False), outcome.err


@pytest.mark.parametrize(
    ("given", "is_taken"),
    [
        ("'rows.jsonl'", True), ("'{home}/private.jsonl'", False), ("'../private.jsonl'", False),
        ("'link.jsonl'", False), ("'folder'", False), ("'f*/*.jsonl'", False), ("'../*.jsonl'", False),
        ("['rows.jsonl', 'link.jsonl']", False), ("'r*.jsonl'", True), ("'more'", True),
    ],
)  # fmt: skip
def test_its_input_is_in_its_folder(desk: Path, run_cli: Cli, given: str, is_taken: bool) -> None:
    """What it names is copied into the job's folder: another file of the user's may be private."""
    (desk / "job" / "folder").mkdir(parents=True)
    (desk / "job" / "more").mkdir()
    for name in ("private.jsonl", "job/rows.jsonl", "job/more/a.jsonl"):
        (desk / name).write_text('{"prompt": "a"}\n')
    for name in ("link.jsonl", "folder/a.jsonl"):
        (desk / "job" / name).symlink_to(desk / "private.jsonl")
    text = f"rehearse = true\nscheduler = 'slurm'\ninput = {given.replace('{home}', str(desk))}\n"
    (desk / "job" / "job.toml").write_text(text)
    assert run_cli("render", "job").code == 0
    give(desk / "job" / "job.toml", text)
    outcome = run_cli("render", "job")
    assert outcome.code == (0 if is_taken else 2), outcome.err
    if not is_taken:
        assert outcome.err.startswith("Error: job/job.toml: 'input' must name what is in its folder, not '")
        assert f"for 'job/job.toml' belongs to another user ({OTHERS}): give --input yourself" in outcome.err
        assert run_cli("render", "job", "--input", "private.jsonl").code == 0


@pytest.mark.parametrize("key", ["chat_template", "rows_missing_from"])
def test_so_is_whatever_else_would_be_copied(desk: Path, run_cli: Cli, key: str) -> None:
    (desk / "private").write_text("{{ messages }}")
    give(desk / "job" / "job.toml", f"rehearse = true\nscheduler = 'slurm'\n{key} = '../private'\n")
    assert f"'{key}' must name what is in its folder, not '" in run_cli("render", "job").err


def test_each_key_of_a_job_definition_is_known_to_act_as_the_user_or_not() -> None:
    harmless = (
        "model input nodes gpus_per_node tp pp dp ep attention_dp scheduler profile partition qos time mem "
        "cpus_per_rank name max_tokens temperature top_p seed seed_rows chat_template lora prompt_column "
        "prompt_template id_column "
        "keep rename drop_last_answer order sampling gpu array max_requeues drain_lead rehearse rehearse_set private "
        "rows_missing_from requeue_script debug_ranks verify reproducible allow"
    )
    assert {*harmless.split(), *ACTS_AS_YOU} == set(Request.__struct_fields__), (
        "may a stranger's job.toml have the new key?"
    )
