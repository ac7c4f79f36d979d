"""Was it right? The way in is `nft_jax.verify(...)`, `Verifier`, and `check_gold` for golds.

No jax in this room, and no sympy outside of worker processes. README.md has the conventions and the rewards.
"""
from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Sequence
from types import ModuleType

from nft_jax.config import VerifierConfig
from nft_jax.types import InputError, Verdict
from nft_jax.verify.maths.extract import MODES, Mode
from nft_jax.verify.maths.judge import check_gold
from nft_jax.verify.pool import Verifier

__all__ = ["Verifier", "check_gold", "verify"]

_shared: dict[str, Verifier] = {}
_lock = threading.Lock()


def verify(responses: Sequence[str], golds: Sequence[str], mode: Mode = "equivalent",
           prompts: Sequence[str] | None = None) -> list[Verdict]:
    """Verdicts on responses against their golds: one for each response, in order. With `prompts`, the questions, a
    response that only repeats one is `copied`. Workers start when the first answer needs one, and stay until the
    process ends; `Verifier` has other settings and lifetimes. Raises InputError for lengths that differ, elements
    that are no strings, and unknown modes."""
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}: use one of {', '.join(MODES)}.")
    with _lock:
        if mode not in _shared:
            _shared[mode] = Verifier(VerifierConfig(mode=mode))
            atexit.register(_shared[mode].close)
    return _shared[mode].judge(responses, golds, prompts)


class _CallablePackage(ModuleType):
    """Makes `nft_jax.verify(...)` work: an import binds the package where the function was."""
    __call__ = staticmethod(verify)


sys.modules[__name__].__class__ = _CallablePackage
