"""Flags of TRL, verl, Tunix and others, and what they are called here. `experiments/coming_from.md` is the page."""
import re
from collections.abc import Sequence

from nft_jax.types import InputError

# Without dashes; underscores and dashes are one. The answer begins with our flag.
FOREIGN: dict[str, str] = {
    "--policy.path": "model model-name model-name-or-path base-model model-path",
    "--policy.compute-dtype bfloat16": "bf16 dtype torch-dtype precision",
    "--policy.remat block": "gradient-checkpointing remat",
    "--data.source": "dataset dataset-name train-files train-data data-path",
    "--data.max-prompt-tokens": "max-prompt-length",
    "--verifier.reward": "reward reward-funcs reward-fn",
    "--evaluation.source": "eval-dataset val-files eval-data",
    "--evaluation.every": "eval-steps eval-every eval-freq test-freq",
    "--workdir": "output-dir save-dir run-dir out-dir default-local-dir",
    "--steps": "max-steps num-steps total-steps total-training-steps",
    "--steps (steps of rollout.prompts_per_step questions; the dry run counts them)":
        "epochs num-epochs num-train-epochs total-epochs",
    "--rollout.prompts-per-step (questions of a step) and --batch.updates-per-step (updates made of their answers)":
        "batch-size train-batch-size per-device-train-batch-size ppo-mini-batch-size generation-batch-size",
    "--batch.rows-per-micro-batch (what fits in memory; the number of micro-batches follows)":
        "micro-batch-size train-micro-batch-size ppo-micro-batch-size-per-gpu gradient-accumulation-steps grad-accum "
        "mini-batch-size",
    "--batch.updates-per-step (every answer is trained on once)": "num-iterations ppo-epochs mu",
    "--rollout.samples-per-prompt": "num-generations group-size n num-samples rollouts-per-prompt",
    "--rollout.max-new-tokens": "max-completion-length max-response-length max-new-tokens max-tokens "
                                "max-tokens-to-generate total-generation-steps",
    "--rollout.temperature": "temperature",
    "--rollout.top-p": "top-p",
    "--rollout.top-k": "top-k",
    "--rollout.min-p": "min-p",
    "--rollout.slots": "max-num-seqs",
    "--optimizer.learning-rate": "lr learning-rate",
    "--optimizer.warmup-updates": "warmup warmup-steps lr-warmup-steps warmup-ratio",
    "--optimizer.weight-decay": "weight-decay",
    "--optimizer.clip-norm": "max-grad-norm grad-clip clip-grad",
    "--optimizer.b1 and --optimizer.b2": "adam-beta1 adam-beta2 betas",
    "--objective": "loss-type loss algorithm algo adv-estimator",
    "--objective dr_grpo, which divides by no standard deviation": "scale-rewards norm-adv-by-std-in-grpo",
    "--terms.kl-weight (--loss.beta is DPO's)": "beta kl-coef kl-coeff kl-loss-coef kl-weight use-kl-loss",
    "--loss.clip-low and --loss.clip-high (--loss.epsilon is NFT's clamp)":
        "epsilon clip-ratio cliprange clip-eps clip-epsilon",
    "--loss.clip-low": "clip-ratio-low epsilon-low",
    "--loss.clip-high": "clip-ratio-high epsilon-high",
    "--terms.entropy-weight": "entropy-coeff entropy-coef",
    "--terms.mask-truncated": "mask-truncated-completions",
    "--terms.mismatch token": "vllm-importance-sampling-correction tis",
    "--adapter.rank 16": "lora use-lora use-peft lora-r lora-rank",
    "--adapter.alpha": "lora-alpha",
    "--adapter.targets": "lora-target-modules target-modules",
    "--mesh.tensor": "tp tensor-parallel-size tensor-model-parallel-size",
    "--mesh.fsdp": "fsdp fsdp-size",
    "--checkpoint.every": "save-steps save-freq save-every",
    "--checkpoint.keep": "save-total-limit max-actor-ckpt-to-keep",
    "--writers": "report-to logger log-with wandb",
    "--seed": "random-seed",
    "the same command, which goes on by itself (--fresh starts over)": "resume resume-from-checkpoint resume-mode",
    "nothing: the sampler is built in": "use-vllm vllm-mode rollout-engine",
}
NAMES = {name: ours for ours, names in FOREIGN.items() for name in names.split()}


def refuse_foreign(arguments: Sequence[str]) -> None:
    """Raises InputError, with our name of each, for flags of other libraries, and for Hydra's words (data.x=3)."""
    words = dict.fromkeys(word.partition("=")[0] for word in arguments
                          if word.startswith("--") or re.match(r"\+?[a-z_]+(\.[a-z_]+)+=", word))
    found = {}
    for word in words:
        name = word[2:] if word.startswith("--") else word.rpartition(".")[2]
        name = name.replace("_", "-").lower()
        if name in NAMES:
            found[word] = NAMES[name]
    if found:
        told = "; ".join(f"{flag} is {ours}" for flag, ours in found.items())
        raise InputError(f"flags of other libraries: {told}. The page experiments/coming_from.md has more names, and "
                         "--help has every field.")
