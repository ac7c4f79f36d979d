"""Tunix (google-tunix) on the benchmark's workloads, its Qwen2 model with random weights.

    rollout, rollout_var   tunix.generate.sampler.Sampler
    train, train_var       RLCluster.get_old_per_token_logps and RLCluster.update_actor
    e2e                    GRPOLearner.train with vanilla rollout, beta 0, num_iterations 1: Tunix then skips the
                           forward pass for old log-probs
    --pack N               train_var with Tunix's sequence packing, N tokens in a row
"""
from __future__ import annotations

import importlib.metadata
import os
import time
from itertools import pairwise

from experiments.peers.common import (
    EOS,
    MODELS,
    PROMPT_LENGTH,
    TASKS,
    WORKLOADS,
    NumberTokenizer,
    Seconds,
    Timed,
    emit,
    even_share,
    limit_threads,
    peer_options,
    prompt_tokens,
    repeat,
    result,
    rollout_lengths,
    train_arrays,
)


def build(shape):
    """The model, its matrices drawn by us: Tunix initialises the MLPs to zero."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx
    from tunix.models.qwen2 import model as qwen2
    config = qwen2.ModelConfig(
        num_layers=shape.layers, vocab_size=shape.vocab, embed_dim=shape.hidden, hidden_dim=shape.intermediate,
        num_heads=shape.heads, head_dim=shape.head_dim, num_kv_heads=shape.kv_heads, rope_theta=int(shape.rope_theta),
        norm_eps=1e-6, use_tied_embedding=True, dtype=jnp.float32, param_dtype=jnp.float32)
    net = (qwen2.Qwen2 if hasattr(qwen2, "Qwen2") else qwen2.Qwen3)(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)

    def draw(value):
        return jnp.asarray(0.02 * rng.standard_normal(value.shape, np.float32)) if value.ndim > 1 else value

    nnx.update(net, jax.tree.map(draw, nnx.state(net, nnx.Param)))
    return net


def make_sampler(net, shape, lengths, cache_size: int, varied: bool):
    """Tunix's sampler; in the varied task, answer i ends with EOS as its lengths[i]-th token, and never before."""
    import jax
    import jax.numpy as jnp
    from tunix.generate import sampler
    ends = jnp.asarray(lengths)

    class ForcedLengths(sampler.Sampler):
        def _sample(self, logits, eos, cache, sampler_state):
            last = ends == sampler_state.decoding_step - (PROMPT_LENGTH - 1) + 1
            is_eos = jax.nn.one_hot(EOS, logits.shape[-1], dtype=bool)[None]
            forced = jnp.where(last[:, None], 0.0, -jnp.inf)
            free = jnp.where(last[:, None], -jnp.inf, logits[:, -1])
            return super()._sample(logits=jnp.where(is_eos, forced, free)[:, None], eos=eos, cache=cache,
                                   sampler_state=sampler_state)

    cache = sampler.CacheConfig(cache_size=cache_size, num_layers=shape.layers, num_kv_heads=shape.kv_heads,
                                head_dim=shape.head_dim)
    return (ForcedLengths if varied else sampler.Sampler)(net, NumberTokenizer(), cache)


def make_rollout(net, shape, work, cache_size: int, varied: bool):
    """`rollout(repetition)`; the lengths are checked."""
    lengths = rollout_lengths(work, varied)
    sample = make_sampler(net, shape, lengths, cache_size, varied)
    texts = [" ".join(map(str, row)) for row in prompt_tokens(shape, work) for _ in range(work.samples)]

    def rollout(repetition: int) -> None:
        out = sample(texts, max_generation_steps=work.new_tokens, max_prompt_length=PROMPT_LENGTH, temperature=1.0,
                     top_p=1.0, seed=repetition, eos_tokens=[EOS] if varied else [-1])
        found = sum(len(tokens) for tokens in out.tokens)
        if abs(found - lengths.sum()) > varied * len(lengths):      # the EOS may be left out
            raise RuntimeError(f"{found} tokens instead of {lengths.sum()}")

    return rollout


def make_cluster(net, options, shape, work, cache_size: int, prompts: int, steps: int):
    """An RLCluster on one device whose optimizer steps take `prompts` prompts' answers."""
    import jax
    import optax
    from tunix.rl import rl_cluster
    from tunix.rl.rollout import base_rollout
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    groups = max(1, (options.micro or work.micro_batch) // work.samples)
    training = rl_cluster.RLTrainingConfig(
        actor_optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-5, weight_decay=0.01)),
        eval_every_n_steps=10**9, max_steps=steps, mini_batch_size=prompts, train_micro_batch_size=groups,
        rollout_micro_batch_size=work.prompts, compute_logps_micro_batch_size=groups,
        **({"max_seq_token_per_tpu": options.pack} if options.pack else {}))
    rollout = base_rollout.RolloutConfig(
        max_tokens_to_generate=work.new_tokens, max_prompt_length=PROMPT_LENGTH, kv_cache_size=cache_size,
        temperature=1.0, top_p=1.0, top_k=None, eos_tokens=[shape.vocab + 5])
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    config = rl_cluster.ClusterConfig(role_to_mesh=dict.fromkeys(roles, mesh), rollout_engine="vanilla",
                                      offload_to_cpu=False, training_config=training, rollout_config=rollout)
    with mesh:
        return rl_cluster.RLCluster(actor=net, reference=None, tokenizer=NumberTokenizer(), cluster_config=config), mesh


