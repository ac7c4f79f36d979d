"""Training and sampling on a GPU in bfloat16, against float32.

    JAX_PLATFORMS=cuda,cpu python -m pytest tests/gpu
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import nft_jax
from nft_jax.model import decoder
from nft_jax.model.config import FLOAT32, Compute, ModelConfig
from nft_jax.model.kernels import choose_attention
from nft_jax.model.logprobs import token_logprobs
from nft_jax.record.metrics import read_metrics
from nft_jax.train.loop import train

MODEL = ModelConfig("qwen2", 5000, 448, 1024, 3, 14, 2, 64, 1024, tie_embeddings=True, qkv_bias=True)


def test_log_probs_and_gradients_in_bfloat16(float32_reference):
    """A model with Qwen2.5-0.5B's heads on packed rows: log-probs, entropies, and the gradient of every matrix."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, MODEL.vocab_size, (4, 512)).astype(np.int32)
    segment_ids = np.repeat(np.array([[1, 2, 0]] * 4, np.int32), [200, 280, 32], axis=1)
    positions = np.tile(np.concatenate([np.arange(200), np.arange(280), np.arange(32)]).astype(np.int32), (4, 1))
    wanted = (segment_ids > 0) & (positions > 50)

    def outputs(compute):
        def total(params):
            both = token_logprobs(params, MODEL, tokens, positions, segment_ids, wanted=wanted, compute=compute)
            return -both[0].sum() / wanted.sum(), both
        params = decoder.init(MODEL, jax.random.key(0))
        return jax.device_get(jax.jit(jax.grad(total, has_aux=True))(params))

    with float32_reference:
        expected_gradient, expected = outputs(FLOAT32)
    gradient, both = outputs(Compute("bfloat16", attention="cudnn"))
    for got, reference in zip(both, expected, strict=True):
        assert got.dtype == np.float32
        assert (got[~wanted] == 0).all()
        assert 0 < np.abs(got - reference)[wanted].mean() < 0.02
    for (path, got), reference in zip(jax.tree.leaves_with_path(gradient), jax.tree.leaves(expected_gradient),
                                      strict=True):
        if np.abs(reference).max() > 1e-7:            # a key's bias changes nothing, so its gradient is rounding
            cosine = (got * reference).sum() / np.sqrt((got ** 2).sum() * (reference ** 2).sum())
            assert cosine > 0.99, jax.tree_util.keystr(path)


def test_a_run_on_the_gpu(small_run, tmp_path, capsys):
    """Sampling, old log-probs and optimizer steps in bfloat16: the kernel is named, the numbers are finite, the
    sampler's log-probs are near the trainer's, and the parameters near those of a run in float32."""
    runs = {}
    for dtype in ("bfloat16", "float32"):
        config = small_run(tmp_path / dtype)
        train(dataclasses.replace(config, policy=dataclasses.replace(config.policy, compute_dtype=dtype)))
        attention, reason = choose_attention("auto", "gpu", dtype, 32)
        assert f"attention: {attention} ({reason})" in " ".join(capsys.readouterr().out.split())
        runs[dtype] = read_metrics(tmp_path / dtype / "metrics.jsonl")
    for row in runs["bfloat16"][1:]:
        assert all(np.isfinite(row[name]) for name in ("loss/total", "grad_norm/mean", "entropy/all"))
        assert row["mismatch/mean"] < 0.05
    trained, reference = (nft_jax.load(tmp_path / dtype / "model").params for dtype in runs)
    for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(reference), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=2e-3)            # four updates at a rate of 1e-4 move by 4e-4 at most


def test_samples_are_scored_alike_in_float32(small_run, tmp_path, float32_reference):
    """What the GPU sampled, by a float32 pass: the sampler's log-probs to the precision of its own."""
    policy = nft_jax.load(small_run(tmp_path).policy.path)
    rollouts = nft_jax.sample(policy, ["1 + 2 = ?", "12 * 3 = ?"], num_samples=4, max_new_tokens=24)
    with float32_reference:
        policy = dataclasses.replace(policy, params=jax.tree.map(jnp.asarray, jax.device_get(policy.params)))
        scored = nft_jax.logprobs(policy, rollouts)
    for rollout, values in zip(rollouts, scored, strict=True):
        np.testing.assert_allclose(rollout.logprobs, values, atol=2e-2)
