"""Training: Algorithm 1 in `loop`, and what it works with. Importing the package loads nothing."""
import sys
from types import ModuleType


class _Callable(ModuleType):
    """The package, which is also the function `nft_jax.train.loop.train` when it is called.

    Importing a subpackage binds its name in its parent. So `nft_jax.train` is this package as soon as any module of it
    is imported, and a function of that name in `nft_jax` would be hidden. `nft_jax.verify` has the same trick."""

    def __call__(self, config, **options) -> dict:
        from nft_jax.train.loop import train
        return train(config, **options)


sys.modules[__name__].__class__ = _Callable
