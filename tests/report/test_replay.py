"""Steps replayed: against formulas in float64, and against what the run itself wrote down of the step."""
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

import nft_jax
from made import make_group, make_run
from nft_jax.config import BatchConfig, CheckpointConfig, Config, EvaluationConfig, ObjectiveConfig, RolloutConfig
from nft_jax.record.metrics import read_metrics
from nft_jax.record.rollouts import groups_to_table, table_to_groups
from nft_jax.train import loop
from nft_jax.train.batch import deal
from refusal import refused
from runs import use_devices

NANO = Path(__file__).parents[2] / "nft_jax" / "assets" / "nano"
REWARDS = ((1, 0, 0, 0), (1, 1, 1, 0), (0, 0, 0, 0), (1, 0, None, 0))


@pytest.fixture(scope="module")
def policy():
    return nft_jax.load(NANO)


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """A step of groups made by hand: r = 1/4, 3/4, 0 (not trained on) and 1/3, an answer of which has no verdict. Their
    old log-probs are as low, here and there, as a model's of tokens drawn at random."""
    folder = make_run(tmp_path_factory.mktemp("made") / "run", rewards=REWARDS, vocabulary=100,
                      batch__updates_per_step=2)
    path, rng = folder / "rollouts" / "step_000002.parquet", np.random.default_rng(0)
    groups = [replace(group, old_logprobs=tuple(-rng.exponential(6, len(r.tokens)).astype(np.float32)
                                                for r in group.rollouts))
              for group in table_to_groups(pq.read_table(path))]
    pq.write_table(groups_to_table(groups, frozenset({20, 21, 23})), path)
    return path


@pytest.fixture(scope="module")
def rollouts(step):
    """Rollouts and old log-probs by prompt and sample."""
    return {(rollout.prompt.index, rollout.sample): (rollout, old) for group in table_to_groups(pq.read_table(step))
            for rollout, old in zip(group.rollouts, group.old_logprobs, strict=True)}


def nft_by_hand(delta, s, r, epsilon):
    x, weight = (1 - r * np.exp(delta)) / (1 - r), 1 - r
    if s:
        return -weight * delta, np.full(delta.shape, weight), np.zeros(delta.shape, bool)
    return (-weight * np.log(np.maximum(x, epsilon)), -weight * r / (1 - r) * np.exp(delta) / np.maximum(x, epsilon),
            x < epsilon - 1e-4)


def grpo_by_hand(delta, s, r, epsilon):
    advantage, ratio = (s - r) / np.sqrt(r * (1 - r)), np.exp(delta)
    clipped = (ratio > 1.2) if s else (ratio < 0.8)
    return (-np.minimum(advantage * ratio, advantage * np.clip(ratio, 0.8, 1.2)),
            np.where(clipped, 0, advantage * ratio), clipped)


@pytest.mark.parametrize(("objective", "by_hand", "flag"), [("nft", nft_by_hand, "clamped"),
                                                           ("grpo", grpo_by_hand, "clipped")])
