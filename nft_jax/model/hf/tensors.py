"""Our arrays as tensors of Hugging Face: names and layouts, in a table for each way of naming them."""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from nft_jax.model.config import ModelConfig
from nft_jax.model.parameters import ARRAYS, IN_LAYERS, role_of, sizes_of


@dataclass(frozen=True)
class Tensor:
    """One array of ours as a tensor of Hugging Face. Where several arrays of a family have one name, their rows stand
    in this tensor one after the other, in the order of the table (Phi-3).

    layout: the tensor's axes, in the letters of `nft_jax.model.parameters`; letters side by side form one merged
        axis. `nn.Linear` stores our query [D, H, E] as [out, in], which is "HE D". "1" is an axis of size 1 that our
        array lacks (of convolutions).

    Our arrays stack the tensors of all layers that have them, and of all experts, on leading axes."""
    array: str                         # key of `nft_jax.model.parameters.ARRAYS`
    name: str                          # {} stands for the number of the layer, {expert} for the number of the expert
    layout: str

    @property
    def layered(self) -> bool:
        return "{}" in self.name

    @property
    def path(self) -> str:             # in the parameter dict
        return f"layers/{self.array}" if self.layered else self.array

    @property
    def ours(self) -> str:             # axes of our array, without the stacked ones
        axes = ARRAYS[self.array].axes
        return axes.removeprefix("X") if "{expert}" in self.name else axes

    def stacked(self, config: ModelConfig) -> tuple[int, ...]:
        """Sizes of the axes on which our array stacks tensors: of the layers, and of the experts."""
        layers = (len(self.layers(config)),) if self.layered else ()
        return layers + (config.num_experts,) * ("{expert}" in self.name)

    def layers(self, config: ModelConfig) -> tuple[int, ...]:
        """The numbers of the layers that have it, in the order in which our array stacks them."""
        return ARRAYS[self.array].layers(config)

    def named(self, config: ModelConfig, *place: int) -> str:
        """The name of the tensor at this place of the stacked axes."""
        layer = [self.layers(config)[index] for index in place[:1]]
        return self.name.format(*layer, expert=place[1:] and place[1])

    def names(self, config: ModelConfig) -> list[str]:
        """Of the tensors at all places of the stacked axes."""
        return [self.named(config, *place) for place in np.ndindex(self.stacked(config))]

    def shapes(self, config: ModelConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(our shape, shape in Hugging Face's layout) of one tensor, or of the array's rows in it."""
        return sizes_of(self.ours, config), tuple(math.prod(sizes_of(axes.replace("1", ""), config))
                                                  for axes in self.layout.split())

    def to_hf(self, array: np.ndarray, config: ModelConfig) -> np.ndarray:
        """Our array, at one place of the stacked axes, in the Hugging Face layout."""
        order = self.layout.replace(" ", "").replace("1", "")
        moved = array.transpose([self.ours.index(axis) for axis in order])
        # The safetensors writer ignores strides, so the result must be contiguous.
        return np.ascontiguousarray(moved.reshape(self.shapes(config)[1]))


LAYER = "model.layers.{}."
# The usual names. A family takes the names of the arrays that its models have.
NAMES = (
    Tensor("embed", "model.embed_tokens.weight", "V D"),
    Tensor("attention_norm", LAYER + "input_layernorm.weight", "D"),
    Tensor("query", LAYER + "self_attn.q_proj.weight", "HQ D"),
    Tensor("key", LAYER + "self_attn.k_proj.weight", "KE D"),
    Tensor("value", LAYER + "self_attn.v_proj.weight", "KE D"),
    Tensor("out", LAYER + "self_attn.o_proj.weight", "D HE"),
    Tensor("mlp_norm", LAYER + "post_attention_layernorm.weight", "D"),
    Tensor("gate", LAYER + "mlp.gate_proj.weight", "F D"),
    Tensor("up", LAYER + "mlp.up_proj.weight", "F D"),
    Tensor("down", LAYER + "mlp.down_proj.weight", "D F"),
    Tensor("router", LAYER + "mlp.gate.weight", "X D"),
    Tensor("expert_gate", LAYER + "mlp.experts.{expert}.gate_proj.weight", "M D"),
    Tensor("expert_up", LAYER + "mlp.experts.{expert}.up_proj.weight", "M D"),
    Tensor("expert_down", LAYER + "mlp.experts.{expert}.down_proj.weight", "D M"),
    Tensor("final_norm", "model.norm.weight", "D"),
    Tensor("head", "lm_head.weight", "V D"),
    Tensor("query_bias", LAYER + "self_attn.q_proj.bias", "HE"),
    Tensor("key_bias", LAYER + "self_attn.k_proj.bias", "KE"),
    Tensor("value_bias", LAYER + "self_attn.v_proj.bias", "KE"),
    Tensor("query_norm", LAYER + "self_attn.q_norm.weight", "E"),
    Tensor("key_norm", LAYER + "self_attn.k_norm.weight", "E"),
    Tensor("query_heads_norm", LAYER + "self_attn.q_norm.weight", "HE"),
    Tensor("key_heads_norm", LAYER + "self_attn.k_norm.weight", "KE"),
)
# A delta net has the rows of its queries, keys and values in one tensor, and in one convolution.
DELTA_NAMES = (
    *NAMES,
    *(Tensor(f"delta_{part}", LAYER + "linear_attn.in_proj_qkv.weight", f"{rows} D")
      for part, rows in (("query", "NI"), ("key", "NI"), ("value", "UO"))),
    *(Tensor(f"delta_{part}_convolution", LAYER + "linear_attn.conv1d.weight", f"{rows} 1 W")
      for part, rows in (("query", "NI"), ("key", "NI"), ("value", "UO"))),
    Tensor("delta_gate", LAYER + "linear_attn.in_proj_z.weight", "UO D"),
    Tensor("delta_write", LAYER + "linear_attn.in_proj_b.weight", "U D"),
    Tensor("delta_forget", LAYER + "linear_attn.in_proj_a.weight", "U D"),
    Tensor("delta_log_decay", LAYER + "linear_attn.A_log", "U"),
    Tensor("delta_forget_bias", LAYER + "linear_attn.dt_bias", "U"),
    Tensor("delta_norm", LAYER + "linear_attn.norm.weight", "O"),
    Tensor("delta_out", LAYER + "linear_attn.out_proj.weight", "D UO"),
)
# Phi-3 has the rows of several arrays in one tensor.
PHI3_NAMES = tuple(
    replace(tensor, name=LAYER + "self_attn.qkv_proj.weight") if tensor.array in ("query", "key", "value") else
    replace(tensor, name=LAYER + "mlp.gate_up_proj.weight") if tensor.array in ("gate", "up") else tensor
    for tensor in NAMES)
# Gemma 3 and OLMo call the norm after attention what the other families call the norm before the MLP.
NORMS_AFTER_NAMES = (
    *(tensor for tensor in NAMES if tensor.array != "mlp_norm"),
    Tensor("post_attention_norm", LAYER + "post_attention_layernorm.weight", "D"),
    Tensor("mlp_norm", LAYER + "pre_feedforward_layernorm.weight", "D"),
    Tensor("post_mlp_norm", LAYER + "post_feedforward_layernorm.weight", "D"),
)


def _of_every_form(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors, and those of wide layers and of layers that share keys and values, which have the same names."""
    roles = {tensor.array: tensor for tensor in tensors}
    more = []
    for name, array in IN_LAYERS.items():
        if name not in roles and role_of(name) in roles:
            tensor = roles[role_of(name)]
            wide = str.maketrans("EKQ", "eke") if array.wide else {}
            layout = tensor.layout.translate(wide).translate(str.maketrans("F", "f") if array.shared else {})
            more.append(replace(tensor, array=name, layout=layout))
    return (*tensors, *more)


GEMMA4_NAMES = _of_every_form((
    *NORMS_AFTER_NAMES,
    Tensor("layer_embed", "model.embed_tokens_per_layer.weight", "V LP"),
    Tensor("layer_projection", "model.per_layer_model_projection.weight", "Lp D"),
    Tensor("layer_norm", "model.per_layer_projection_norm.weight", "p"),
    Tensor("input_gate", LAYER + "per_layer_input_gate.weight", "p D"),
    Tensor("input_projection", LAYER + "per_layer_projection.weight", "D p"),
    Tensor("input_norm", LAYER + "post_per_layer_input_norm.weight", "D"),
    Tensor("layer_scale", LAYER + "layer_scalar", "1"),
))
