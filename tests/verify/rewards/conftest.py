"""The sandboxes that programs of a model run in."""
import pytest

from nft_jax.types import InputError
from nft_jax.verify.rewards import code, sandbox
from nft_jax.verify.rewards.sandbox import find_sandbox


@pytest.fixture(scope="module")
def strong():
    """The real sandbox; without it there is nothing to prove."""
    try:
        return find_sandbox(False)
    except InputError as problem:
        pytest.skip(f"no sandbox here: {problem}")


@pytest.fixture(scope="module")
def weak():
    """Limits and the filter alone, as on a machine without bubblewrap."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox.shutil, "which", lambda name: None)
        find_sandbox.cache_clear()
        found = find_sandbox(True)
    find_sandbox.cache_clear()
    assert found.is_weak
    return found


@pytest.fixture(params=["strong", "weak"])
def box(request, monkeypatch):
    """Each sandbox, and the one that the rewards use."""
    found = request.getfixturevalue(request.param)
    monkeypatch.setattr(code, "find_sandbox", lambda allow_weak: found)
    return found
