"""Values written as TOML are read back as they were, and a profile is added to a file without touching the rest."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_hpc.spec.container import Container
from vllm_hpc.spec.errors import FailedError, ProfileError
from vllm_hpc.spec.toml_text import add_profile, check_profile_name, toml_comment, toml_key, toml_value, usable_name

pytestmark = pytest.mark.admins

TABLE = '[profiles.new]\nscheduler = "slurm"\n[profiles.new.queues.gpu]\nmax_nodes = 2\n'
ADDED = {"scheduler": "slurm", "queues": {"gpu": {"max_nodes": 2}}}
values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), values)
def test_what_is_written_is_read_back(key: str, value: Any) -> None:
    assert tomllib.loads(f"{toml_key(key)} = {toml_value(value)}") == {key: value}


@given(st.text())
def test_a_comment_is_one_line_that_says_nothing(text: str) -> None:
    assert tomllib.loads(f"{toml_comment(text)}\na = 1") == {"a": 1}


def test_a_half_of_a_surrogate_pair_becomes_a_replacement() -> None:
    written = toml_value("x\udc80")
    assert tomllib.loads(f"a = {written}") == {"a": "x\ufffd"}


def test_a_struct_is_a_table_of_what_is_set() -> None:
    written = toml_value(Container(runtime="apptainer", image="a b.sif"))
    assert tomllib.loads(f"a = {written}")["a"]["image"] == "a b.sif"
    assert "bundle" not in written


def test_none_has_no_form() -> None:
    with pytest.raises(TypeError):
        toml_value(None)


@pytest.mark.parametrize(
    "before",
    [
        "",
        "\n\n",
        "# only a comment",
        'trusted_owners = ["pi"]\n[profiles.old]\ntime = "1:00:00"',
        "[profiles.old]\n",
        "\ufeff[profiles.old]\nqos = 'q'\n",
        "[profiles.old]\r\nqos = 'q'\r\n",
        "[profiles]\nold.qos = 'q'\n",
        "profiles.old.qos = 'q'\n",
        '[profiles."a b".env]\nx = "1"\n',
    ],
)
def test_a_table_is_added_and_the_rest_stays(tmp_path: Path, before: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(before.encode())
    assert add_profile(path, "new", TABLE) is False
    text = path.read_bytes().decode("utf-8")
    assert text.startswith(before)
    there = tomllib.loads(before.removeprefix("\ufeff").replace("\r\n", "\n"))
    wanted = {**there, "profiles": {**there.get("profiles", {}), "new": ADDED}}
    assert tomllib.loads(text.removeprefix("\ufeff").replace("\r\n", "\n")) == wanted


def test_a_new_file_and_its_folder_are_made_for_the_user_alone_to_write(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "config.toml"
    before = os.umask(0)
    try:
        assert add_profile(path, "new", TABLE) is True
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    assert [folder.stat().st_mode & 0o022 for folder in (path.parent, path.parent.parent)] == [0, 0]


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("[profiles.new]\n", "has a profile 'new' already"),
        ("profiles.new.qos = 'q'\n", "has a profile 'new' already"),
        ("profiles = { old = { qos = 'q' } }\n", "a table cannot be added at its end"),
        ("profiles = 3\n", "'profiles' must hold tables"),
        ("[profiles.x\n", "not valid TOML"),
        ("\x00", "not valid TOML"),
        ("a = '''\n", "not valid TOML"),
    ],
)
def test_a_file_that_cannot_take_it_stays_as_it_is(tmp_path: Path, before: str, words: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(before)
    with pytest.raises(ProfileError, match=words):
        add_profile(path, "new", TABLE)
    assert path.read_text() == before


def test_what_others_can_write_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("")
    path.chmod(0o666)
    with pytest.raises(ProfileError, match="others can write"):
        add_profile(path, "new", TABLE)


def test_links_fifos_and_folders(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("# mine\n")
    (tmp_path / "link.toml").symlink_to("mine.toml")
    assert add_profile(tmp_path / "link.toml", "new", TABLE) is False, "as in a folder of dotfiles"
    assert (tmp_path / "link.toml").is_symlink()
    assert "[profiles.new]" in (tmp_path / "mine.toml").read_text()
    (tmp_path / "lost.toml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("lost.toml", "pipe", "."):
        with pytest.raises(ProfileError):
            add_profile(tmp_path / name, "new", TABLE)
    with pytest.raises((ProfileError, FailedError)):
        add_profile(tmp_path / "mine.toml" / "x", "new", TABLE)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a/b", "site/polaris", "-x", ".x", "é", "a" * 65, "a\n", "$(id)", "a]"]
)
def test_a_name_that_a_profile_should_not_have(name: str) -> None:
    with pytest.raises(ProfileError, match="must be letters"):
        check_profile_name(name)
    if name:
        check_profile_name(usable_name(name))
