"""Hugging Face folders in and out, without torch: config.json, safetensors, tokenizer.

    folder = resolve_folder("Qwen/Qwen3-0.6B")
    config = read_config(folder)
    params = load_params(folder, config)                 HF -> ours -> HF is bitwise equal
    save_params(params, config, "my_model")

    python -m nft_jax.model.hf --check FOLDER            is the folder read, computed and written as it should be?

How to add a family: `nft_jax.model.hf.families`.
"""
from nft_jax.model.hf.hub import config_of, is_local, resolve_folder
from nft_jax.model.hf.load import check_weights, load_params, read_config
from nft_jax.model.hf.save import save_params
from nft_jax.model.hf.tokenizer import eos_token_ids, load_tokenizer, save_tokenizer, special_ids
from nft_jax.model.hf.translate import config_from_hf, config_to_hf

__all__ = ["check_weights", "config_from_hf", "config_of", "config_to_hf", "eos_token_ids", "is_local",
           "load_params", "load_tokenizer", "read_config", "resolve_folder", "save_params", "save_tokenizer",
           "special_ids"]
