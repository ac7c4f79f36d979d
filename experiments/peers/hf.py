"""transformers' `generate` and a plain torch training loop, on the benchmark's workloads.

    --variant eager            dynamic cache, sdpa attention: what most users run
    --variant static           a static cache, not compiled
    --variant static_compile   a static cache and torch.compile
    --variant paged            continuous batching (rollout tasks)
    --variant compile          train tasks: torch.compile of the forward pass
    --bucket                   train_var: sequences sorted by length, every micro-batch cut to its longest
"""
from __future__ import annotations

import time
from collections.abc import Callable

from experiments.peers.common import (
    EOS,
    MODELS,
    PAD,
    PROMPT_LENGTH,
    WORKLOADS,
    TrainArrays,
    emit,
    even_share,
    limit_threads,
    peer_options,
    prompt_tokens,
    repeat,
    result,
    rewards_to_advantages,
    rollout_lengths,
    train_arrays,
)

VARIANTS = ("eager", "static", "static_compile", "paged", "compile")


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
    if net.model.layers[0].self_attn.q_proj.weight.shape[0] != shape.query_width:
        raise RuntimeError("this version of transformers does not read head_dim")
    if net.lm_head.weight.data_ptr() != net.model.embed_tokens.weight.data_ptr():
        raise RuntimeError("the head is not tied to the embedding")
    return net


