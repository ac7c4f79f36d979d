"""Held-out questions, and what the judged answers to them say of a model."""
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax

from nft_jax.config import Config
from nft_jax.data.benchmarks import Asked, sets_of
from nft_jax.data.prompts import LoadReport, load_questions
from nft_jax.record.metrics import answer_metrics
from nft_jax.rollout.estimators import Estimate, estimates
from nft_jax.types import OUTCOMES, Group, Prompt, Verdict
from nft_jax.verify.rewards.registry import Reward, lookup


def evaluation_key(seed: int) -> jax.Array:
    """The base key of the answers of every evaluation. Training folds in 0, so the two never meet."""
    return jax.random.fold_in(jax.random.key(seed), 1)


class HeldOut(NamedTuple):
    """A set of questions to answer."""
    name: str                  # "" where there is only one set, without a name
    prompts: list[Prompt]
    samples: int               # K: answers to every question
    stream: int                # the rollout index of its answers


def asked_by(one: Asked, tokenizer, template: str) -> Asked:
    """The set with its prompt for this model. Sets name user messages: where no chat template puts a frame around
    them, `template`, the whole prompt of the model's own questions, asks every set."""
    return one if tokenizer.chat_template else one._replace(data=replace(one.data, template=template))


def read_set(one: Asked, tokenizer, field: str, reward: str) -> tuple[HeldOut, LoadReport]:
    """The questions of a set as prompts, and a report on its rows. Raises the InputErrors of `load_questions`."""
    questions, report = load_questions(one.data, tokenizer, field=field, reward=reward)
    if one.integers:
        # The answer sheet of AIME has 033 for 33, which verifier.mode strict would not accept.
        questions = [replace(q, gold=str(int(q.gold)) if q.gold.isdecimal() else q.gold) for q in questions]
    return HeldOut(one.name, [question.prompt(i) for i, question in enumerate(questions)], one.samples,
                   one.stream), report


def read_held_out(config: Config, tokenizer) -> tuple[list[HeldOut], dict[str, LoadReport]]:
    """The sets that `config.evaluation` names, and a report on each one's rows, by evaluation or evaluation/NAME."""
    held_out, reports, own = [], {}, config.evaluation.reward
    reward = lookup(own, "evaluation.reward").name if own else config.verifier.reward
    for one in sets_of(config.evaluation, config.data):
        field = f"evaluation/{one.name}" if one.name else "evaluation"
        held, reports[field] = read_set(asked_by(one, tokenizer, config.data.template), tokenizer, field, reward)
        held_out.append(held)
    return held_out, reports


def evaluation_metrics(sets: Mapping[str, Sequence[Group]], reward: Reward | None = None) -> dict[str, float]:
    """What the judged answers say: accuracy (avg@k), its `standard_error`, pass@k, maj@k, lengths and verdicts; and
    solutions@k where `reward`, which judged them, tells solutions apart.

    A set without a name has `evaluation/accuracy/all`, `evaluation/pass@4`, ...; named sets have
    `evaluation/NAME/...`, and `evaluation/accuracy/all` is the mean over sets, as in the paper."""
    out, named = {}, []
    for name, groups in sets.items():
        prefix = f"evaluation/{name}/" if name else "evaluation/"
        found = estimates([group.verdicts for group in groups])
        out |= answer_metrics(groups, prefix)
        out |= {prefix + key: estimate.value for key, estimate in found.items() if key != "accuracy"}
        if groups and reward is not None and reward.solution is not None:
            most = max(len(group.rollouts) for group in groups)
            out[f"{prefix}solutions@{most}"] = distinct_solutions(groups, reward.solution)
        if "accuracy" in found:
            named += [found["accuracy"]] if name else []
            if math.isfinite(found["accuracy"].standard_error):
                out[prefix + "standard_error"] = found["accuracy"].standard_error
    if named:
        average = mean_of(named)
        out["evaluation/accuracy/all"] = average.value
        if math.isfinite(average.standard_error):
            out["evaluation/standard_error"] = average.standard_error
    return out


def distinct_solutions(groups: Sequence[Group], solution: Callable[[str, str], str]) -> float:
    """How many different right answers a question has, mean over the questions."""
    return sum(len({solution(group.prompt.problem, rollout.text)
                    for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
                    if verdict.outcome == "right"}) for group in groups) / len(groups)


def mean_of(sets: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, each counting once."""
    return Estimate(sum(one.value for one in sets) / len(sets),
                    math.sqrt(sum(one.standard_error ** 2 for one in sets)) / len(sets))


class Summary(NamedTuple):
    """What the answers to one set say."""
    questions: int
    skipped: int                           # rows that were not asked: prompts too long, unusable golds
    samples: int                           # answers to a question
    estimates: dict[str, Estimate]         # accuracy, pass@k, maj@n
    length: float                          # mean, in tokens
    truncated_share: float
    verdicts: dict[str, int]               # counts of the outcomes

    def to_json(self) -> dict:
        """As json writes it; a standard error that is nan is null."""
        errors = {name: one._asdict() for name, one in self.estimates.items()}
        return self._asdict() | {"estimates": json.loads(json.dumps(errors).replace("NaN", "null"))}


def summarise_table(path: Path, skipped: int = 0) -> Summary:
    """The summary of a table of judged groups, as `record.parts` and runs write it."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    columns = ["prompt_index", "extracted", "outcome", "reward", "finish_reason"]
    # Of the tokens only the lengths are needed: they never become Python lists.
    table = pq.read_table(path, columns=[*columns, "tokens"])
    rows, questions = table.select(columns).to_pylist(), {}
    for row in rows:
        verdict = Verdict(row["outcome"], row["reward"], row["extracted"])
        questions.setdefault(row["prompt_index"], []).append(verdict)
    counts = Counter(row["outcome"] for row in rows)
    return Summary(
        questions=len(questions), skipped=skipped, samples=max(map(len, questions.values())),
        estimates=estimates(list(questions.values())),
        length=pc.mean(pc.list_value_length(table["tokens"])).as_py(),
        truncated_share=sum(row["finish_reason"] == "length" for row in rows) / len(rows),
        verdicts={outcome: counts[outcome] for outcome in OUTCOMES})