def make_learner(cluster, work, marks: list[Seconds]):
    """A GRPOLearner that notes when each reward was asked for."""
    from tunix.rl.grpo import grpo_learner

    def reward(prompts, completions, **_):
        marks.append(Seconds.now())
        return [even_share(text.split()) for text in completions]

    settings = grpo_learner.GRPOConfig(num_generations=work.samples, num_iterations=1, beta=0.0, epsilon=0.2)
    return grpo_learner.GRPOLearner(rl_cluster=cluster, algo_config=settings, reward_fns=reward)


def make_train(cluster, options, shape, work):
    """`train(repetition)`: old log-probs of every micro-batch, then an optimizer step over all of them."""
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from tunix.rl import utils
    from tunix.rl.grpo import grpo_learner
    arrays = train_arrays(shape, work, options.task.endswith("_var"))
    prompts, answers = jnp.asarray(arrays.tokens[:, :PROMPT_LENGTH]), jnp.asarray(arrays.tokens[:, PROMPT_LENGTH:])
    inside, advantages = jnp.asarray(arrays.response[:, PROMPT_LENGTH:] > 0), jnp.asarray(arrays.advantages)
    size = options.micro or work.micro_batch

    def train(repetition: int) -> None:
        old = cluster.get_old_per_token_logps(prompts, answers, micro_batch_size=size)
        examples = [grpo_learner.TrainExample(
            prompt_ids=prompts[rows], prompt_mask=jnp.ones_like(prompts[rows], bool), completion_ids=answers[rows],
            completion_mask=inside[rows], ref_per_token_logps=None, advantages=advantages[rows],
            old_per_token_logps=old[rows])
            for rows in (slice(start, start + size) for start in range(0, len(arrays.tokens), size))]
        packed = utils.pack_sequences(([e] for e in examples), options.pack) if options.pack else [examples]
        for batch in packed:
            cluster.update_actor(batch, None)
        jax.block_until_ready(nnx.state(cluster.actor_trainer.model, nnx.Param))

    return train, arrays


def learn(learner, shape, work, steps: int) -> list[Seconds]:
    """Runs the learner; returns when it started."""
    import numpy as np
    texts = np.array([" ".join(map(str, row)) for row in prompt_tokens(shape, work)], dtype=object)

    class Questions:
        def __iter__(self):
            return ({"prompts": texts} for _ in range(steps))

    start = Seconds.now()
    learner.train(Questions())
    return [start]


def main() -> None:
    parser = peer_options(__doc__, [task for task in TASKS if task != "e2e_var"])
    parser.add_argument("--pack", type=int, default=0, help="tokens of a packed row (0: no packing)")
    parser.add_argument("--cache", type=int, default=0, help="entries of the cache (0: prompt and answer)")
    options = parser.parse_args()
    limit_threads(options.threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.threads == 1:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    shape, work, started = MODELS[options.model], WORKLOADS[options.model], time.perf_counter()
    net, varied = build(shape), options.task.endswith("_var")
    common = {"setup_s": round(time.perf_counter() - started, 2), "micro": options.micro or work.micro_batch,
              "versions": {name: importlib.metadata.version(name) for name in ("google-tunix", "jax", "flax", "optax")}}
    cache_size, label = options.cache or PROMPT_LENGTH + work.new_tokens, f"tunix {options.model} {options.task}"
    slot_tokens = work.answers * work.new_tokens
    if options.task.startswith("rollout"):
        timed = repeat(make_rollout(net, shape, work, cache_size, varied), options, label)
        line = result("tunix", "sampler", options, timed, tokens=int(rollout_lengths(work, varied).sum()),
                      slot_tokens=slot_tokens, unit="new tokens/s", **common)
    elif options.task.startswith("train"):
        cluster, mesh = make_cluster(net, options, shape, work, cache_size, work.sequences // work.samples, 10**6)
        make_learner(cluster, work, [])           # gives the cluster's trainer its loss
        train, arrays = make_train(cluster, options, shape, work)
        with mesh:
            timed = repeat(train, options, label)
        line = result("tunix", f"pack {options.pack}" if options.pack else "trainer", options, timed, unit="tokens/s",
                      tokens=int(arrays.lengths.sum()), slot_tokens=arrays.tokens.size, **common)
    else:
        marks: list[Seconds] = []
        steps = options.warmup + options.reps + 2
        cluster, _ = make_cluster(net, options, shape, work, cache_size, work.prompts, steps)
        marks = learn(make_learner(cluster, work, marks), shape, work, steps) + marks
        periods = [after.since(before) for before, after in pairwise(marks)]
        # First a rollout, which compiles; then training, which compiles, and a rollout; from there on it is steady.
        timed = Timed(periods[:options.warmup + 1], periods[options.warmup + 1:])
        line = result("tunix", "GRPOLearner", options, timed, tokens=slot_tokens, slot_tokens=slot_tokens,
                      unit="new tokens/s", **common)
    emit(line, options.out)


if __name__ == "__main__":
    main()
