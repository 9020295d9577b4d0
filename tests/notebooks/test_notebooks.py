import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
EXECUTE = """
import sys
from pathlib import Path
import nbclient, nbformat
source, executed = map(Path, sys.argv[1:])
notebook = nbformat.read(source, as_version=4)
where = {"metadata": {"path": str(source.parent)}}
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
nbformat.write(notebook, executed)
"""


def cells_of(path, kind):
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_nothing_that_was_computed_is_stored(path):
    assert [c for c in cells_of(path, "code") if c["outputs"] or c["execution_count"] is not None] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_every_cell_is_announced(path):
    kinds = [cell["cell_type"] for cell in json.loads(path.read_text())["cells"]]
    assert kinds == ["markdown", "code"] * (len(kinds) // 2) + ["markdown"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_runs_and_draws(path, tmp_path, tmp_path_factory):
    """In its short form, warnings that it shows being errors."""
    cache = tmp_path_factory.getbasetemp().parent / "compiled"
    settings = {"TWEEDIE_FAST": "1", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    settings |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    settings |= {"PYTHONPATH": os.pathsep.join([str(path.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])}
    settings |= {"IPYTHONDIR": str(tmp_path / "ipython"), "TMPDIR": str(tmp_path)}
    executed = tmp_path / "executed.ipynb"
    command = [sys.executable, "-c", EXECUTE, path, executed]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    code = cells_of(executed, "code")
    outputs = [output for cell in code for output in cell["outputs"]]
    said = "".join("".join(output["text"]) for output in outputs if output.get("name") == "stderr")
    assert "Warning" not in said, said
    drawn = ["image/png" in output.get("data", {}) for output in outputs]
    assert sum(drawn) == sum(asks_for_a_picture(cell) for cell in code)


def asks_for_a_picture(cell):
    source = "".join(cell["source"])
    lines = source.splitlines()
    return any(line.startswith(("figure, ", "plot(", "plot_excess(", "show(")) for line in lines)
