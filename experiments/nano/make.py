"""Make the embedded model: a decoder of 0.8 M parameters, trained from scratch on this machine's CPU.

    python -m experiments.nano.make                      about ten minutes on 2 cores

1. Draw questions from the generator's "base" split, which no experiment trains or evaluates on.
2. Write worked solutions. First only clean ones, so that the model masters the single steps. Then, while the learning
   rate decays, a deliberately imperfect mixture of strategies (`respond`): some solutions guess without working, stop a
   step early, take a wrong operation, forget the box, or slip inside a step and continue with the wrong number.
3. Train. The model knows the right way and samples it only sometimes, which reinforcement learning can improve.
4. Write the model in Hugging Face layout, and train_log.jsonl: losses, then the held-out accuracy. README.md beside
   them is written by hand from the log; a test compares the two.
"""
import json
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

import nft_jax
from nft_jax.data.arithmetic import Question, Ref, Step, calculate, draw, generate, solve, split_of
from nft_jax.data.prompts import render
from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.model.logprobs import token_logprobs
from nft_jax.verify.maths.extract import extract

FOLDER = Path(__file__).parents[2] / "nft_jax" / "assets" / "nano"
PAD, END, SYSTEM, USER, ASSISTANT, UNKNOWN = SPECIAL = (
    "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|unknown|>")
VOCABULARY = (*SPECIAL, "\\boxed{", "\n", *(chr(code) for code in range(32, 127)))
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")
CONFIG = ModelConfig(
    family="qwen3", vocab_size=104, hidden_size=128, intermediate_size=384, num_layers=4, num_heads=4, num_kv_heads=2,
    head_dim=32, max_positions=1024, tie_embeddings=True, qk_norm=True, initializer_range=0.05)
UPDATES, CLEAN_UPDATES, WARMUP = 2000, 1400, 100
PEAK_RATE, FINAL_RATE = 2.5e-3, 1.5e-4
ROWS, ROW_LENGTH = 32, 96              # of one update
MAX_NEW_TOKENS = 48
STRATEGIES = ("work", "guess", "early", "operation", "no_box")
# How often a solution of each kind follows each strategy in the imperfect mixture. The kinds differ, so that the
# accuracies of the groups spread over [0, 1].
MIXTURE = {
    "sum3":       (0.55, 0.19, 0.09, 0.13, 0.04),
    "sum4":       (0.45, 0.22, 0.13, 0.16, 0.04),
    "precedence": (0.48, 0.22, 0.13, 0.13, 0.04),
    "bracket":    (0.42, 0.26, 0.14, 0.14, 0.04),
    "equation":   (0.38, 0.28, 0.15, 0.15, 0.04),
    "remainder":  (0.38, 0.28, 0.18, 0.12, 0.04),
}
SLIP = {False: 0.02, True: 0.10}        # chance that a step's result is wrong: easy steps, hard steps
OTHER = {"+": "-", "-": "+", "*": "+", "/": "-", "%": "/"}


def slip(value: int, rng: random.Random) -> int:
    """A number near `value` and not equal to it: the mistakes of mental arithmetic."""
    return rng.choice([wrong for wrong in (value + 1, value - 1, value + 10, value - 10, value + 2, value - 2)
                       if wrong >= 0])


def is_hard(left: int, op: str, right: int) -> bool:
    """Whether a step needs a carry, a borrow, a large product, or a division."""
    if op == "+":
        return left % 10 + right % 10 > 9
    if op == "-":
        return left % 10 < right % 10
    return left * right > 40 if op == "*" else left > 40


def work(solution: tuple[Step, ...], rng: random.Random, slips: bool) -> tuple[list[str], list[int]]:
    """The steps as text, with their results; a slip is carried on into the later steps."""
    texts, results = [], []
    for left, op, right in solution:
        left, right = (results[x] if isinstance(x, Ref) else x for x in (left, right))
        value = abs(calculate(left, op, right))
        if slips and rng.random() < SLIP[is_hard(left, op, right)]:
            value = slip(value, rng)
        shown = f"{left}-{left - left % right}" if op == "%" else f"{left}{op}{right}"
        texts.append(f"{shown}={value};")
        results.append(value)
    return texts, results


def respond(question: Question, rng: random.Random, imperfect: bool) -> str:
    """One solution: clean working, or a draw from the mixture."""
    strategy = rng.choices(STRATEGIES, MIXTURE[question.kind])[0] if imperfect else "work"
    solution = list(question.solution)
    if strategy == "guess":
        answer = solve(question.solution)[-1]
        return f"\\boxed{{{answer if rng.random() < 0.1 else slip(answer, rng)}}}"
    if strategy == "operation":
        index = rng.randrange(len(solution))
        solution[index] = solution[index]._replace(op=OTHER[solution[index].op])
    if strategy == "early":
        solution = solution[:rng.randrange(1, len(solution))]
    texts, results = work(tuple(solution), rng, slips=imperfect)
    return "".join(texts) + (str(results[-1]) if strategy == "no_box" else f"\\boxed{{{results[-1]}}}")


