"""What the phases of a step compute, and at what share of the devices' peak."""
from collections.abc import Mapping, Sequence

from jax.sharding import Mesh

from nft_jax.model.flops import forward_flops, train_flops
from nft_jax.objectives.terms import answers_in_loss
from nft_jax.runtime.devices import published
from nft_jax.train.batch import learns
from nft_jax.train.plan import Plan
from nft_jax.types import Group, Rollout


def work_of(plan: Plan, seen: Sequence[Group], trained: Sequence[Group], step: int = 0) -> dict[str, float]:
    """Tokens and operations of a step, over all devices, without padding and recomputation.

        tokens/packed     prompt and answer tokens of the answers in the loss; a prompt counts for each
        flops/rollout     sampling the tokens of the `seen` groups that are of this `step` (from 0), and scoring the
                          groups that may be trained on; of stored answers, which come with their old log-probs, what
                          the KL term scores
        flops/train       forward and backward passes of the `trained` groups
    """
    config, model = plan.config, plan.model
    # A prompt is computed once for all answers to it.
    sampled = [part for group in (() if config.rollout.answers else seen) for part in (
        *(() if _before(group.rollouts[0], step) else ((len(group.prompt.tokens), len(group.prompt.tokens) / 2),)),
        *((len(r.tokens) - before, len(group.prompt.tokens) + (before + len(r.tokens)) / 2)
          for r in group.rollouts for before in (_before(r, step),)))]
    # The devices score between two blocks of decoding, so both count as one phase.
    passes = config.scores + bool(config.terms.kl_weight)
    scored = [_row(group, r) for group in seen if group.is_open or learns(group, config.loss) for r in group.rollouts]
    rows = [_row(group, group.rollouts[i]) for group in trained for i in answers_in_loss(group, config.terms)]
    return {"tokens/packed": sum(length for length, _ in rows),
            "flops/rollout": forward_flops(model, *_total(sampled)) + passes * forward_flops(model, *_total(scored)),
            "flops/train": train_flops(model, *_total(rows), plan.adapter_parameters)}


def _before(rollout: Rollout, step: int) -> int:
    """Tokens of the answer that earlier steps sampled."""
    return 0 if rollout.steps is None else int((rollout.steps < step).sum())


def _row(group: Group, rollout: Rollout) -> tuple[int, float]:
    """Tokens of a prompt with its answer, and how many of them each attends to on average."""
    length = len(group.prompt.tokens) + len(rollout.tokens)
    return length, length / 2


def _total(parts: Sequence[tuple[int, float]]) -> tuple[int, float]:
    """All tokens of the parts, and how many tokens each of them attends to on average. A count of operations is linear
    in both, and costs a look at every array of the model: it is taken of the total, not of every answer."""
    tokens = sum(count for count, _ in parts)
    return tokens, sum(count * seen for count, seen in parts) / max(tokens, 1)


def speed_of(metrics: Mapping[str, float], seconds: Mapping[str, float], mesh: Mesh) -> dict[str, float]:
    """Rates of a step from its metrics and the seconds of its phases. MFU is the share of the makers' peak (PaLM,
    arXiv 2204.02311, appendix B), and missing on a device without a published one, such as a CPU."""
    rates = {}
    for phase, tokens, devices in (("rollout", "tokens/generated", 1), ("train", "tokens/kept", 1),
                                   ("step", "tokens/packed", mesh.size)):
        if metrics.get(tokens) and seconds.get(phase):
            name = "device" if phase == "step" else phase
            rates[f"tokens_per_second/{name}"] = metrics[tokens] / seconds[phase] / devices
    device = published(mesh.devices.flat[0].device_kind)
    flops = {phase: metrics.get(f"flops/{phase}", 0.0) for phase in ("rollout", "train")}
    for phase, operations in (flops | {"step": sum(flops.values())}).items():
        if device and operations and seconds.get(phase):
            rates[f"mfu/{phase}"] = operations / seconds[phase] / (device.flops * mesh.size)
    return rates
