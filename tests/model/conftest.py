import jax
import pytest


@pytest.fixture(autouse=True)
def no_rank_promotion():
    """Every broadcast of the model is spelled out: an array that gains axes by accident is an error."""
    with jax.numpy_rank_promotion("raise"):
        yield
