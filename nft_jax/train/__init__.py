"""Training: Algorithm 1 in `loop`, and what it works with. Importing the package loads nothing."""
import sys
from types import ModuleType


class _Callable(ModuleType):
    """The package, which is also the function `nft_jax.train.loop.train` when it is called. Importing any module
    of the package binds `nft_jax.train` to it, which would hide a function of that name."""

    def __call__(self, config, **options) -> dict:
        from nft_jax.train.loop import train
        return train(config, **options)


sys.modules[__name__].__class__ = _Callable
