"""How many prompts a generation batch asks, against the binomial law."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nft_jax.train.acceptance import DECAY, LEAST_SHARE, Share, prompts_to_ask
from nft_jax.types import Group, Prompt, Rollout, Verdict


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


def group(index, lengths, right):
    """A judged group of answers of these lengths; the first one is right, or all are wrong."""
    prompt, empty = Prompt(index, "", "", "", np.zeros(1, np.int32)), np.zeros(0, np.float32)
    rollouts = tuple(Rollout(prompt, k, "", np.zeros(n, np.int32), empty, empty, empty, "stop")
                     for k, n in enumerate(lengths))
    return Group(prompt, rollouts, tuple(Verdict("", float(right and k == 0)) for k in range(len(lengths))))


def test_a_group_counts_in_the_batches_of_its_longest_answer():
    groups = [group(0, (3, 10), True), group(1, (11, 2), False), group(2, (1, 1), True)]
    for budget, batches in ((0, 3), (10, 4), (5, 2 + 3 + 1)):
        share = Share(0.0, 0.0, 0.0)
        share.add(groups, budget)
        assert share == Share(3, 2, batches)


@given(wanted=st.integers(1, 500), have=st.integers(0, 600), asked=st.integers(1, 2000), data=st.data())
def test_without_open_groups_a_batch_asks_what_is_missing(wanted, have, asked, data):
    accepted = data.draw(st.integers(0, asked))
    found = Share(asked, accepted, asked).new_prompts(wanted, have, 0)
    assert found == (prompts_to_ask(wanted - have, accepted, asked) if have < wanted else 0)
    assert Share(0.0, 0.0, 0.0).new_prompts(wanted, have, 0) == max(wanted - have, 0)
    # Groups that take longer are asked earlier; open ones count as asked.
    assert Share(asked, accepted, 2 * asked).new_prompts(wanted, have, 0) >= found
    assert Share(asked, accepted, asked).new_prompts(wanted, have, 7) == max(found - 7, 0)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 64)), max_size=60))
def test_without_a_budget_a_group_takes_exactly_one_batch(steps):
    """Whatever the history, as exact numbers: the sizes of batches are those of runs from before budgets."""
    share = Share(0.0, 0.0, 0.0)
    for asked, accepted in steps:
        share.add([group(i, (3, 4), i < accepted) for i in range(asked)], 0)
        assert share.batches == share.asked
        share = Share(DECAY * share.asked, DECAY * share.accepted, DECAY * share.batches)
