"""Metrics: what groups of judged answers say, and how the rows of a run are written and read.

A row is the metrics of one step. It goes to metrics.jsonl, the record, and to the trackers of `config.writers`."""
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from nft_jax.config import Config, VerifierConfig
from nft_jax.record.trackers import Mirror, open_writers
from nft_jax.runtime.files import replaced
from nft_jax.runtime.writing import Writing, append
from nft_jax.types import OUTCOMES, Group
from nft_jax.verify.maths.judge import SECOND_OPINION


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None


def answer_metrics(groups: Sequence[Group], prefix: str = "") -> dict[str, float]:
    """Accuracy, lengths, entropies and verdict counts over all answers of the groups. Lengths are in tokens.
    Entropies are in nats, of the sampled distribution, averaged over tokens, where every answer has them. A mean over
    nothing is left out."""
    answers = [(rollout, verdict) for group in groups
               for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)]
    counts = Counter(verdict.outcome for _, verdict in answers)
    kinds = {"all": answers, "right": [a for a in answers if a[1].outcome == "right"],
             "wrong": [a for a in answers if a[1].outcome not in ("right", "error")]}
    out = {"accuracy/all": _mean(v.reward for _, v in answers if v.reward is not None),
           "truncated_share": _mean(r.finish_reason == "length" for r, _ in answers)}
    for kind, chosen in kinds.items():
        out[f"length/{kind}"] = _mean(len(r.tokens) for r, _ in chosen)
        if chosen and all(len(r.entropies) == len(r.tokens) for r, _ in chosen):
            out[f"entropy/{kind}"] = float(np.concatenate([r.entropies for r, _ in chosen]).mean())
    out |= {f"verdicts/{outcome}": counts[outcome] for outcome in OUTCOMES}
    return {prefix + key: value for key, value in out.items() if value is not None}


def decided_by(groups: Sequence[Group], verifier: VerifierConfig) -> dict[str, float]:
    """Shares of the answers: where math-verify alone says right; with verifier.disagreement also where mode strict
    (the official NFT training rule) and mode equivalent disagree, where only equivalent says right, and where only
    strict does. Empty where nothing is compared with a gold as maths."""
    verdicts = [verdict for group in groups for verdict in group.verdicts if verdict.outcome != "error"]
    if not verdicts or verifier.reward != "math" or verifier.mode == "strict":
        return {}
    found = {"verdicts/second_opinion": float(np.mean([verdict.reason == SECOND_OPINION for verdict in verdicts]))}
    if verifier.disagreement:
        equivalent, strict = np.array([(verdict.outcome == "right", verdict.strict) for verdict in verdicts]).T
        found |= {"verdicts/strict_disagreement": float((equivalent != strict).mean()),
                  "verdicts/only_equivalent": float((equivalent & ~strict).mean()),
                  "verdicts/only_strict": float((strict & ~equivalent).mean())}
    return found


def budget_metrics(step: int, sampled: Sequence[Group], kept: Sequence[Group]) -> dict[str, float]:
    """What rollout.tokens_per_step does in `step` (from 0). sampled: its judged and open groups. kept: those it trains
    on."""
    answers = [r.steps for group in sampled for r in group.rollouts if r.steps[-1] == step]
    new, begun = (sum(int((steps == step).sum()) for steps in answers if (steps[0] < step) == earlier)
                  for earlier in (False, True))
    found = {"groups/open": sum(group.is_open for group in sampled),
             "rollout/continued_share": begun / max(new + begun, 1)}
    if kept:
        ages = step - np.concatenate([r.steps for group in kept for r in group.rollouts])
        found |= {"rollout/age_mean": float(ages.mean()), "rollout/age_max": int(ages.max())}
    return found


def mismatch_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """How far the sampler's log-probs are from the trainer's: mean and 95 % quantile of
    |difference| in nats, over all tokens, and the share of tokens whose ratio (trainer's
    probability over sampler's) is outside [0.9, 1.1]."""
    if not groups:
        return {}
    differences = np.concatenate([old - rollout.logprobs for group in groups
                                  for old, rollout in zip(group.old_logprobs, group.rollouts, strict=True)])
    ratios = np.exp(differences)
    return {"mismatch/mean": float(np.abs(differences).mean()),
            "mismatch/p95": float(np.quantile(np.abs(differences), 0.95)),
            "mismatch/outside_10_percent": float(((ratios < 0.9) | (ratios > 1.1)).mean())}


class MetricsWriter:
    """Writes the rows of a run to metrics.jsonl, by `writing`, and to each of `config.writers`, in threads.

    Rows after `last_step` are cut from metrics.jsonl first: their steps are about to be done again. Once this is
    open, no failure of a writer ends the run. `close` waits for the trackers."""

    def __init__(self, folder: Path, last_step: int, config: Config, writing: Writing | None = None):
        self._path, self._writing = folder / "metrics.jsonl", writing or Writing(print)
        rows = [row for row in read_metrics(self._path) if row["step"] <= last_step] if self._path.exists() else []
        with replaced(self._path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        opened = open_writers(folder, last_step, rows, config)
        self.mirrors = [Mirror(writer, name, self._writing.say)
                         for name, writer in zip(config.writers, opened, strict=True)]

    def write(self, step: int, metrics: dict[str, float]) -> None:
        # JSON has no NaN and no infinity.
        finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        line = (json.dumps({"step": step} | finite) + "\n").encode()
        self._writing("metrics.jsonl", f"the row of step {step}", lambda: append(self._path, line))
        for mirror in self.mirrors:
            mirror.write(step, metrics)

    def close(self) -> None:
        for mirror in self.mirrors:
            mirror.close()


def read_metrics(path: Path) -> list[dict]:
    """The rows of a metrics.jsonl, one per step. A last line that a kill cut short is dropped. An evaluation that
    was interrupted and done again has a second row. Its metrics are added to the step's row."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if rows and "step" in row and row["step"] == rows[-1].get("step"):
            rows[-1] = row | rows[-1]
        else:
            rows.append(row)
    return rows
