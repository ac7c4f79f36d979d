"""TRL's GRPOTrainer end to end on the benchmark's workloads; transformers' `generate` is inside.

beta 0, num_iterations 1, and all micro-batches of a generation batch accumulated into one optimizer
step: TRL then skips the forward pass for old log-probs. No bfloat16, and no gradient checkpointing
(TRL's default).
"""
import os
import tempfile
from itertools import pairwise

from experiments.peers import common
from experiments.peers.common import EOS, MODELS, PAD, WORKLOADS, Seconds


def number_tokenizer(vocabulary: int):
    """ids as decimal numbers with spaces between them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    words = Tokenizer(models.WordLevel({str(i): i for i in range(vocabulary)}, unk_token="2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=str(PAD), eos_token=str(EOS), unk_token="2",
                                   padding_side="left")


def make_trainer(options, work, reward, net, micro: int):
    """A GRPOTrainer whose every step samples all answers and takes one optimizer step."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    shape, varied = MODELS[options.model], options.task.endswith("_var")
    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, fp16=False,
        gradient_checkpointing=False, per_device_train_batch_size=micro,
        gradient_accumulation_steps=work.answers // micro, num_generations=work.samples,
        max_completion_length=work.new_tokens, temperature=1.0, top_p=1.0, top_k=0, beta=0.0, num_iterations=1,
        max_steps=options.warmup + options.reps + 2, learning_rate=1e-5, lr_scheduler_type="constant",
        weight_decay=0.01, max_grad_norm=1.0, logging_steps=1, report_to="none", save_strategy="no",
        disable_tqdm=True, dataloader_num_workers=0,
        generation_kwargs={} if varied else {"min_new_tokens": work.new_tokens})
    questions = [" ".join(map(str, row)) for row in common.prompt_tokens(shape, work)]
    return GRPOTrainer(model=net, reward_funcs=reward, args=settings, processing_class=number_tokenizer(shape.vocab),
                       train_dataset=Dataset.from_dict({"prompt": questions}))


def main() -> None:
    options = common.peer_options(__doc__, ("e2e", "e2e_var")).parse_args()
    common.limit_threads(options.threads)
    os.environ |= {"WANDB_DISABLED": "true", "TRL_EXPERIMENTAL_SILENCE": "1", "CUDA_VISIBLE_DEVICES": ""}
    import torch
    import transformers
    import trl

    from experiments.peers import hf
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    work = WORKLOADS[options.model]
    lengths = common.rollout_lengths(work, options.task.endswith("_var"))
    net, marks, micro = hf.build(MODELS[options.model]), [], options.micro or min(work.answers, work.micro_batch)

    def reward(completions, **_):
        marks.append(Seconds.now())
        return [common.even_share(text.split()) for text in completions]

    trainer = make_trainer(options, work, reward, net, micro)
    if options.task == "e2e_var":
        generate = net.generate
        net.generate = lambda *given, **named: generate(*given, logits_processor=hf.forced_lengths(lengths), **named)
    start = Seconds.now()
    trainer.train()
    # From one reward to the next: an iteration's training and the next one's rollout. The first is a rollout alone.
    periods = [after.since(before) for before, after in pairwise([start, *marks])]
    timed = common.Timed(periods[:options.warmup + 1], periods[options.warmup + 1:])
    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl)}
    common.emit(common.result("trl", "GRPOTrainer", options, timed, tokens=int(lengths.sum()), micro=micro,
                              versions=versions), options.out)


if __name__ == "__main__":
    main()
