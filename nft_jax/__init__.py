"""Negative-aware Fine-Tuning in JAX (H. Chen et al., arXiv 2505.18116).

The public names, and the module that each lives in. README.md shows them in use.

Importing the package loads none of them (PEP 562): a name is loaded when it is first used. So `--help` answers
without jax, and the verifier's workers never load jax.
"""
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The same names for type checkers, which see no `__getattr__`.
    from nft_jax.config import Config as Config
    from nft_jax.config import ObjectiveConfig as ObjectiveConfig
    from nft_jax.objectives.nft import implicit_negative as implicit_negative
    from nft_jax.objectives.registry import OBJECTIVES as OBJECTIVES
    from nft_jax.objectives.registry import coefficients as coefficients
    from nft_jax.objectives.registry import token_loss as token_loss
    from nft_jax.policy import Policy as Policy
    from nft_jax.policy import load as load
    from nft_jax.policy import logits as logits
    from nft_jax.policy import logprobs as logprobs
    from nft_jax.policy import sample as sample
    from nft_jax.policy import save as save
    from nft_jax.report.replay import replay as replay
    from nft_jax.train.loop import train as train
    from nft_jax.types import Group as Group
    from nft_jax.types import InputError as InputError
    from nft_jax.types import Prompt as Prompt
    from nft_jax.types import Rollout as Rollout
    from nft_jax.types import Verdict as Verdict
    from nft_jax.verify import verify as verify

__version__ = "0.1.0"

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


if not TYPE_CHECKING:           # or type checkers would find every name
    def __getattr__(name: str):
        if name not in _HOME:
            raise AttributeError(f"module 'nft_jax' has no attribute {name!r}")
        home = import_module(f"nft_jax.{_HOME[name]}")
        return home if name in _PACKAGES else getattr(home, name)


def __dir__():
    return __all__
