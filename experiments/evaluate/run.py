"""What `experiments.evaluate` does once its command line is understood."""
from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from experiments.evaluate.command import sets_asked, settle
from experiments.evaluate.table import markdown
from nft_jax.config import MeshConfig, VerifierConfig
from nft_jax.data.stream import digest
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.hf import eos_token_ids, load_tokenizer, read_config, resolve_folder
from nft_jax.model.kernels import choose_attention
from nft_jax.policy import load
from nft_jax.record.parts import Parts
from nft_jax.record.trained import checkpoint_step, run_config
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.evaluation import HeldOut, evaluation_key, read_set, summarise_table
from nft_jax.rollout.generate import PART_ROUNDS, Shown
from nft_jax.rollout.judged import judged_groups
from nft_jax.rollout.sampling import SamplingParams
from nft_jax.rollout.slots import slots_that_fit
from nft_jax.runtime.compilation import use_compilation_cache
from nft_jax.runtime.distributed import require_alone
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import Group, InputError, Prompt, Unreachable
from nft_jax.verify import Verifier

ANSWERS = ("temperature", "top_p", "min_p", "max_prompt_tokens", "max_new_tokens", "seed", "mode", "reward", "dtype",
           "kv_dtype", "weight_dtype", "stop", "stop_token_ids", "model", "step")     # what answers depend on


class Model(NamedTuple):
    """What is evaluated, before its weights are read."""
    folder: Path               # config and tokenizer
    config: ModelConfig
    tokenizer: Any
    files: list                # of the weights: name, size, time
    out: Path


def evaluate(given: argparse.Namespace) -> str:
    """Everything that the command does; returns the table and where what was written. Raises InputError."""
    require_alone("experiments.evaluate")
    use_compilation_cache()
    run = run_config(given.model)
    given = settle(given, run)
    asked = sets_asked(given)
    model = open_model(given, run)
    shown = Shown(0, 0)
    held_out, tables, skipped = [], [], {}
    for one in asked:
        try:
            held, report = read_set(one, model.tokenizer, one.name, given.reward)
        except Unreachable as error:
            raise InputError(f"{error} Give the set as --data.{one.name} FILE or in --data-folder, or name the sets "
                             "that you have in --suite.") from error
        shown.say(f"{one.name}: {report}")
        settings = {name: getattr(given, name) for name in ANSWERS} | {
            "n": held.samples, "questions": len(held.prompts), "prompts": digest(held.prompts),
            "weights": model.files}
        held_out.append(held)
        skipped[held.name] = len(report.skipped)
        tables.append(Parts(model.out / f"{one.name}.parquet", json.loads(json.dumps(settings)), judged=True))
    missing = [(held, parts) for held, parts in zip(held_out, tables, strict=True) if not parts.finished]
    if missing:
        with Verifier(VerifierConfig(reward=given.reward, mode=given.mode, workers=given.workers)) as verifier:
            answer(given, model, missing, verifier)
    summaries = {held.name: summarise_table(parts.out, skipped[held.name])
                 for held, parts in zip(held_out, tables, strict=True)}
    text = markdown(summaries, f"T {given.temperature:g}, top-p {given.top_p:g}")
    (model.out / "table.md").write_text(text)
    (model.out / "summary.json").write_text(json.dumps({
        "settings": {name: getattr(given, name) for name in ANSWERS},
        "sets": {name: one.to_json() for name, one in summaries.items()}}, indent=1) + "\n")
    return f"{text}\n{model.out}: the answers of every set (.parquet), table.md, summary.json"


