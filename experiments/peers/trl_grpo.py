"""TRL's GRPOTrainer end to end on the benchmark's workloads; transformers' `generate` is inside.

beta 0, num_iterations 1, and all micro-batches of a generation batch accumulated into one optimizer
step: TRL then skips the forward pass for old log-probs. No bfloat16; gradient checkpointing, TRL's
default, is off unless asked for.
"""
from __future__ import annotations

import os
import tempfile
import time
from itertools import pairwise

from experiments.peers.common import (
    EOS,
    MODELS,
    PAD,
    WORKLOADS,
    Seconds,
    Timed,
    emit,
    even_share,
    limit_threads,
    peer_options,
    prompt_tokens,
    result,
    rollout_lengths,
)


def number_tokenizer(vocabulary: int):
    """ids as decimal numbers with spaces between them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    words = Tokenizer(models.WordLevel({str(i): i for i in range(vocabulary)}, unk_token="2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=str(PAD), eos_token=str(EOS), unk_token="2",
                                   padding_side="left")


def make_trainer(options, work, reward, net):
    """A GRPOTrainer whose every step samples all answers and takes one optimizer step."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    shape = MODELS[options.model]
    micro = options.micro or min(work.answers, work.micro_batch)
    varied = options.task.endswith("_var")
    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, fp16=False,
        gradient_checkpointing=options.checkpointing, per_device_train_batch_size=micro,
        gradient_accumulation_steps=work.answers // micro, num_generations=work.samples,
        max_completion_length=work.new_tokens, temperature=1.0, top_p=1.0, top_k=0, beta=0.0, num_iterations=1,
        max_steps=options.warmup + options.reps + 2, learning_rate=1e-5, lr_scheduler_type="constant",
        weight_decay=0.01, max_grad_norm=1.0, logging_steps=1, report_to="none", save_strategy="no",
        disable_tqdm=True, dataloader_num_workers=0, use_transformers_continuous_batching=options.continuous,
        generation_kwargs={} if varied else {"min_new_tokens": work.new_tokens})
    questions = Dataset.from_dict({"prompt": [" ".join(map(str, row)) for row in prompt_tokens(shape, work)]})
    return GRPOTrainer(model=net, reward_funcs=reward, args=settings, train_dataset=questions,
                       processing_class=number_tokenizer(shape.vocab)), micro


def main() -> None:
    parser = peer_options(__doc__, ("e2e", "e2e_var"))
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--continuous", action="store_true", help="transformers' continuous batching")
    options = parser.parse_args()
    limit_threads(options.threads)
    os.environ |= {"WANDB_DISABLED": "true", "TRL_EXPERIMENTAL_SILENCE": "1", "CUDA_VISIBLE_DEVICES": ""}
    import torch
    import transformers
    import trl

    from experiments.peers import hf
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    started, work = time.perf_counter(), WORKLOADS[options.model]
    lengths = rollout_lengths(work, options.task.endswith("_var"))
    net, marks = hf.build(MODELS[options.model]), []

    def reward(completions, **_):
        marks.append(Seconds.now())
        return [even_share(text.split()) for text in completions]

    trainer, micro = make_trainer(options, work, reward, net)
    if options.task == "e2e_var":
        generate = net.generate
        net.generate = lambda *given, **named: generate(*given, logits_processor=hf.forced_lengths(lengths), **named)
    built, start = time.perf_counter() - started, Seconds.now()
    trainer.train()
    # From one reward to the next: an iteration's training and the next one's rollout. The first is a rollout alone.
    marks = [start, *marks]
    periods = [after.since(before) for before, after in pairwise(marks)]
    timed = Timed(periods[:options.warmup + 1], periods[options.warmup + 1:])
    variant = "GRPOTrainer" + "+checkpointing" * options.checkpointing + "+continuous" * options.continuous
    emit(result("trl", variant, options, timed, tokens=int(lengths.sum()), unit="new tokens/s",
                slot_tokens=work.answers * work.new_tokens, setup_s=round(built, 2), micro=micro,
                versions={"torch": torch.__version__, "transformers": transformers.__version__,
                          "trl": trl.__version__}), options.out)


if __name__ == "__main__":
    main()
