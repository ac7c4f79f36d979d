"""The decoder: pure functions of a plain dict of parameters.

1. `hf` reads a Hugging Face folder: config.json into a `config.ModelConfig`, the weights into the
   dict of `parameters`.
2. `decoder` computes. Training uses `hidden_states`; sampling uses `prefill` and `decode`.
3. `attention` and `kernels` are the attention inside a layer; `sharded` spreads a layer over a device mesh.
4. `logprobs` turns hidden states into log-probs and entropies, without the logits [B, T, V].
5. `quantise` holds weights and cache in int8, for sampling only.
"""
