"""Writes tests/model/fixtures: tiny random Qwen2 and Qwen3 folders with the logits transformers computes for them.

    pip install torch transformers safetensors && python tests/model/make_fixtures.py

Run by hand; the tests need neither torch nor this script. The shapes are awkward on purpose: head_dim is not
hidden_size / heads, three queries share a kv head, and norms and biases are away from their initial 1 and 0.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

FOLDER = Path(__file__).parent / "fixtures"
COMMON = {"hidden_size": 20, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 26,
          "max_position_embeddings": 128, "attention_dropout": 0.0}
CASES = {       # name: (family, settings, largest file)
    "qwen2_tied": ("qwen2", {"vocab_size": 61, "num_hidden_layers": 3, "head_dim": 10, "tie_word_embeddings": True,
                             "rms_norm_eps": 3e-3, "rope_theta": 777.0}, "1MB"),
    "qwen2_untied": ("qwen2", {"vocab_size": 53, "num_hidden_layers": 2, "hidden_size": 36,
                               "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "rope_theta": 1e6}, "1MB"),
    "qwen3_tied": ("qwen3", {"vocab_size": 61, "num_hidden_layers": 2, "head_dim": 14, "tie_word_embeddings": True,
                             "rms_norm_eps": 1e-5, "rope_theta": 5e5}, "1MB"),
    "qwen3_untied_sharded": ("qwen3", {"vocab_size": 67, "num_hidden_layers": 3, "head_dim": 6,
                                       "tie_word_embeddings": False, "rms_norm_eps": 2e-2, "rope_theta": 10.0}, "20KB"),
}
CLASSES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
LENGTHS = (17, 1, 9, 16)


def make(name: str, family: str, settings: dict, largest_file: str, seed: int) -> None:
    """Write one folder: config.json, weights, and reference.npz (tokens, lengths, logits; rows padded on the right)."""
    torch.manual_seed(seed)
    make_config, make_model = CLASSES[family]
    rope = {"rope_type": "default", "rope_theta": settings["rope_theta"]}
    others = {key: value for key, value in settings.items() if key != "rope_theta"}
    config = make_config(**{**COMMON, **others}, rope_parameters=rope, attn_implementation="eager")
    model = make_model(config).float().eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0.0, 0.5 if parameter_name.endswith("bias") else 0.3)
    lengths = torch.tensor(LENGTHS)
    mask = (torch.arange(max(LENGTHS))[None] < lengths[:, None]).long()
    tokens = torch.randint(0, config.vocab_size, mask.shape)
    with torch.no_grad():
        logits = model(tokens, attention_mask=mask).logits
    model.save_pretrained(FOLDER / name, max_shard_size=largest_file)
    (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(FOLDER / name / "reference.npz", tokens=tokens.numpy().astype(np.int32),
                        lengths=lengths.numpy(), logits=logits.numpy())


if __name__ == "__main__":
    for seed, (case, arguments) in enumerate(CASES.items()):
        make(case, *arguments, seed=seed)