def build_tokenizer():
    """One token for each printable ASCII character, one for the newline, one for `\\boxed{`; decoding is exact."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\\boxed\{|[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT], chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=CONFIG.max_positions)


def base_questions(rng: random.Random) -> Iterator[Question]:
    """Questions of the split "base", for ever."""
    while True:
        question = draw(rng)
        if split_of(question.solution) == "base":
            yield question


def pack(tokenizer, questions: Iterator[Question], rng: random.Random, imperfect: bool) -> tuple[np.ndarray, ...]:
    """One update's rows: tokens, segment ids, positions and loss weights, each [ROWS, ROW_LENGTH].

    The weight is 1 on the response and its end. A solution goes to the first row with room for it;
    six solutions without room end the update.
    """
    tokens, segments, positions = (np.zeros((ROWS, ROW_LENGTH), np.int32) for _ in range(3))
    weights = np.zeros((ROWS, ROW_LENGTH), np.float32)
    filled, left_out = np.zeros(ROWS, int), 0
    while left_out < 6:
        question = next(questions)
        prompt, response = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (
            render(tokenizer, question.problem), respond(question, rng, imperfect) + END))
        length = len(prompt) + len(response)
        free = np.flatnonzero(filled + length <= ROW_LENGTH)
        if not len(free):
            left_out += 1
            continue
        row, place = free[0], slice(filled[free[0]], filled[free[0]] + length)
        tokens[row, place] = prompt + response
        segments[row, place] = segments[row].max() + 1
        positions[row, place] = np.arange(length)
        weights[row, place.start + len(prompt):place.stop] = 1
        filled[row] += length
    return tokens, segments, positions, weights


def train(tokenizer, seed: int, log) -> dict:
    """The trained parameters. AdamW with a cosine decay to a rate at which later fine-tuning does no harm."""
    rng = random.Random(f"make_nano/{seed}")
    questions = base_questions(rng)
    rate = optax.warmup_cosine_decay_schedule(PEAK_RATE / 100, PEAK_RATE, WARMUP, UPDATES, FINAL_RATE)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=0.1))

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, tokens, segments, positions, weights):
        def loss(params):
            logprobs, _ = token_logprobs(params, CONFIG, tokens, positions, segments)
            return -(logprobs * weights).sum() / weights.sum()
        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    params = decoder.init(CONFIG, jax.random.key(seed))
    state = optimizer.init(params)
    losses, started = [], time.monotonic()
    for index in range(1, UPDATES + 1):
        params, state, loss = update(params, state, *pack(tokenizer, questions, rng, index > CLEAN_UPDATES))
        losses.append(loss)
        if index % 50 == 0:
            log({"update": index, "loss": round(float(np.mean(jax.device_get(losses))), 4),
                 "rate": float(rate(index - 1)), "seconds": round(time.monotonic() - started)})
            losses = []
    return params


def evaluate(policy: nft_jax.Policy, count: int = 512, samples: int = 8) -> dict:
    """Accuracy on held-out questions: greedy, and avg@samples at temperature 1, by kind and by group."""
    questions = generate("heldout", count, seed=1)
    problems = [question.problem for question in questions]

    def judged(samples, temperature):
        rollouts = nft_jax.sample(policy, problems, num_samples=samples, max_new_tokens=MAX_NEW_TOKENS,
                                  temperature=temperature, slots=256)
        right = [extract(r.text) == questions[i // samples].answer for i, r in enumerate(rollouts)]
        return np.array(right).reshape(count, samples), rollouts

    (greedy, _), (sampled, rollouts) = judged(1, 0.0), judged(samples, 1.0)
    kinds = np.array([question.kind for question in questions])
    histogram = np.bincount(sampled.sum(1), minlength=samples + 1)
    return {
        "greedy": float(greedy.mean()), f"avg@{samples}": float(sampled.mean()),
        "greedy_by_kind": {str(kind): round(float(greedy[kinds == kind].mean()), 3) for kind in np.unique(kinds)},
        "sampled_by_kind": {str(kind): round(float(sampled[kinds == kind].mean()), 3) for kind in np.unique(kinds)},
        "groups_by_right_answers": histogram.tolist(),
        "no_answer": float(np.mean([extract(r.text) is None for r in rollouts])),
        "mean_response_tokens": float(np.mean([len(r.tokens) for r in rollouts])),
        "longest_response_tokens": max(len(r.tokens) for r in rollouts),
        "longest_prompt_tokens": max(len(r.prompt.tokens) for r in rollouts),
        "examples": [f"{r.prompt.problem} -> {r.text}" for r in rollouts[:80:5]],
    }


def main(seed: int = 0, folder: Path = FOLDER) -> None:
    """Train the embedded model and write it to `folder`."""
    rows: list[dict] = []

    def log(row: dict) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)

    tokenizer = build_tokenizer()
    params = train(tokenizer, seed, log)
    nft_jax.save(nft_jax.Policy(CONFIG, jax.device_get(params), tokenizer, (tokenizer.eos_token_id,)), folder)
    result = evaluate(nft_jax.load(folder), count=512)
    print(json.dumps(result, indent=2))
    (folder / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, result]))


if __name__ == "__main__":
    import tyro
    tyro.cli(main, prog="python -m experiments.nano.make")