def forced_lengths(lengths, prompt_length: int = PROMPT_LENGTH):
    """A logits processor under which answer i ends with EOS as its lengths[i]-th token, and never before."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList
    ends = torch.as_tensor(lengths)

    class ForceEos(LogitsProcessor):
        supports_continuous_batching = False

        def __call__(self, tokens, scores):
            last = ends == tokens.shape[1] - prompt_length + 1
            scores = scores.masked_fill(last[:, None], float("-inf"))
            scores[:, EOS] = torch.where(last, 0.0, float("-inf"))
            return scores

    return LogitsProcessorList([ForceEos()])


def make_rollout(net, options, varied: bool) -> Callable:
    """`rollout(repetition)` -> tokens [answers, prompt + new]; the lengths are checked."""
    import torch
    shape, work = MODELS[options.model], WORKLOADS[options.model]
    tokens = torch.as_tensor(prompt_tokens(shape, work)).long().repeat_interleave(work.samples, 0)
    lengths = rollout_lengths(work, varied)
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": work.new_tokens,
                "pad_token_id": PAD, "eos_token_id": EOS if varied else None}
    if options.variant.startswith("static"):
        settings |= {"cache_implementation": "static", "disable_compile": options.variant == "static"}
    if options.variant == "static_compile":          # generate() compiles by itself on accelerators only
        net.forward = torch.compile(net.forward, dynamic=False, fullgraph=False)
    if not varied:
        net.generation_config.eos_token_id = None

    def rollout(repetition: int = 0):
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

    return (lambda repetition=0: paged_rollout(net, tokens, lengths, repetition)) if options.variant == "paged" \
        else rollout


def paged_rollout(net, tokens, lengths, repetition: int) -> None:
    """One rollout by continuous batching; each answer is as long as asked by its own max_new_tokens."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig
    from transformers.generation.continuous_batching.continuous_api import WorkloadHints
    longest = int(lengths.max())
    sampling = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=longest,
                                eos_token_id=-1, pad_token_id=PAD)
    batching = ContinuousBatchingConfig(
        page_size=32, num_blocks=len(lengths) * ((PROMPT_LENGTH + longest) // 32 + 1), use_cuda_graph=False,
        max_batch_tokens=len(lengths) * PROMPT_LENGTH, allow_block_sharing=False, seed=repetition)
    hints = WorkloadHints(max_prompt_length=PROMPT_LENGTH, max_generated_length=longest, num_requests=len(lengths))
    generated, finished = 0, 0
    with net.continuous_batching_context_manager(
            generation_config=sampling, continuous_batching_config=batching, block=True, timeout=5,
            workload_hints=hints, warmup=False) as manager:
        for i, length in enumerate(lengths):
            manager.add_request(tokens[i].tolist(), request_id=f"answer {i}", max_new_tokens=int(length))
        while finished < len(lengths):
            answer = manager.get_result(timeout=1)
            if answer is not None and answer.is_finished():
                finished += 1
                generated += len(answer.generated_tokens)
            elif answer is None and not manager.is_running():
                raise RuntimeError("the generation thread died")
    if generated != lengths.sum():
        raise RuntimeError(f"{generated} tokens instead of {lengths.sum()}")


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
    import numpy as np
    import torch
    work = WORKLOADS[options.model]
    size = options.micro or work.micro_batch
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
    logprobs_of = torch.compile(answer_logprobs, dynamic=False) if options.variant == "compile" else answer_logprobs

    def train(repetition: int = 0) -> float:
        net.train()
        with torch.no_grad():
            old = [logprobs_of(net, tokens, attention) for tokens, attention, _, _ in micro_batches]
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for (tokens, attention, response, advantages), old_logprobs in zip(micro_batches, old, strict=True):
            ratio = torch.exp(logprobs_of(net, tokens, attention) - old_logprobs)
            objective = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            loss = -(objective * response).sum() / denominator
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if not np.isfinite(total):
            raise RuntimeError(f"the loss is {total}")
        return total

    return train


def make_step(net, options, varied: bool, phases: dict[str, list[float]]) -> Callable:
    """`step(repetition)`: a rollout, a reward in Python, and training on it."""
    import numpy as np
    work = WORKLOADS[options.model]
    rollout, optimizer = make_rollout(net, options, varied), make_optimizer(net)
    lengths = rollout_lengths(work, varied)

    def step(repetition: int) -> None:
        start = time.perf_counter()
        net.eval()
        out = rollout(repetition).numpy()
        sampled = time.perf_counter()
        answers = [row[PROMPT_LENGTH:PROMPT_LENGTH + n] for row, n in zip(out, lengths, strict=True)]
        rewards = np.array([even_share(answer.tolist()) for answer in answers], np.float32)
        arrays = TrainArrays.of(out, lengths, rewards_to_advantages(rewards, work.samples))
        make_train(net, optimizer, options, arrays)()
        phases.setdefault("rollout", []).append(round(sampled - start, 3))
        phases.setdefault("train", []).append(round(time.perf_counter() - sampled, 3))

    return step


def main() -> None:
    parser = peer_options(__doc__)
    parser.add_argument("--variant", choices=VARIANTS, default="eager")
    parser.add_argument("--bucket", action="store_true")
    options = parser.parse_args()
    limit_threads(options.threads)
    import torch
    import transformers
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    shape, work = MODELS[options.model], WORKLOADS[options.model]
    started = time.perf_counter()
    net, varied, phases = build(shape), options.task.endswith("_var"), {}
    built = time.perf_counter() - started
    if options.task.startswith("train"):
        arrays = train_arrays(shape, work, varied)
        function, unit = make_train(net, make_optimizer(net), options, arrays), "tokens/s"
        tokens, slot_tokens = int(arrays.lengths.sum()), arrays.tokens.size
    else:
        net.eval()
        end_to_end = options.task.startswith("e2e")
        function = make_step(net, options, varied, phases) if end_to_end else make_rollout(net, options, varied)
        unit = "new tokens/s"
        tokens, slot_tokens = int(rollout_lengths(work, varied).sum()), work.answers * work.new_tokens
    timed = repeat(function, options, f"hf {options.variant} {options.model} {options.task}")
    emit(result("hf", options.variant + "+bucket" * options.bucket, options, timed, tokens=tokens,
                slot_tokens=slot_tokens, unit=unit, setup_s=round(built, 2),
                micro=options.micro or work.micro_batch, **({"phases": phases} if phases else {}),
                versions={"torch": torch.__version__, "transformers": transformers.__version__}), options.out)


if __name__ == "__main__":
    main()