def open_model(given: argparse.Namespace, run) -> Model:
    """Config, tokenizer and place of the model; decides `given.step`. Raises InputError for a folder that will not do,
    a step that is not there, and lengths that the model has no positions for."""
    path = Path(given.model).expanduser()
    if run is not None:
        given.step = checkpoint_step(path, run, given.step)
        folder, weights = resolve_folder(run.policy.path, weights=False), path / "checkpoints" / str(given.step)
        files, out = weights.rglob("*"), path / "evaluations" / f"step_{given.step:06d}"
    else:
        if given.step != "latest":
            raise InputError(f"--step is {given.step!r}, but --model {given.model!r} is not the folder of a run, whose "
                             "checkpoints have steps: leave it out.")
        folder = weights = resolve_folder(given.model)
        files, out = weights.glob("*.safetensors"), Path("runs/evaluations") / folder.name
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    longest = given.max_prompt_tokens + given.max_new_tokens
    if longest > config.max_positions:
        raise InputError(f"--max-prompt-tokens {given.max_prompt_tokens} and --max-new-tokens {given.max_new_tokens} "
                         f"are {longest}, more than the model's {config.max_positions} positions: lower one of them.")
    stats = [(str(file.relative_to(weights)), file.stat()) for file in sorted(files) if file.is_file()]
    return Model(folder, config, tokenizer, [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
                 given.out or out)


def answer(given: argparse.Namespace, model: Model, missing: Sequence[tuple[HeldOut, Parts]],
           verifier: Verifier) -> None:
    """Make the tables that are missing, or go on with them."""
    mesh = make_mesh(MeshConfig(tensor=given.tensor))
    attention, _ = choose_attention("auto", mesh.devices.flat[0].platform, given.dtype, model.config.head_dim)
    compute = Compute(given.dtype, attention=attention, mesh=mesh)

    @cache
    def fitting() -> int:
        return slots_that_fit(
            model.config, mesh, max(len(held.prompts) * held.samples for held, _ in missing), given.max_prompt_tokens,
            given.max_new_tokens, given.dtype, given.kv_dtype, field="--slots",
            remedy="lower --max-new-tokens, use --dtype bfloat16 or --kv-dtype int8, or more devices for a copy of the "
                   "model (--tensor)")

    @cache
    def sampler(slots: int) -> Sampler:
        return Sampler(
            model.config, model.tokenizer, eos_token_ids(model.folder, model.tokenizer), mesh=mesh, slots=slots,
            block_size=given.block_size, max_prompt_tokens=given.max_prompt_tokens, max_new_tokens=given.max_new_tokens,
            compute=compute, stop=tuple(given.stop), stop_token_ids=tuple(given.stop_token_ids),
            kv_dtype=given.kv_dtype, weight_dtype=given.weight_dtype)

    def choose(samples: int) -> dict[str, int]:
        slots = given.slots or fitting()
        return {"slots": slots, "part_prompts": given.part_prompts or -(-PART_ROUNDS * slots // samples)}

    chosen = [parts.claim(lambda held=held: choose(held.samples)) for held, parts in missing]
    params = load(given.model, mesh=mesh, step=given.step).params
    weights = sampler(chosen[0]["slots"]).cast(params)
    del params
    key, sampling = evaluation_key(given.seed), SamplingParams(given.temperature, 0, given.top_p, given.min_p)
    shown = Shown(sum(len(held.prompts) * held.samples for held, _ in missing), sum(
        there * held.samples for (held, parts), sizes in zip(missing, chosen, strict=True)
        for there in parts.done(held.prompts, sizes["part_prompts"])))
    with shown.bar:
        for (held, parts), sizes in zip(missing, chosen, strict=True):
            def judged(prompts: Sequence[Prompt], held=held, slots=sizes["slots"]) -> Iterator[Group]:
                for group in judged_groups(sampler(slots), verifier, weights, prompts, held.samples, key, held.stream,
                                           sampling, progress=shown.block):
                    shown.group(held.samples)
                    yield group

            shown.say(f"{held.name}: {len(held.prompts):,} questions, {held.samples} answers each, {sizes['slots']} at "
                      "a time")
            parts.fill(held.prompts, sizes["part_prompts"], judged, shown.part)
