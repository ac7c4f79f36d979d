"""The notebook runs from a fresh clone, and is committed without what running it leaves behind."""
import json
import os
import shutil
from pathlib import Path

import pytest

from model_folders import NANO

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "experiments" / "first_steps.ipynb"


def test_it_is_committed_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_readme_and_the_notebook_open_the_same_file():
    """Badges of Colab and Kaggle."""
    place = "ORG/nft_jax/blob/main/" + str(NOTEBOOK.relative_to(ROOT))
    for page in ((ROOT / "README.md").read_text(), "".join(json.loads(NOTEBOOK.read_text())["cells"][0]["source"])):
        assert f"https://colab.research.google.com/github/{place}" in page
        assert f"https://kaggle.com/kernels/welcome?src=https://github.com/{place}" in page


@pytest.mark.slow
def test_it_runs(tmp_path):
    """As in a fresh clone, on the one device of an ordinary CPU; its last cell with a model of one's own."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    shutil.copytree(NANO, tmp_path / "model")
    rows = [{"problem": f"{i}+{i + 3}", "answer": str(2 * i + 3)} for i in range(40)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute(env={name: value for name, value in os.environ.items()
                        if name not in ("NFT_RUN", "JAX_NUM_CPU_DEVICES")} | {
        "NFT_RUNS": str(tmp_path), "NFT_MODEL": str(tmp_path / "model"), "NFT_QUESTIONS": str(tmp_path / "q.jsonl"),
        "NFT_MAX_NEW_TOKENS": "32", "NFT_TEMPLATE": "{problem}"})
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = [set(output.get("data", {})) for output in outputs]
    assert sum("image/png" in kind for kind in kinds) == 3 and sum("text/html" in kind for kind in kinds) >= 8
    # What a notebook shows in red.
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    text = "".join(output.get("text", "") for output in outputs)
    assert "answers are right" in text and "x below ε at" in text and "new log-probs are the policy's" in text
    # Right and wrong answers of a group, whatever K is: 16 here.
    shown = "".join(output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {}))
    assert ">1</td>" in shown and ">0</td>" in shown
    for name, file in (("saved", "model.safetensors"), ("adapter", "adapter_model.safetensors")):
        assert (tmp_path / name / file).is_file()
    assert (tmp_path / "own" / "summary.json").is_file()
