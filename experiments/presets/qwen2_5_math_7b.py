"""The paper's main result: NFT of Qwen2.5-Math-7B on DAPO-Math-17k (arXiv 2505.18116, section 5).

Command: python -m experiments.train qwen2_5_math_7b
Hardware: 8 GPUs of 80 GB or more (`mesh.fsdp` takes all there are; the paper used 4 x 8 H100). Not yet run by us on
accelerators.
Hours: 116 on 8 H100 (python -m nft_jax.preflight qwen2_5_math_7b --topology gpu:8xH100). Preflight's estimate, with
answers of 1,195 tokens on average (--answer-tokens for others).
Expected (paper, table 1): the average of six benchmarks rises from 31.6 to 51.7.

`qwen2_5_math_7b_official` is as published. --dry-run says what a run will do, without weights or network.

The paper's settings, in both: 512 prompts x 16 answers a step, 16 optimizer updates of 512 answers
each, 320 steps (5,120 updates), AdamW 1e-6 with (0.9, 0.999, 1e-8), decay 0.1, norm 1.0, warm-up
over 10 steps, temperature 1, prompts of 512 and answers of 3,584 tokens, groups that are all right
or all wrong left out, omega(q) = 1 - r, epsilon 1, no KL, no entropy bonus.

The run measures all six benchmarks: avg@32 on AIME24, AIME25 and AMC23, avg@1 on MATH-500,
OlympiadBench and Minerva, top-p 0.7. The metrics are `evaluation/NAME/accuracy/all`, and their
average `evaluation/accuracy/all`. The temperature is 1.0 as the paper says; its scripts say 0.6
(--evaluation.temperature 0.6). A checkpoint is measured by python -m experiments.evaluate --model
RUN --suite paper.

The official code (https://github.com/NVlabs/NFT) sums the loss of a rank's answers, divides it by 1,000, and averages
gradients over its data-parallel ranks. So a run on N of them is our loss.constant_length 1000 N, on any devices. Its
README says 4 x 8 H100 for this model: `official` has 32,000. The paper says 64 GPUs: --loss.constant-length 64000. With
1,000 the gradient's norm is N times as large, which clipping at 1.0 feels.

What the official code does and `official` does not:

    warm-up           by steps: rate 0 for the whole first step, then k/10 of it within step k. Ours is by updates: a
                      tenth at the first, then linear, and the full rate from update 160 on
    loss's scale      depends on the number of GPUs; ours does not
    reference model   runs, and its KL is multiplied by 0; ours does not run
    surplus groups    are thrown away; ours are carried over with their log-probs
    sampling          10 batches of 1,536 prompts at most, then it aborts; ours 30 of 512, then it trains on
                      what there is
    questions         its file holds every question ten times; ours drops repeats
    checkpoints       the old one is deleted before the new one is written; ours after
    evaluation        AIME and AMC by verifier.mode strict, the other three by math-verify; ours judges all by
                      one mode, so `official` is harsher on those three

`recommended` differs from `official` in:

    loss.loss_agg         token_mean for a sum over a constant (loss.constant_length): the gradient's norm, and so
                          what clipping does, then does not depend on the length of the answers
    verifier.mode         equivalent for strict: an answer that means the same as the gold is right, and a right box
                          further than 100 characters from the end counts
    evaluation.every      10 for 2, and checkpoint.every likewise: 4,647 answers and 91 GB each time
    checkpoint.keep       4 for 2
"""
from dataclasses import replace

from nft_jax import config as c
from nft_jax.data.templates import BOXED

OFFICIAL = c.Config(
    name="qwen2_5_math_7b_official",
    steps=320,
    objective="nft",
    policy=c.PolicyConfig(path="Qwen/Qwen2.5-Math-7B", compute_dtype="bfloat16", remat="block"),
    # DAPO-Math-17k with prompts that ask for \boxed{}. Those of BytedTsinghua-SIA/DAPO-Math-17k ask for "Answer:",
    # which the verifier does not read. The template is for the evaluation: the training prompts are chat messages.
    data=c.DataConfig(source="ChenDRAG/VeRL_math_validation:dapo-math-17k_10boxed.parquet", template=BOXED,
                    max_prompt_tokens=512),
    rollout=c.RolloutConfig(prompts_per_step=512, samples_per_prompt=16, max_new_tokens=3584, temperature=1.0,
                          slots=512, max_generation_batches=30),
    verifier=c.VerifierConfig(mode="strict", workers=16),
    loss=c.ObjectiveConfig(epsilon=1.0, prompt_weight="1-r", neg_weight=1.0, loss_agg="constant",
                         constant_length=32_000.0),
    batch=c.BatchConfig(updates_per_step=16, rows_per_micro_batch=8),
    optimizer=c.OptimizerConfig(learning_rate=1e-6, warmup_updates=160, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.1,
                              clip_norm=1.0),
    mesh=c.MESHES["fsdp"],
    checkpoint=c.CheckpointConfig(every=2, keep=2),
    evaluation=c.EvaluationConfig(source="paper", questions=1000, samples=0, every=2, temperature=1.0, top_p=0.7),
)
RECOMMENDED = replace(
    OFFICIAL,
    name="qwen2_5_math_7b",
    verifier=replace(OFFICIAL.verifier, mode="equivalent"),
    loss=replace(OFFICIAL.loss, loss_agg="token_mean", constant_length=c.ObjectiveConfig().constant_length),
    checkpoint=c.CheckpointConfig(every=10, keep=4),
    evaluation=replace(OFFICIAL.evaluation, every=10),
)
