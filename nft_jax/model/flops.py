"""Operations of the model's passes, by arithmetic from the shapes.

XLA's `cost_analysis` counts the body of a loop once, and nearly all our work is in loops. An operation is a product or
a sum: two for each token and weight that multiplies. Padding and recomputation do not count (model FLOPs; PaLM,
arXiv 2204.02311, appendix B).
"""
from nft_jax.model import delta
from nft_jax.model.config import ModelConfig
from nft_jax.model.decoder import count_active_parameters


def forward_flops(model: ModelConfig, tokens: float, seen: float) -> float:
    """Operations of a forward pass of `tokens`, each of which attends to `seen` tokens on average: the weights that
    multiply, the scores and sums of attention, and the work of delta nets."""
    lookup = 0 if model.tie_embeddings else model.vocab_size * model.hidden_size
    weights = count_active_parameters(model) - lookup
    heads = sum(model.heads_of(model.kinds[layer])[1] for layer in model.attention_layers)
    attention = 4 * heads * model.num_heads * seen
    return tokens * (2 * weights + attention + len(model.delta_layers) * delta.operations(model))


def train_flops(model: ModelConfig, tokens: float, seen: float, adapter_parameters: int = 0) -> float:
    """Operations of a forward and a backward pass: three times the forward's. Under adapters twice, because frozen
    weights have no gradient, and three times the adapters' own (`adapter_parameters` of them)."""
    forward = forward_flops(model, tokens, seen)
    return 2 * forward + 3 * 2 * tokens * adapter_parameters if adapter_parameters else 3 * forward