def test_a_policy_s_tokens_have_the_formula_s_numbers(step, rollouts, policy, objective, by_hand, flag):
    """Ratios of a model to made-up old log-probs: far from 1, on both sides."""
    config = ObjectiveConfig(epsilon=0.5) if objective == "nft" else None
    found = nft_jax.replay(step, objective, policy, config=config, temperature=0.9)
    names = [(answer.prompt_index, answer.sample) for answer in found.answers]
    assert sorted(names) == [(g, i) for g, n in ((20, (0, 1, 2, 3)), (21, (0, 1, 2, 3)), (23, (0, 1, 3))) for i in n]
    scored = nft_jax.logprobs(policy, [rollouts[name][0] for name in names], temperature=0.9)
    reached = set()
    for answer, logprobs, name in zip(found.answers, scored, names, strict=True):
        _, old = rollouts[name]
        np.testing.assert_allclose(answer.logprobs, logprobs, atol=2e-5)
        np.testing.assert_array_equal(answer.old_logprobs, old)
        delta = answer.logprobs.astype(np.float64) - old
        r = answer.group_accuracy
        np.testing.assert_allclose(answer.x, (1 - r * answer.ratio) / (1 - r), rtol=1e-4, atol=1e-4)
        r = {20: 1 / 4, 21: 3 / 4, 23: 1 / 3}[name[0]]
        loss, coefficient, flags = by_hand(np.minimum(delta, 10), answer.reward, r, 0.5)
        np.testing.assert_allclose(answer.ratio, np.exp(np.minimum(delta, 10)), rtol=1e-5)
        np.testing.assert_allclose(answer.loss, loss, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(answer.coefficient, np.where(delta > 10, 0, coefficient), rtol=1e-4)
        np.testing.assert_array_equal(getattr(answer, flag), flags)
        assert len(answer.tokens) == len(answer.ids) == len(answer.ratio)
        assert "".join(answer.tokens) == policy.tokenizer.decode(answer.ids.tolist())
        reached |= set(flags.tolist())
    assert reached == {True, False} and "the policy's" in found.notes[0]


def test_without_a_policy_every_ratio_is_one_and_updates_are_those_of_the_run(step):
    found = nft_jax.replay(step)
    table, summary = found.table(), found.summary()
    assert found.objective == "nft" and len(found.notes) == 1 and "every ratio is 1" in repr(found)
    assert (table.ratio == 1).all() and (table.loss == 0).all() and not table[["clamped", "clipped"]].any(axis=None)
    np.testing.assert_allclose(table.coefficient, table.reward - table.group_accuracy, rtol=1e-6)
    groups = [group for group in table_to_groups(pq.read_table(step)) if group.has_signal]
    for update, part in enumerate(deal(groups, 2, (0, 1))):
        of = table[table["update"] == update]
        assert set(of.prompt_index) == {group.prompt.index for group in part}
        np.testing.assert_allclose(of.weight, 1 / len(of), rtol=1e-6)            # token_mean of its optimizer step
    assert list(summary.index) == ["positive", "negative"] and list(summary.answers) == [5, 6]
    assert summary.tokens.sum() == len(table)
    assert summary.push["positive"] == pytest.approx(
        (table.weight * table.coefficient)[table.reward == 1].sum())
    assert found.metrics["coefficient/negative"] == pytest.approx(summary.coefficient["negative"], rel=1e-5)


def test_objectives_of_whole_groups_and_of_one_s_own(step, rollouts):
    table = nft_jax.replay(step, "dpo").table()
    heads = table[table.position == 0]
    np.testing.assert_allclose(heads.groupby("prompt_index").coefficient.sum(), 0, atol=1e-7)
    top = heads[(heads.prompt_index == 20) & (heads.reward == 1)]
    assert top.coefficient.item() == pytest.approx(0.1 * (1 - 1 / 4), rel=1e-5)          # beta (w - W p)

    def surprised(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
        return -logprobs * extras["entropies"], {}

    found = nft_jax.replay(step, surprised)
    assert found.objective == "surprised"
    for answer in found.answers:
        rollout, _ = rollouts[answer.prompt_index, answer.sample]
        np.testing.assert_array_equal(answer.coefficient, rollout.entropies)


def test_answers_that_nobody_scored_have_the_sampler_s_log_probs(tmp_path):
    """As in the table of an evaluation; and outside a run's folder, where the ids stand for the texts."""
    groups = [make_group(i, each, rng=np.random.default_rng(i), old=False) for i, each in enumerate(REWARDS)]
    path = tmp_path / "answers.parquet"
    pq.write_table(groups_to_table(groups), path)
    found = nft_jax.replay(path, "grpo", kept=False)
    assert "of 3 groups are the sampler's" in found.notes[1] and {a.update for a in found.answers} == {0}
    assert {a.prompt_index for a in found.answers} == {0, 1, 3}
    for answer in found.answers:
        np.testing.assert_array_equal(answer.old_logprobs, groups[answer.prompt_index].rollouts[answer.sample].logprobs)
        assert answer.tokens == tuple(map(str, answer.ids))


def test_mistakes_are_named(step, tmp_path, policy):
    run = step.parent.parent
    for wrong in (run / "rollouts" / "step_000009.parquet", tmp_path, run / "config.json"):
        with refused("step", wrong):
            nft_jax.replay(wrong, "nft")
    table = pq.read_table(step)
    lone = tmp_path / "lone.parquet"
    pq.write_table(table.drop_columns(["reward", "tokens"]), lone)
    with refused("step", lone, "reward, tokens"):
        nft_jax.replay(lone, "nft")
    pq.write_table(table, lone)
    with refused("objective", None, lone):
        nft_jax.replay(lone)
    pq.write_table(table.drop_columns(["kept"]), lone)
    with refused("step", lone, "kept=False"):
        nft_jax.replay(lone, "nft")
    pq.write_table(table.slice(8, 4), lone)
    with refused("step", lone):
        nft_jax.replay(lone, "nft", kept=False)
    with refused("epsilon", 2.0, "grpo"):
        nft_jax.replay(step, "grpo", config=ObjectiveConfig(epsilon=2.0))
    with refused("policy", "vocab_size", 8):
        nft_jax.replay(step, "nft", replace(policy, config=replace(policy.config, vocab_size=8)))


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory):
    """Old log-probs of the second step are of the model before the first: it trains at ratios that are not 1."""
    folder = tmp_path_factory.mktemp("replayed") / "run"
    config = small_run(folder, batch=BatchConfig(updates_per_step=1, row_length=64, rows_per_micro_batch=4),
                       rollout=RolloutConfig(prompts_per_step=6, samples_per_prompt=4, max_new_tokens=32, slots=16,
                                             block_size=8, temperature=0.9),
                       evaluation=EvaluationConfig(questions=1, samples=1, every=0), loss=ObjectiveConfig(epsilon=0.5),
                       checkpoint=CheckpointConfig(every=1, keep=2))
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=3e-3, warmup_updates=1))
    first, score = [], loop.score

    def by_the_first(run, params, judged, old=True):
        if not first:
            first.append(jax.tree.map(jnp.copy, params))
        return score(run, first[0], judged, old=old)

    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch)
        patch.setattr(loop, "score", by_the_first)
        # Or its one update would compute the old log-probs itself.
        patch.setattr(Config, "on_policy", False)
        loop.train(config, quiet=True)
    return folder


