"""Negative-aware Fine-Tuning in JAX (H. Chen et al., arXiv 2505.18116).

The public names, and the module that each lives in:

    import nft_jax

    policy = nft_jax.load("nano")                                  # the model that comes with the package
    answers = nft_jax.sample(policy, ["17+25-8"], num_samples=4)
    verdicts = nft_jax.verify([a.text for a in answers], ["34"] * 4)
    nft_jax.train(nft_jax.Config(steps=10))

Importing the package loads none of them (PEP 562): a name is loaded when it is first used. So `--help` answers
without jax, and the verifier's workers never load jax.
"""
from importlib import import_module

_NAMES = {
    # A model in the hand: load, sample, score, save.
    "policy": ("Policy", "load", "save", "sample", "logits", "logprobs"),
    # Was it right?
    "verify": ("verify",),
    # The loss, and what it does to each token.
    "objectives.registry": ("OBJECTIVES", "token_loss", "coefficients"),
    "objectives.nft": ("implicit_negative",),
    "report.replay": ("replay",),
    # A whole run.
    "config": ("Config", "ObjectiveConfig"),
    "train": ("train",),
    # What the rooms hand to each other.
    "types": ("Prompt", "Rollout", "Verdict", "Group", "InputError"),
}
_HOME = {name: home for home, names in _NAMES.items() for name in names}
# These packages are callable: nft_jax.verify(...) and nft_jax.verify.Verifier are both public.
_PACKAGES = ("verify", "train")

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'nft_jax' has no attribute {name!r}")
    home = import_module(f"nft_jax.{_HOME[name]}")
    return home if name in _PACKAGES else getattr(home, name)


def __dir__():
    return __all__
