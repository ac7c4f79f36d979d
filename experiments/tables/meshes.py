"""Which preset and which mesh from 1 to 1,024 devices: `meshes.md`, by preflight's arithmetic (README.md).

    python -m experiments.tables.meshes        a minute on CPU cores; no weights, no network; TPU rows take libtpu
"""
import math
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_name("meshes.md")
ROWS = "--batch.rows-per-micro-batch"
# Preset, topology, flags. Batches stay as the preset has them. Slots grow with the devices, up to one for every answer
# of a batch.
CASES = (
    ("gsm8k", "gpu:1xH100", ""),
    ("gsm8k", "gpu:8xH100", "--rollout.slots 1024"),
    ("qwen2_5_math_7b", "gpu:8xH100", ""),
    ("qwen2_5_math_7b", "gpu:32xH100", f"--rollout.slots 2048 {ROWS} 192"),
    ("qwen2_5_math_7b", "gpu:64xH100", f"--rollout.slots 4096 {ROWS} 192"),
    ("qwen2_5_math_7b", "gpu:128xH100", f"--rollout.slots 8192 {ROWS} 256"),
    ("qwen2_5_math_7b", "gpu:256xH100", f"--rollout.slots 8192 {ROWS} 256 --mesh.tensor 2"),
    ("qwen2_5_math_7b", "gpu:512xH100", f"--rollout.slots 8192 {ROWS} 256 --mesh.tensor 4"),
    ("qwen2_5_math_7b", "gpu:1024xH100", "--rollout.slots 8192 --mesh.tensor 4"),
    ("qwen2_5_32b", "gpu:64xH100", ""),
    ("qwen2_5_32b", "gpu:128xH100", f"--rollout.slots 1024 {ROWS} 64"),
    ("qwen2_5_32b", "gpu:256xH100", f"--rollout.slots 2048 {ROWS} 192"),
    ("qwen2_5_32b", "gpu:512xH100", f"--rollout.slots 4096 {ROWS} 192 --mesh.tensor 8"),
    ("qwen2_5_32b", "gpu:1024xH100", f"--rollout.slots 8192 {ROWS} 256 --mesh.tensor 8"),
    ("qwen2_5_math_7b", "v5p:4x4x4", "--rollout.slots 4096 --mesh.tensor 4"),
    ("qwen2_5_32b", "v5p:4x8x8", "--rollout.slots 2048"),
    ("qwen2_5_32b", "v5p:8x8x16", "--rollout.slots 8192"),
)
HEAD = ("devices", "preset and flags", "fsdp × tensor", "state", "fullest", "of usable", "rows at a time",
        "rollout", "score", "train", "hours", "device-hours")


class Needs(NamedTuple):
    """What a case needs: bytes on one device, seconds of a step."""
    mesh: dict[str, int]
    state: float                      # parameters and moments
    fullest: float                    # the larger of a train step and decoding, with the state beside it
    usable: float
    rows: int                         # of a micro-batch
    filled: float                     # rows that an optimizer update fills
    rollout: float
    score: float
    train: float
    hours: float


def needs(preset: str, topology, flags: str) -> Needs:
    """Raises InputError as the run would: a mesh that does not divide the model, too few positions."""
    from nft_jax.cli import experiment, parse
    from nft_jax.model.decoder import count_parameters
    from nft_jax.model.hf.published import PUBLISHED
    from nft_jax.preflight.estimate import LINKS
    from nft_jax.preflight.report import estimate_of
    config = parse(experiment(preset), "", flags.split()).config
    model = PUBLISHED[config.policy.path]
    sketch = estimate_of(config, model, topology)
    memory, e, plan, rows = sketch.memory, sketch.estimate, sketch.plan, sketch.plan.longest.rows
    config, mesh = plan.config, dict(plan.mesh.shape)
    state = memory.parameters + memory.moments + memory.base
    tokens = config.groups_per_update * config.rollout.samples_per_prompt * (
        sketch.assumed.prompt_tokens + sketch.assumed.answer_tokens)
    filled = tokens / config.row_length
    # The least bytes that each device receives for a micro-batch: for the score its share of the weights, two bytes
    # each; for training twice that, and the gradients, four bytes each.
    share = count_parameters(model) / mesh["tensor"] * (1 - 1 / mesh["fsdp"])
    sending = config.batch.updates_per_step * math.ceil(filled / rows) * share / (topology.device.link * LINKS)
    # Rows that stay empty cost as much as full ones.
    idle = max(1.0, rows / filled)
    score, train = max(e.score * idle, 2 * sending), max(e.train * idle, 8 * sending)
    evaluations = e.device_hours * 3600 / plan.mesh.size - config.steps * e.step
    return Needs(mesh, state, sketch.fullest, sketch.usable, rows, filled, e.rollout, score, train,
                 (config.steps * (e.rollout + score + train) + evaluations) / 3600)


def hours(value: float) -> str:
    """About three digits."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 1 else 2}f}"


def line(case: tuple[str, str, str], n: Needs) -> list[str]:
    preset, topology, flags = case
    gib, devices = 2**30, math.prod(n.mesh.values())
    return [f"{devices:,} ({topology})", f"`{' '.join([preset, flags]).strip()}`",
            f"{n.mesh['fsdp']} × {n.mesh['tensor']}", f"{n.state / gib:.1f}", f"{n.fullest / gib:.1f}",
            f"{n.fullest / n.usable:.0%}", f"{n.rows} of {n.filled:.0f}",
            *(f"{seconds:,.0f}" for seconds in (n.rollout, n.score, n.train)),
            hours(n.hours), hours(n.hours * devices)]


def main() -> None:
    from nft_jax.preflight.devices import Topology
    topologies = [Topology.parse(name) for _, name, _ in CASES]
    # One process serves all topologies if it starts with the TPUs' variables and the largest number of CPU devices.
    for topology in sorted(topologies, key=lambda topology: topology.count or 0):
        topology.prepare()
    from nft_jax.runtime.terminal import markdown
    rows = [line(case, needs(case[0], topology, case[2])) for case, topology in zip(CASES, topologies, strict=True)]
    text = markdown(HEAD, rows)
    print(text)
    TABLE.write_text(text + "\n")


if __name__ == "__main__":
    main()
