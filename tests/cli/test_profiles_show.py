"""`profiles list` and `show`: layers of files together, and where each value is from."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.cli.test_profiles import PROJECT, add, make_site
from tests.conftest import Cli
from vllm_hpc.spec.profile_layers import load_profile

pytestmark = pytest.mark.admins


@pytest.fixture
def site(desk: Path) -> Path:
    return make_site(desk)


def test_list_says_of_which_files_each_profile_is(site: Path, run_cli: Cli) -> None:
    listed = run_cli("profiles", "list")
    assert (listed.code, listed.err) == (0, "")
    own = listed.out.splitlines()[:3]
    site_file = site.parent / "site/vllm-hpc/config.toml"
    layers = f"./vllm-hpc.toml over ./config/vllm-hpc/config.toml over {site_file}"
    assert own[0].endswith(f"Borealis  [{layers}]")
    assert own[2].split() == ["lone", "(no", "description)", "[./vllm-hpc.toml]"]
    rows = json.loads(run_cli("profiles", "list", "--json").out)
    assert [row["name"] for row in rows][:3] == ["borealis", "other", "lone"]
    assert rows[1]["files"][0] == "./vllm-hpc.toml" and rows[1]["files"][1].endswith("[borealis]")


def test_list_goes_on_after_a_profile_that_is_broken(site: Path, run_cli: Cli) -> None:
    add(site, "[profiles.bad]\nnodez = 1\n")
    listed = run_cli("profiles", "list")
    assert listed.code == 0
    assert "broken: " in listed.out and "unknown key 'nodez'" in listed.out
    rows = json.loads(run_cli("profiles", "list", "--json").out)
    assert [bool(row.get("fault")) for row in rows if not row["name"].startswith("site/")] == [
        False,
        False,
        False,
        True,
    ]


def test_show_prints_what_gives_the_same_profile_by_itself(
    site: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("borealis", "other"):
        for origin in ([], ["--origin"]):
            shown = run_cli("profiles", "show", name, *origin)
            assert (shown.code, shown.err) == (0, "")
            before = load_profile(name)
            alone = site / "alone"
            alone.mkdir(exist_ok=True)
            (alone / "vllm-hpc.toml").write_text(shown.out)
            with monkeypatch.context() as patch:
                patch.chdir(alone)
                patch.setenv("XDG_CONFIG_HOME", str(alone))
                patch.setenv("XDG_CONFIG_DIRS", str(alone))
                assert load_profile(name) == before


def test_origin_names_file_and_line_of_each_value(site: Path, run_cli: Cli) -> None:
    shown = run_cli("profiles", "show", "borealis", "--origin").out
    site_file = site.parent / "site/vllm-hpc/config.toml"
    places = {line.split(" = ")[0]: line.rpartition("# ")[2] for line in shown.splitlines() if " = " in line}
    assert places["account"] == "./config/vllm-hpc/config.toml:2"
    assert places["setup"] == f"{site_file}:4, ./config/vllm-hpc/config.toml:3", "the list is of both"
    assert places["required"] == "./vllm-hpc.toml:2"
    assert places["A"] == "./vllm-hpc.toml:4"
    assert places["NCCL_DEBUG"] == f"{site_file}:5"
    assert places["max_time"] == f"{site_file}:10"
    assert places["# cpu_bind"] == "the default"
    assert tomllib.loads(shown)["profiles"]["borealis"]["queues"]["h100"]["max_nodes"] == 4
    assert "# each job must give: time" in shown


def test_an_origin_stands_apart_from_the_longest_value(desk: Path, run_cli: Cli) -> None:
    for length in (1, *range(25, 40), 100):
        line = f'description = "{"x" * length}"'
        (desk / "vllm-hpc.toml").write_text(f"[profiles.x]\n{line}\n")
        assert f"{line} " in run_cli("profiles", "show", "x", "--origin").out


def test_a_profile_that_extends_another_shows_whose_values_they_are(site: Path, run_cli: Cli) -> None:
    shown = run_cli("profiles", "show", "other", "--origin").out
    assert shown.splitlines()[0].startswith("# files, the highest first: ./vllm-hpc.toml; ./vllm-hpc.toml [borealis]; ")
    assert 'qos = "high"' in shown and "extends =" not in shown
    assert "# ./config/vllm-hpc/config.toml:2" in shown


def test_a_folder_with_commas_in_its_name(site: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = site / "a, b: c"
    odd.mkdir()
    (odd / "vllm-hpc.toml").write_text(
        PROJECT.replace("[profiles.borealis]", '[profiles.borealis]\nsetup = ["+", "x"]', 1)
    )
    monkeypatch.chdir(odd)
    shown = json.loads(run_cli("profiles", "show", "borealis", "--json").out)
    site_file, user_file = site.parent / "site/vllm-hpc/config.toml", site / "config/vllm-hpc/config.toml"
    assert shown["origins"]["setup"] == f"{site_file}:4, {user_file}:3, ./vllm-hpc.toml:2"


def test_show_json_has_values_and_origins_of_one_shape(site: Path, run_cli: Cli) -> None:
    shown = json.loads(run_cli("profiles", "show", "borealis", "--json").out)

    def shape(value: object) -> object:
        return {name: shape(one) for name, one in value.items()} if isinstance(value, dict) else None

    assert shape(shown["profile"]) == shape(shown["origins"])
    assert shown["origins"]["env"]["A"] == "./vllm-hpc.toml:4"
    assert (shown["missing"], shown["unused"]) == (["time"], [])


def test_the_gallery_is_called_so(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = desk / "sites"
    folder.mkdir()
    (folder / "moon.toml").write_text('[profiles."site/moon"]\ndescription = "Moon"\nscheduler = "pbs"\n')
    for module in ("config_files", "profile_files", "show_profile"):
        monkeypatch.setattr(f"vllm_hpc.spec.{module}.gallery_files", lambda: [folder / "moon.toml"])
    monkeypatch.setattr("vllm_hpc.spec.profile_files.gallery_file", lambda name: folder / "moon.toml")
    (desk / "vllm-hpc.toml").write_text('[profiles.mine]\nextends = "site/moon"\ngpu_type = "x"\n')
    assert "site/moon  Moon  [gallery (moon.toml)]" in run_cli("profiles", "list").out
    shown = run_cli("profiles", "show", "mine", "--origin").out
    assert "# gallery (moon.toml:3)" in shown
    assert "# files, the highest first: ./vllm-hpc.toml; gallery (moon.toml) [site/moon]" in shown
    assert "# not used by pbs: gpu_type" in shown
