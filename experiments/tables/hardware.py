"""On which single device a model can be trained: `hardware.md`, by preflight's arithmetic (README.md).

    python -m experiments.tables.hardware      half a minute on a CPU core; no weights, no network; TPUs take libtpu
"""
from dataclasses import replace
from pathlib import Path

from nft_jax import config as c
from nft_jax.preflight.devices import Topology

TABLE = Path(__file__).with_name("hardware.md")
MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen3-0.6B", "Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen3-1.7B",
          "Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen3-4B", "Qwen/Qwen2.5-Math-7B", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B",
          "Qwen/Qwen3-32B")
# From the smallest memory to the largest. No slice of v5p is smaller than 4 chips, which share the model.
GPUS = ("gpu:T4", "gpu:RTX4090", "gpu:A100-40", "gpu:A100-80", "gpu:H100")
TPUS = ("v5e:1x1", "v6e:1x1", "v5p:2x2x1")
SETTING = c.Config(
    name="hardware",
    policy=c.PolicyConfig(compute_dtype="bfloat16", remat="block"),
    data=c.DataConfig(source="openai/gsm8k:main", max_prompt_tokens=256),
    rollout=c.RolloutConfig(prompts_per_step=32, samples_per_prompt=8, max_new_tokens=768, slots=32),
    batch=c.BatchConfig(updates_per_step=4, row_length=1024, rows_per_micro_batch=1),
    mesh=c.MESHES["fsdp"],
)
"""Rows of 1,024 tokens, one at a time (four on v5p, one for each chip), and 32 answers decoded side by side."""
LORA = c.AdapterConfig(rank=16)
WAYS = {
    "full": SETTING,
    "LoRA": replace(SETTING, adapter=LORA),
    "LoRA, int8 base": replace(SETTING, adapter=replace(LORA, base_dtype="int8"),
                               rollout=replace(SETTING.rollout, weight_dtype="int8")),
}
# The compiler needed 11.05 GiB for a train step of Qwen2.5-0.5B in full on v5e:1x1, and the memory model says 9.5.
MARGIN = 1.2
NOTE = """GiB of one device in its fullest moment by the memory model, and the smallest device that holds 1.2 times that
(usable: 90% of a GPU, 97% of a TPU). Checked against the compiler: Qwen2.5-0.5B on v5e:1x1, 11.1 GiB in full (1.16
times the model's) and 2.4 with LoRA (the model's). No other row was checked.
Setting: rows of 1,024 tokens, one in a micro-batch, 32 slots of 256 + 768 tokens, bfloat16, `--policy.remat block`.
LoRA: rank 16, all projections. int8 base: `--adapter.base-dtype int8 --rollout.weight-dtype int8`.
v5p: its smallest slice, 4 chips that share the model (`--mesh.fsdp 4`), each with a row of its own.
T4: it has no bfloat16, so XLA keeps arrays in 16 bits and multiplies in float32. The copies are not counted.
none: no single device of these holds it; in brackets what the largest would need.
Written by `python -m experiments.tables.hardware`."""


def needed(config: c.Config, name: str, topology: Topology) -> tuple[float, bool]:
    """Bytes of one device in the fullest moment of a run of the published model `name`, and whether they fit
    with a margin."""
    from nft_jax.model.hf.published import PUBLISHED
    from nft_jax.preflight.report import estimate_of
    sketch = estimate_of(replace(config, policy=replace(config.policy, path=name)), PUBLISHED[name], topology)
    return sketch.fullest, MARGIN * sketch.fullest <= sketch.usable


def smallest(config: c.Config, name: str, topologies: tuple[str, ...]) -> str:
    """The cell of a model: the first of the topologies that holds a run, with its GiB; or the GiB of the last."""
    for topology in topologies:
        size, fits = needed(config, name, Topology.parse(topology))
        if fits:
            return f"{topology.removeprefix('gpu:')} {size / 2**30:.1f}"
    return f"none ({size / 2**30:.0f})"


def main() -> None:
    for topology in ("gpu:H100", *TPUS[:1]):
        # One process serves all: a virtual CPU device for the GPUs, and the variables of the TPUs.
        Topology.parse(topology).prepare()
    from nft_jax.runtime.terminal import markdown
    rows = [[name.partition("/")[2], *(smallest(config, name, kind) for config in WAYS.values()
                                       for kind in (GPUS, TPUS))] for name in MODELS]
    head = ["model", *(f"{way}: {kind}" for way in WAYS for kind in ("GPU", "TPU"))]
    text = f"{markdown(head, rows)}\n\n{NOTE}\n"
    print(text)
    TABLE.write_text(text)


if __name__ == "__main__":
    main()
