"""How many prompts a generation batch asks, against the binomial law."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nft_jax.train.acceptance import LEAST_SHARE, prompts_to_ask


def test_without_a_share_as_many_as_are_missing():
    assert prompts_to_ask(64, 0.0, 0.0) == 64


@given(missing=st.integers(1, 600), asked=st.integers(1, 4000), data=st.data())
def test_it_grows_with_what_is_missing_and_shrinks_with_the_share(missing, asked, data):
    accepted = data.draw(st.integers(0, asked))
    wanted = prompts_to_ask(missing, accepted, asked)
    assert missing <= wanted <= np.ceil(missing / LEAST_SHARE)
    assert wanted <= prompts_to_ask(missing + 1, accepted, asked)
    assert wanted >= prompts_to_ask(missing, min(accepted + 1, asked), asked) - 1
    assert (wanted == missing) == (accepted == asked)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("missing", [16, 64, 512])
def test_nine_batches_in_ten_suffice(share, missing):
    """The share told by as many prompts as two such batches. A tenth falls short, and few groups are left over."""
    rng, told = np.random.default_rng(0), int(2 * missing / share)
    accepted = np.maximum(rng.binomial(told, share, 400), 1)
    wanted = np.array([prompts_to_ask(missing, each, told) for each in accepted])
    found = rng.binomial(wanted, share)
    assert 0.84 <= (found >= missing).mean() <= 0.97
    assert np.mean(found) - missing <= 3.2 * np.sqrt(missing)
