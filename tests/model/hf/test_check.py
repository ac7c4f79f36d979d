"""`python -m nft_jax.model.hf --check FOLDER`: what it says, and how it exits."""
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from model_folders import FIXTURES, NANO
from nft_jax.model.hf import check
from refusal import refused

ROOT = Path(__file__).parents[3]
LOGITS = "logits: against transformers in float32, max |difference|" if find_spec("torch") else \
    "logits: torch is not installed: logits not compared"


def lines_of(folder, capsys):
    status = check.main(["--check", str(folder)])
    return status, capsys.readouterr()


def test_the_embedded_model_by_its_command():
    done = subprocess.run([sys.executable, "-m", "nft_jax.model.hf", "--check", str(NANO)], cwd=ROOT, timeout=200,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for text in ("config: qwen3, 801,152 parameters", "tensors: 46 in 1 file, of the expected names",
                 "tokenizer: 103 ids for 104 rows", "every tensor has the same bits", LOGITS):
        assert text in done.stdout
    assert "DIFFERS" not in done.stdout


@pytest.mark.parametrize("name", ["qwen3_untied_sharded", "gemma3_tied_softcap"])
def test_fixtures(name, capsys):
    status, told = lines_of(FIXTURES / name, capsys)
    assert status == 0 and "tokenizer: there is none" in told.out and LOGITS in told.out


def test_a_folder_of_several_types_with_the_head_of_a_tied_model(copy_of, capsys):
    """Every tensor in its own type; the surplus head is equal to the embedding and not written."""
    def mix(arrays):
        arrays |= {name: a.astype(ml_dtypes.bfloat16) for name, a in arrays.items() if "norm" not in name}
        arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()

    status, told = lines_of(copy_of("qwen3_tied", change=mix), capsys)
    assert status == 0 and " bfloat16, " in told.out and "every tensor has the same bits" in told.out


def test_a_tensor_that_comes_out_differently_is_named(monkeypatch, capsys):
    plain = check.load_params

    def wrong(folder, config, dtype="float32"):
        params = plain(folder, config, dtype)
        return {**params, "final_norm": -params["final_norm"]} if dtype is None else params

    monkeypatch.setattr(check, "load_params", wrong)
    status, told = lines_of(FIXTURES / "qwen3_tied", capsys)
    assert status == 1 and "DIFFERS: round trip" in told.out and "other bits in model.norm.weight\n" in told.out


def test_logits_that_differ(monkeypatch, capsys):
    """Against given logits, whatever computed them."""
    monkeypatch.setattr(check, "find_spec", lambda name: True)
    monkeypatch.setattr(check, "_logits_of_transformers",
                        lambda folder, tokens: np.ones((*tokens.shape, 61), np.float32))
    status, told = lines_of(FIXTURES / "qwen3_tied", capsys)
    assert status == 1 and "DIFFERS: logits: against transformers" in told.out


def test_bad_input(copy_of, capsys, monkeypatch):
    cut = copy_of("qwen3_tied")
    (cut / "model.safetensors").write_bytes(b"")
    for arguments, said in ((["--check", str(cut)], "damaged or cut short"), ([], "--check")):
        with pytest.raises(SystemExit) as stopped:
            check.main(arguments)
        assert stopped.value.code == 2 and said in capsys.readouterr().err
    monkeypatch.setattr(check.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with refused("TMPDIR", str(FIXTURES / "qwen3_tied")):
        list(check.check(FIXTURES / "qwen3_tied"))
