"""One decode step's attention on one core, with several layouts of the cache (jax, float32).

    taskset -c 1 python -m experiments.peers.cache_layouts

B slots, S entries, K kv heads, G queries per kv head, D head dimension. CPU milliseconds per layer.
"""
from __future__ import annotations

import os

from experiments.peers.common import MODELS, PROMPT_LENGTH, WORKLOADS, limit_threads
from experiments.peers.core_rates import seconds_of


def main() -> None:
    limit_threads(1)
    os.environ |= {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "JAX_PLATFORMS": "cpu"}
    import jax
    import jax.numpy as jnp
    import numpy as np

    def attention(keys: str, values: str):
        def attend(q, k, v):
            scores = jnp.einsum(f"BKGD,{keys}->BKGS", q * q.shape[-1] ** -0.5, k)
            return jnp.einsum(f"BKGS,{values}->BKGD", jax.nn.softmax(scores, -1), v)
        return jax.jit(attend)

    rng = np.random.default_rng(0)
    for name, shape in MODELS.items():
        work = WORKLOADS[name]
        sizes = {"B": work.answers, "S": PROMPT_LENGTH + work.new_tokens, "K": shape.kv_heads, "D": shape.head_dim,
                 "G": shape.heads // shape.kv_heads}
        for keys, values in (("BSKD", "BSKD"), ("BKSD", "BKSD"), ("BKDS", "BKSD")):
            arrays = [jnp.asarray(rng.standard_normal([sizes[axis] for axis in axes], dtype=np.float32))
                      for axes in ("BKGD", keys, values)]
            attend = attention(keys, values)
            seconds = seconds_of(lambda f=attend, a=arrays: f(*a).block_until_ready())
            print(f"{name}: keys {keys}, values {values}: {1e3 * seconds:.3f} ms", flush=True)


if __name__ == "__main__":
    main()
