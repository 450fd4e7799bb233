"""Every notebook runs from top to bottom, and is kept without outputs."""

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NEEDS = {"export_and_serve.ipynb": ("flatbuffers", "starlette", "uvicorn")}
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def read(path):
    return pytest.importorskip("nbformat").read(path, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


@each
def test_outputs_are_cleared(path):
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert not cell.outputs, f"clear the outputs: {cell.source[:60]}"
            assert cell.execution_count is None


@each
def test_is_valid_and_short(path):
    notebook = read(path)
    pytest.importorskip("nbformat").validate(notebook)
    assert len(notebook.cells) <= 20
    assert notebook.cells[0].cell_type == "markdown"


@pytest.mark.slow
@pytest.mark.timeout(600)  # beside other work a training takes its time
@each
def test_runs(path, minilm_path, tmp_path, monkeypatch):
    """In a kernel of its own, as its reader's: one device, no import hook."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for package in NEEDS.get(path.name, ()):
        pytest.importorskip(package)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # nothing in the reader's home
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    root = str(FOLDER.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    notebook = read(path)
    client = nbclient.NotebookClient(
        notebook, timeout=560, kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )  # fmt: skip
    client.execute()
    text = "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert "nDCG@10" in text
