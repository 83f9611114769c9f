"""vllm-hpc bundle: a folder from which a bare Python runs what ranks import, and whose packages come last."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli
from vllm_hpc import __version__
from vllm_hpc.schedulers.containers import bundle as bundles
from vllm_hpc.schedulers.containers.bundle import check_bundle, make_bundle
from vllm_hpc.schedulers.in_script import check_image
from vllm_hpc.spec.errors import FailedError, RequestError

pytestmark = pytest.mark.admins
MINOR = ".".join(platform.python_version_tuple()[:2])
# What a rank imports first, and what torchrun and submitit look for.
RANK = """
import sys
from importlib.metadata import entry_points
from vllm_hpc.schedulers.in_script import rank
import cloudpickle, msgspec, psutil, submitit
found = [point.value for group in ("torchrun.handlers", "submitit") for point in entry_points(group=group)]
print(rank.__file__, msgspec.__file__, psutil.__file__, *found, sep="\\n")
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "b"
    make_bundle(folder, MINOR)
    return folder


def bare(code: str, bundle: Path, *packages: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a Python that has the standard library, ``packages`` as its own, and the bundle."""
    own = "".join(f"sys.path.append({str(one)!r})\n" for one in packages)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(bundle / "first"), "VLLM_HPC_BUNDLE": str(bundle)}
    argv = [sys.executable, "-S", "-P", "-c", f"import sys\n{own}{code}"]
    return subprocess.run(argv, capture_output=True, text=True, env=environment, cwd="/")


def test_a_bare_python_has_what_ranks_import(bundle: Path) -> None:
    done = bare(RANK, bundle)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(str(bundle / "first" / "vllm_hpc"))
    assert [line.startswith(str(bundle / "last")) for line in lines[1:3]] == [True, True]
    assert lines[3] == "vllm_hpc.engine.startup.torchrun:creator"
    assert any("submitit_environment" in line for line in lines[4:])


def test_the_images_own_packages_win(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("")
    done = bare("import vllm_hpc, psutil\nprint(psutil.__file__, sys.path[-1])", bundle, tmp_path)
    assert done.stdout.split() == [str(tmp_path / "psutil.py"), str(bundle / "last")]


def test_processes_that_ranks_start_find_it_too(bundle: Path) -> None:
    code = "import subprocess\nsubprocess.run([sys.executable, '-S', '-P', '-m', 'vllm_hpc.in_job', 'no-such-verb'])"
    assert "usage: python -m vllm_hpc.in_job" in bare(code, bundle).stderr


def test_nothing_of_a_bundle_is_for_others_to_write(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        make_bundle(tmp_path / "b", MINOR)
        assert os.umask(0o002) == 0o002
    finally:
        os.umask(before)
    assert [path for path in (tmp_path / "b").rglob("*") if path.stat().st_mode & 0o022] == []
    assert list((tmp_path / "b").rglob("__pycache__")) == []


def test_the_command(desk: Path, run_cli: Cli) -> None:
    code, out, err = run_cli("bundle", "--python", MINOR, "--json")
    said = json.loads(out)
    assert (code, err, said["python"], said["versions"]["vllm-hpc"]) == (0, "", MINOR, __version__)
    assert said["folder"] == str(desk / f"vllm-hpc-bundle-{MINOR}")
    code, _, err = run_cli("bundle", "--python", MINOR)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "is there already: remove it" in err


@pytest.mark.parametrize("python", ["3.10", "3", "2.7", "3.12.1", "python3.12", "", "3.٣", "--help", "3.12; id"])
def test_a_python_that_is_no_minor_version_is_refused(tmp_path: Path, python: str) -> None:
    with pytest.raises(RequestError, match="must be the minor version"):
        make_bundle(tmp_path / "b", python)
    assert list(tmp_path.iterdir()) == []


def test_where_pip_fails_there_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    other = "3.12" if MINOR != "3.12" else "3.13"
    with pytest.raises(FailedError, match=f"pip could not get the packages for Python {other}: ") as error:
        make_bundle(tmp_path / "b", other)
    assert len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"cannot be made|is there already"):
        make_bundle(tmp_path / "file" / "b", MINOR)


def test_a_bundle_is_checked_when_submitting(bundle: Path, tmp_path: Path) -> None:
    check_bundle(bundle)
    with pytest.raises(RequestError, match="is no folder of vllm-hpc bundle: make it with"):
        check_bundle(tmp_path)
    record = tmp_path / "bundle.json"
    record.write_text((bundle / "bundle.json").read_text().replace(__version__, "0.0.9"))
    with pytest.raises(RequestError, match=r"has vllm-hpc 0\.0\.9, and this is"):
        check_bundle(tmp_path)
    record.write_text("{")
    with pytest.raises(RequestError, match="is no folder of vllm-hpc bundle"):
        check_bundle(tmp_path)
    record.write_text((bundle / "bundle.json").read_text())
    record.chmod(0o666)
    with pytest.raises(RequestError, match="others"):
        check_bundle(tmp_path)


def test_a_bundle_that_others_can_change_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "is_fixed", lambda folder: folder != bundle)
    with pytest.raises(RequestError, match="others can change what is in it: move it"):
        check_bundle(bundle)


# -- in the image --------------------------------------------------------------------------------------------------


def test_an_image_without_a_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(
        RequestError, match=rf"the image i lacks psutil; make a folder with 'vllm-hpc bundle --python {MINOR}"
    ):
        check_image.main(["/f", "i"])
    monkeypatch.setenv("VLLM_HPC_BUNDLE", "/b")
    with pytest.raises(RequestError, match="the bundle /b is of another Python, or incomplete"):
        check_image.main(["/f", "i"])


@pytest.mark.parametrize(
    ("found", "fits"), [("0.25.9", False), ("0.26.0", True), ("1.0", True), ("dev", True), (None, True)]
)
def test_the_least_vllm(monkeypatch: pytest.MonkeyPatch, found: str | None, fits: bool) -> None:
    monkeypatch.setattr(check_image, "find_spec", lambda name: object())
    monkeypatch.setattr(check_image, "_version", lambda name: found)
    if fits:
        check_image._check_vllm("i")
        return
    with pytest.raises(RequestError, match=r"has vLLM 0\.25\.9, and vllm-hpc needs 0\.26: use a newer image"):
        check_image._check_vllm("i")


def test_an_image_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_image, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="the image i has no vLLM"):
        check_image._check_vllm("i")


def test_what_ranks_need_is_in_a_bundle() -> None:
    assert set(check_image.NEEDED) <= set(bundles.PACKAGES)
