"""The example notebooks of docs/notebooks run from top to bottom, as a person runs them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.notebooks

EXAMPLES = Path(__file__).parents[2] / "docs" / "notebooks"
REHEARSED = "rehearsal.ipynb"
# What a cell tagged "parameters" is replaced with, for this machine. tests/slurm/test_notebook.py runs them as written.
PARAMETERS = {"two-nodes-slurm.ipynb": 'SCHEDULER = "local"\nNODES = 1'}
REAL = sorted(path.name for path in EXAMPLES.glob("*.ipynb") if path.name != REHEARSED)


def execute(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: int, parameters: str = "") -> Any:
    """Run a notebook in a folder of its own, with a kernel of this environment. Returns it with its outputs.

    ``parameters``: what its cell tagged so says instead.
    """
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for variable, sub in (("IPYTHONDIR", "ipython"), ("JUPYTER_CONFIG_DIR", "jupyter"), ("JUPYTER_RUNTIME_DIR", "run")):
        monkeypatch.setenv(variable, str(folder / sub))
    copy = shutil.copy(EXAMPLES / name, folder)
    notebook = nbformat.read(copy, as_version=4)
    if parameters:
        (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        cell.source = parameters
    client = nbclient.NotebookClient(
        notebook, timeout=timeout_s, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def outputs(notebook: Any) -> list[Any]:
    """All outputs of its cells, in order."""
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def check(found: list[Any]) -> None:
    """No cell has raised, and a card says that the job has COMPLETED."""
    assert [output for output in found if output["output_type"] == "error"] == []
    assert any("COMPLETED" in output.get("data", {}).get("text/html", "") for output in found)


def test_the_rehearsal_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outputs(execute(REHEARSED, tmp_path, monkeypatch, 120))
    drawn = [output["data"]["text/html"] for output in found if "text/html" in output.get("data", {})]
    assert any("<table" in html for html in drawn)
    check(found)


@pytest.mark.full
@pytest.mark.vllm
@pytest.mark.parametrize("name", REAL)
def test_an_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outputs(execute(name, tmp_path, monkeypatch, 600, PARAMETERS.get(name, "")))
    check(found)


def test_examples_are_committed_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    for path in EXAMPLES.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert outputs(notebook) == [], path.name