def test_a_replayed_step_is_the_step_that_was_trained(run):
    """At the parameters of the checkpoint before it: every metric of the row that the objective decides."""
    row = read_metrics(run / "metrics.jsonl")[2]
    found = nft_jax.replay(run, policy=nft_jax.load(run, step=1))
    assert found.path.name == "step_000002.parquet" and found.config.epsilon == 0.5
    assert set(found.metrics) <= set(row) and row["ratio/max_negative"] > 1.05 and row["loss/total"] != 0
    for name, value in found.metrics.items():
        assert value == pytest.approx(row[name], rel=2e-3, abs=2e-6), name
    table = found.table()
    assert (table.weight * table.loss).sum() == pytest.approx(row["loss/total"], rel=2e-3)
    after = nft_jax.replay(run, policy=run)                       # the newest checkpoint, that of the step itself
    assert after.metrics["ratio/max_negative"] > 1.1 * found.metrics["ratio/max_negative"]


def test_the_implicit_negative_policy_completes_the_old_one():
    rng = np.random.default_rng(0)
    old, new = (np.log(rng.dirichlet(np.full(50, 0.3), 4).astype(np.float64) + 1e-12) for _ in range(2))
    r = np.array([0.25, 0.5, 0.75, 0.001])[:, None]
    negative = np.asarray(nft_jax.implicit_negative(new, old, r), np.float64)
    clipped = np.clip(r, 0.02, 0.98)
    np.testing.assert_allclose(negative, (np.exp(old) - clipped * np.exp(new)) / (1 - clipped), atol=1e-6)
    np.testing.assert_allclose(negative.sum(1), 1, atol=1e-5)
    saturated = clipped * np.exp(new - old) > 1 + 1e-4
    assert saturated.any() and (negative[saturated] < 0).all()
    assert (negative[clipped * np.exp(new - old) < 1 - 1e-4] > 0).all()
