"""transformers' `generate` (dynamic cache, sdpa attention) and a plain torch training loop, on the benchmark's
workloads. `--bucket` (train_var): sequences sorted by length, every micro-batch cut to its longest.
"""
from collections.abc import Callable

import numpy as np

from experiments.peers import common
from experiments.peers.common import EOS, MODELS, PAD, PROMPT_LENGTH, WORKLOADS, TrainArrays


def build(shape):
    """A model with random weights, float32."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    net = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=EOS, pad_token_id=PAD, rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        attn_implementation="sdpa", dtype=torch.float32))
    if net.model.layers[0].self_attn.q_proj.weight.shape[0] != shape.heads * shape.head_dim:
        raise RuntimeError("this version of transformers does not read head_dim")
    if net.lm_head.weight.data_ptr() != net.model.embed_tokens.weight.data_ptr():
        raise RuntimeError("the head is not tied to the embedding")
    return net


def forced_lengths(lengths):
    """A logits processor under which answer i ends with EOS as its lengths[i]-th token, and never before."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList
    ends = torch.as_tensor(lengths)

    class ForceEos(LogitsProcessor):
        supports_continuous_batching = False

        def __call__(self, tokens, scores):
            last = ends == tokens.shape[1] - PROMPT_LENGTH + 1
            scores = scores.masked_fill(last[:, None], float("-inf"))
            scores[:, EOS] = torch.where(last, 0.0, float("-inf"))
            return scores

    return LogitsProcessorList([ForceEos()])


def make_rollout(net, options, varied: bool) -> Callable:
    """`rollout(repetition)` -> tokens [answers, prompt + new]; the lengths are checked."""
    import torch
    shape, work = MODELS[options.model], WORKLOADS[options.model]
    tokens = torch.as_tensor(common.prompt_tokens(shape, work)).long().repeat_interleave(work.samples, 0)
    lengths = common.rollout_lengths(work, varied)
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": work.new_tokens,
                "pad_token_id": PAD, "eos_token_id": EOS if varied else None}
    if not varied:
        net.generation_config.eos_token_id = None

    def rollout(repetition: int):
        torch.manual_seed(repetition)
        with torch.inference_mode():
            out = net.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), **settings,
                               logits_processor=forced_lengths(lengths) if varied else None)
        if out.shape != (work.answers, PROMPT_LENGTH + work.new_tokens):
            raise RuntimeError(f"answers of shape {tuple(out.shape)}")
        found = int((out[:, PROMPT_LENGTH:] != PAD).sum())           # a sampled PAD hides a token
        if abs(found - lengths.sum()) > 0.02 * lengths.sum() + len(lengths):
            raise RuntimeError(f"{found} tokens instead of {lengths.sum()}")
        return out

    return rollout


def answer_logprobs(net, tokens, attention):
    """Log-probs of tokens[:, PROMPT_LENGTH:], with logits only where they are needed."""
    import torch
    logits = net(input_ids=tokens, attention_mask=attention, use_cache=False,
                 logits_to_keep=tokens.shape[1] - PROMPT_LENGTH + 1).logits[:, :-1]
    chosen = torch.gather(logits, -1, tokens[:, PROMPT_LENGTH:, None])[..., 0]
    return chosen - torch.logsumexp(logits, -1)


def make_optimizer(net):
    import torch
    return torch.optim.AdamW(net.parameters(), lr=1e-5, weight_decay=0.01)


def make_train(net, optimizer, options, arrays: TrainArrays) -> Callable:
    """`train(repetition)`: old log-probs of every micro-batch, clipped loss, backward, clipping, AdamW."""
    import torch
    size = options.micro or WORKLOADS[options.model].micro_batch
    order = np.argsort(arrays.lengths) if options.bucket else np.arange(len(arrays.lengths))
    micro_batches = []
    for start in range(0, len(order), size):
        rows = order[start:start + size]
        width = int(arrays.lengths[rows].max()) if options.bucket else arrays.tokens.shape[1]
        micro_batches.append((torch.as_tensor(arrays.tokens[rows, :width]).long(),
                              torch.as_tensor(arrays.attention[rows, :width]),
                              torch.as_tensor(arrays.response[rows, PROMPT_LENGTH:width]),
                              torch.as_tensor(arrays.advantages[rows, None])))
    denominator = float(arrays.response.sum())

    def train(repetition: int) -> None:
        net.train()
        with torch.no_grad():
            old = [answer_logprobs(net, tokens, attention) for tokens, attention, _, _ in micro_batches]
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for (tokens, attention, response, advantages), old_logprobs in zip(micro_batches, old, strict=True):
            ratio = torch.exp(answer_logprobs(net, tokens, attention) - old_logprobs)
            objective = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            loss = -(objective * response).sum() / denominator
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if not np.isfinite(total):
            raise RuntimeError(f"the loss is {total}")

    return train


def make_step(net, options, varied: bool) -> Callable:
    """`step(repetition)`: a rollout, a reward in Python, and training on it."""
    work = WORKLOADS[options.model]
    rollout, optimizer = make_rollout(net, options, varied), make_optimizer(net)
    lengths = common.rollout_lengths(work, varied)

    def step(repetition: int) -> None:
        net.eval()
        out = rollout(repetition).numpy()
        answers = [row[PROMPT_LENGTH:PROMPT_LENGTH + n] for row, n in zip(out, lengths, strict=True)]
        rewards = np.array([common.even_share(answer.tolist()) for answer in answers], np.float32)
        arrays = TrainArrays.of(out, lengths, common.rewards_to_advantages(rewards, work.samples))
        make_train(net, optimizer, options, arrays)(repetition)

    return step


def main() -> None:
    parser = common.peer_options(__doc__)
    parser.add_argument("--bucket", action="store_true")
    options = parser.parse_args()
    common.limit_threads(options.threads)
    import torch
    import transformers
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    shape, work = MODELS[options.model], WORKLOADS[options.model]
    net, varied = build(shape).eval(), options.task.endswith("_var")
    if options.task.startswith("train"):
        arrays = common.train_arrays(shape, work, varied)
        function, tokens = make_train(net, make_optimizer(net), options, arrays), int(arrays.lengths.sum())
    else:
        make = make_step if options.task.startswith("e2e") else make_rollout
        function, tokens = make(net, options, varied), int(common.rollout_lengths(work, varied).sum())
    timed = common.repeat(function, options, f"hf {options.model} {options.task}")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    common.emit(common.result("hf", "eager" + "+bucket" * options.bucket, options, timed, tokens=tokens,
                              versions=versions, micro=options.micro or work.micro_batch), options.out)


if __name__ == "__main__":
    main()
