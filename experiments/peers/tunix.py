"""Sampling by Tunix (google-tunix): tunix.generate.sampler.Sampler on its Qwen2 model with random weights."""
import importlib.metadata
import os

import numpy as np

from experiments.peers import common
from experiments.peers.common import EOS, MODELS, PROMPT_LENGTH, WORKLOADS


def build(shape):
    """The model, its matrices drawn by us: Tunix initialises the MLPs to zero."""
    import jax
    import jax.numpy as jnp
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
    return (ForcedLengths if varied else sampler.Sampler)(net, common.NumberTokenizer(), cache)


def main() -> None:
    parser = common.peer_options(__doc__, ("rollout", "rollout_var"))
    parser.add_argument("--cache", type=int, default=0, help="entries of the cache (0: prompt and answer)")
    options = parser.parse_args()
    common.limit_threads(options.threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    shape, work, varied = MODELS[options.model], WORKLOADS[options.model], options.task.endswith("_var")
    lengths = common.rollout_lengths(work, varied)
    sample = make_sampler(build(shape), shape, lengths, options.cache or PROMPT_LENGTH + work.new_tokens, varied)
    texts = [" ".join(map(str, row)) for row in common.prompt_tokens(shape, work) for _ in range(work.samples)]

    def rollout(repetition: int) -> None:
        out = sample(texts, max_generation_steps=work.new_tokens, max_prompt_length=PROMPT_LENGTH, temperature=1.0,
                     top_p=1.0, seed=repetition, eos_tokens=[EOS] if varied else [-1])
        found = sum(len(tokens) for tokens in out.tokens)
        if abs(found - lengths.sum()) > varied * len(lengths):      # the EOS may be left out
            raise RuntimeError(f"{found} tokens instead of {lengths.sum()}")

    timed = common.repeat(rollout, options, f"tunix {options.model} {options.task}")
    versions = {name: importlib.metadata.version(name) for name in ("google-tunix", "jax", "flax")}
    common.emit(common.result("tunix", "sampler", options, timed, tokens=int(lengths.sum()), versions=versions),
                options.out)


if __name__ == "__main__":
    main()
