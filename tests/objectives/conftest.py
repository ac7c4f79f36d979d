"""How the tests of objectives compute."""
import jax
import pytest


@pytest.fixture(autouse=True)
def strict_ranks():
    """No shapes of different ranks are broadcast silently."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
