"""The notebook runs from a fresh clone, and is committed without what running it leaves behind."""
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "experiments" / "loss_inspection.ipynb"


def test_it_is_committed_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_it_runs():
    """As in a fresh clone, where it makes its own run, on the one device of an ordinary CPU."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute(env={name: value for name, value in os.environ.items()
                        if name not in ("NFT_RUN", "JAX_NUM_CPU_DEVICES")})
    found = [set(output.get("data", {})) for cell in notebook.cells if cell.cell_type == "code"
             for output in cell.outputs]
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert sum("image/png" in data for data in found) == 2 and sum("text/html" in data for data in found) >= 6
    assert "π⁻ < 0 at" in text and "new log-probs are the policy's" in text
