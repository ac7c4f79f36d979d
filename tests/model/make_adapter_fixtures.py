"""Writes tests/model/adapters: adapters of PEFT on the bases of make_fixtures.py, with what PEFT makes of them.

    pip install torch transformers peft && python tests/model/make_adapter_fixtures.py [NAME ...]

Run by hand, all or those named; the tests need neither torch nor this script. Each folder has the adapter as PEFT saves
it, with A and B both random, and reference.npz:

- tokens, lengths, logits: of the base with the adapter, in float32.
- answers: fixed answers (tokens, prompt_lengths, answer_lengths, rewards, accuracy, old_logprobs), and every tensor of
  the adapter after 3 updates: NFT's loss as the paper writes it (Eq. 10), clipping by the global norm, and torch's
  AdamW. All of it in float64.
"""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from transformers import AutoModelForCausalLM

FOLDER = Path(__file__).parent / "fixtures"
OUT = Path(__file__).parent / "adapters"
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {       # base: options of LoraConfig
    "qwen2_tied": {"r": 4, "lora_alpha": 6, "target_modules": EVERY},
    "qwen3_untied_sharded": {"r": 2, "lora_alpha": 3, "target_modules": "all-linear"},
    "gemma3_tied_softcap": {"r": 3, "lora_alpha": 2.5, "target_modules": r".*self_attn\.(q|o)_proj",
                            "use_rslora": True},
    "qwen3_moe_untied": {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "llama_untied_linear": {"r": 5, "lora_alpha": 10, "target_modules": EVERY, "exclude_modules": ["self_attn.v_proj"]},
    "phi3_tied_longrope": {"r": 3, "lora_alpha": 4, "target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]},
    "qwen3_5_untied_sharded": {"r": 2, "lora_alpha": 3, "target_modules": "all-linear"},
    "gemma4_tied": {"r": 2, "lora_alpha": 3,
                    "target_modules": [*EVERY, "per_layer_input_gate", "per_layer_projection"]},
    "mistral_untied": {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"},
    "smollm3_untied": {"r": 3, "lora_alpha": 2, "target_modules": EVERY},
    "olmo3_untied": {"r": 2, "lora_alpha": 5, "target_modules": "all-linear"},
    "olmo2_tied": {"r": 3, "lora_alpha": 4, "target_modules": "all-linear"},
    "gemma4_tied_shared": {"r": 2, "lora_alpha": 5, "target_modules": "all-linear"},
    "gemma4_unified_tied": {"r": 3, "lora_alpha": 4, "target_modules": "all-linear"},
}
RATE, DECAY, CLIP, EPSILON, UPDATES = 1e-3, 0.1, 1.0, 1.0, 3
REWARDS = ((1, 0, 0, 0), (1, 1, 0, 1), (0, 1, 0, 1))


def answers(vocabulary: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Groups of answers, padded on the right."""
    count, longest = sum(map(len, REWARDS)), 16
    found = {"tokens": rng.integers(0, vocabulary, (count, longest)).astype(np.int32),
             "prompt_lengths": np.repeat(rng.integers(2, 6, len(REWARDS)), [len(each) for each in REWARDS]),
             "answer_lengths": rng.integers(1, 10, count),
             "rewards": np.concatenate(REWARDS).astype(np.float32),
             "accuracy": np.concatenate([np.full(len(each), np.mean(each)) for each in REWARDS]).astype(np.float32)}
    for start, each in zip(np.cumsum([0, *map(len, REWARDS)]), REWARDS, strict=False):
        prompt = found["prompt_lengths"][start]
        found["tokens"][start:start + len(each), :prompt] = found["tokens"][start, :prompt]
    return found


def answer_logprobs(model, given: dict[str, np.ndarray]):
    """Log-probs [N, T] of the tokens, and which of them are the answers'."""
    tokens = torch.from_numpy(given["tokens"]).long()
    place, prompt = torch.arange(tokens.shape[1])[None], torch.from_numpy(given["prompt_lengths"])[:, None]
    length = prompt + torch.from_numpy(given["answer_lengths"])[:, None]
    # Padding stands on the right, where no token of an answer attends to it.
    logits = model(tokens).logits
    chosen = logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    return torch.nn.functional.pad(chosen, (1, 0)), (place >= prompt) & (place < length)


def nft_loss(logprobs, old, mask, rewards, accuracy):
    """Mean over the answers' tokens; omega is 1 - r."""
    right, wrong, reward = accuracy[:, None], 1 - accuracy[:, None], rewards[:, None]
    ratio = (logprobs - old).exp()
    x = (1 - right * ratio) / wrong
    x = x + (x.clamp(min=EPSILON) - x).detach()
    losses = wrong * -(reward * ratio.log() + (1 - reward) * x.log())
    return losses[mask].sum() / mask.sum()


def train(model, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY)
    rewards, accuracy = (torch.from_numpy(given[name]).double() for name in ("rewards", "accuracy"))
    with torch.no_grad():
        logprobs, mask = answer_logprobs(model, given)
    # A little away from the policy, so that the first update is not on-policy.
    noise = torch.from_numpy(np.random.default_rng(7).normal(0, 0.1, logprobs.shape))
    old = (logprobs + noise).float().double()
    for _ in range(UPDATES):
        optimizer.zero_grad()
        nft_loss(answer_logprobs(model, given)[0], old, mask, rewards, accuracy).backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
    after = {f"after/{name}": tensor.detach().float().numpy() for name, tensor in
             get_peft_model_state_dict(model).items()}
    return {f"answers/{name}": value for name, value in {**given, "old_logprobs": old.float().numpy()}.items()} | after


def make(base: str, options: dict, seed: int) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    whole = AutoModelForCausalLM.from_pretrained(FOLDER / base, dtype=torch.float32, attn_implementation="eager")
    if "moe" in base:
        whole.set_experts_implementation("eager")       # torch's grouped products refuse odd sizes
    vocabulary = whole.config.vocab_size
    model = get_peft_model(whole, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.2)
    # Not the place on the machine that made it.
    model.peft_config["default"].base_model_name_or_path = base
    folder = OUT / base
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    reference = np.load(FOLDER / base / "reference.npz")
    tokens, lengths = torch.from_numpy(reference["tokens"]).long(), torch.from_numpy(reference["lengths"])
    mask = (torch.arange(tokens.shape[1])[None] < lengths[:, None]).long()
    with torch.no_grad():
        logits = model(tokens, attention_mask=mask).logits.numpy()
    np.savez_compressed(folder / "reference.npz", tokens=reference["tokens"], lengths=reference["lengths"],
                        logits=logits, **train(model.double(), answers(vocabulary, rng)))


if __name__ == "__main__":
    for seed, (case, arguments) in enumerate(CASES.items()):
        if case in (sys.argv[1:] or CASES):
            make(case, arguments, seed=seed)
