"""A real model on one CPU core: what NFT, RFT and GRPO make of Gemma 3 270M, with LoRA, and NFT in full training.

The preset `experiments.presets.gemma3_270m` is the base of all arms, and its docstring says where the weights come
from. Full training has a fiftieth of the learning rate.
"""
from experiments.harness.study import Claim, Study

STUDY = Study(
    name="real_model",
    title="Gemma 3 270M learns sums from right and wrong",
    paper="section 5: NFT, from right and wrong answers alone, is level with or above RFT and GRPO at 7B and 32B.",
    arms={
        "nft": {"objective": "nft"},
        "rft": {"objective": "rft"},
        "grpo": {"objective": "grpo"},
        "nft full": {"objective": "nft", "adapter.rank": 0, "optimizer.learning_rate": 2e-6},
    },
    claims=(
        Claim("nft", "", "steps", "above", "a real model learns"),
        Claim("nft full", "", "steps", "above", "a real model learns"),
        Claim("nft", "rft", "steps"),
        Claim("nft", "grpo", "steps"),
        Claim("nft", "nft full", "steps"),
    ),
    scale="gemma",
)
