"""Operations of the model's passes, by arithmetic from the shapes.

XLA's `cost_analysis` counts the body of a loop once, and nearly all our work is in loops. An operation is a product or
a sum: two for each token and weight that multiplies. Padding and recomputation do not count (model FLOPs; PaLM,
arXiv 2204.02311, appendix B).
"""
import math
from collections.abc import Collection

from nft_jax.model import delta
from nft_jax.model.config import ModelConfig
from nft_jax.model.decoder import count_active_parameters
from nft_jax.model.parameters import IN_LAYERS, arrays_of


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


def multiplied(model: ModelConfig, layers: Collection[int]) -> int:
    """Weights that multiply a token in these layers: of their matrices and routers, and of the experts that it passes.
    Norms and biases are not among them."""
    found = 0
    for _, array, shape in arrays_of(IN_LAYERS, model):
        if array.kind in ("matrix", "router"):
            size = math.prod(shape) * len(set(layers).intersection(array.layers(model)))
            found += size * model.experts_per_token // model.num_experts if "|" in array.layout else size
    return found


def multiplied_outside(model: ModelConfig) -> int:
    """Weights that multiply a token outside the layers: of the head, and of what makes the layers' inputs."""
    return model.hidden_size * (model.vocab_size + model.num_layers * model.layer_input_size)
