"""`python -m nft_jax.model.hf --check FOLDER`: is the folder read, computed and written as it should be?

1. config.json is read, and the headers of the weights are compared with it.
2. The tokenizer is loaded, where there is one.
3. The weights are read into our parameters and written again, and every tensor must have the same bits.
4. Where torch is installed, our logits are compared with the logits of transformers.
"""
from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf.hub import resolve_folder
from nft_jax.model.hf.load import Stored, check_weights, load_params, read_config, same_bits
from nft_jax.model.hf.save import save_params
from nft_jax.model.hf.tokenizer import load_tokenizer
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError

TOLERANCE = 1e-4          # largest difference of a logit, as a share of the largest logit
ROWS, LENGTH = 2, 24      # random tokens that both implementations read


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each check. Returns 0 when all is well, 1 when something differs; bad input exits with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m nft_jax.model.hf",
        description="Check a model folder in Hugging Face layout: its config, every tensor, a bitwise round trip "
        "through our parameters, and the tokenizer. Where torch is installed, our logits are compared with the logits "
        "of transformers. Needs room for a copy in $TMPDIR, and for the model in float32 on the first device "
        "(JAX_PLATFORMS=cpu uses the host's memory).")
    parser.add_argument("--check", metavar="FOLDER", required=True, help="the folder, or the name of a hub model")
    sound, asked = True, parser.parse_args(arguments).check
    with one_paragraph_errors():
        folder = resolve_folder(asked)
        for well, line in check(folder):
            sound &= well
            print(line if well else f"DIFFERS: {line}", flush=True)
    return 0 if sound else 1


def check(folder: Path) -> Iterator[tuple[bool, str]]:
    """(whether it is well, what was found) of each check. Raises InputError for a folder that cannot be used."""
    config = read_config(folder)
    yield True, f"config: {config.family}, {decoder.told_parameters(config)}"
    stored = check_weights(folder, config)
    kinds = Counter(tensor.dtype.name for tensor in stored.values())
    files = {tensor.file for tensor in stored.values()}
    yield True, (f"tensors: {len(stored)} in {len(files)} {'file' if len(files) == 1 else 'files'}, of the "
                 f"expected names and shapes ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})")
    if any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        tokenizer = load_tokenizer(folder)
        template = "a chat template" if tokenizer.chat_template else "no chat template"
        yield True, (f"tokenizer: {len(tokenizer):,} ids for {config.vocab_size:,} rows of the embedding, {template}, "
                     f"end of sequence {tokenizer.eos_token!r}")
    else:
        yield True, "tokenizer: there is none in this folder"
    different = round_trip(folder, config, stored)
    yield not different, "round trip, read into our parameters and written again: " + (
        f"other bits in {', '.join(different[:10])}{' ...' if len(different) > 10 else ''}" if different
        else "every tensor has the same bits")
    if find_spec("torch") is None:
        yield True, "logits: torch is not installed: logits not compared"
    else:
        yield compare_logits(folder, config)


def round_trip(folder: Path, config: ModelConfig, stored: dict[str, Stored]) -> list[str]:
    """Names of the tensors whose bits change when they are read into our parameters, in the files' types, and
    written again. Raises InputError when there is no room for the copy."""
    needed = sum(int(np.prod(tensor.shape)) * tensor.dtype.itemsize for tensor in stored.values())
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if needed > free:
        raise InputError(f"the copy of {folder} needs {needed / 1e9:.1f} GB and {tempfile.gettempdir()} has "
                         f"{free / 1e9:.1f} GB: name a folder with more room in the environment variable TMPDIR.")
    with tempfile.TemporaryDirectory() as temporary:
        save_params(load_params(folder, config, dtype=None), config, temporary)
        copies = check_weights(temporary, config)
        # The head of a tied model is not written. check_weights has found it equal to the embedding.
        names = sorted(stored.keys() - ({"lm_head.weight"} if config.tie_embeddings else set()))
        return [name for name in names if not same_bits(stored[name].file, name, copies[name].file, name)]


def compare_logits(folder: Path, config: ModelConfig) -> tuple[bool, str]:
    """(whether they agree, in words) of our float32 logits and transformers', for random tokens."""
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (ROWS, min(LENGTH, config.max_positions)))
    theirs = _logits_of_transformers(folder, tokens)
    params = load_params(folder, config)

    @jax.jit
    def logits(params, tokens):
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden = decoder.hidden_states(params, config, tokens, positions, jnp.ones_like(tokens))
        return decoder.logits(params, config, hidden)

    with jax.default_matmul_precision("highest"):
        ours = np.asarray(logits(params, jnp.asarray(tokens, jnp.int32)))
    largest, scale = float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())
    agreeing = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    return largest <= TOLERANCE * scale, (
        f"logits: against transformers in float32, max |difference| {largest:.2e} where the largest logit is "
        f"{scale:.4g} (tolerance {TOLERANCE * scale:.2e}); the most likely token is the same at {agreeing:.1%} of "
        f"{tokens.size} positions")


def _logits_of_transformers(folder: Path, tokens: np.ndarray) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                 local_files_only=True).eval()
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.numpy()
