"""Negative-aware Fine-Tuning in JAX (H. Chen et al., arXiv 2505.18116).

The names below are the public face. They are loaded on first use (PEP 562), so that `import nft_jax` is instant, a
verifier worker never loads jax, and `--help` answers at once.
"""
from importlib import import_module

_HOME = {
    "Policy": "policy", "load": "policy", "save": "policy", "sample": "policy", "logits": "policy",
    "logprobs": "policy",
    "verify": "verify",
    "token_loss": "objectives.registry", "coefficients": "objectives.registry", "OBJECTIVES": "objectives.registry",
    "implicit_negative": "objectives.nft", "replay": "report.replay",
    "Config": "config", "ObjectiveConfig": "config",
    "train": "train",
    "Group": "types", "InputError": "types", "Prompt": "types", "Rollout": "types", "Verdict": "types",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'nft_jax' has no attribute {name!r}")
    home = import_module(f"nft_jax.{_HOME[name]}")
    return home if name in ("verify", "train") else getattr(home, name)      # these packages are callable


def __dir__():
    return __all__
