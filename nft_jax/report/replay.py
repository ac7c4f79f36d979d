"""A step of a run, computed again on the host: what an objective does, or would have done, to every token.

1. the step's groups are dealt, weighted and packed as in training (`examples_of`, `deal`, `make_batch`);
2. the new log-probs come from a policy; without one they are the old ones, and every ratio R is 1;
3. `token_loss` and `coefficients` are computed for every token;
4. the trainer's own tally adds them up to metrics.

Nothing here needs an accelerator. Without a policy, the run's model is not needed either."""
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nft_jax.config import BatchConfig, Config, ObjectiveConfig, RolloutConfig
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.hf.tokenizer import Text, pieces
from nft_jax.model.logprobs import token_logprobs
from nft_jax.objectives.nft import implicit_negative
from nft_jax.objectives.ratios import MAX_LOG_RATIO
from nft_jax.objectives.registry import Objective, coefficients, find_objective, resolve, token_loss
from nft_jax.objectives.terms import answers_in_loss
from nft_jax.record.folder import RunFolder, is_run, read_run
from nft_jax.record.rollouts import SCHEMA, table_to_groups
from nft_jax.report.tokens import FLAGS, Answer
from nft_jax.train.batch import BatchShape, Example, deal, examples_of, learns, make_batch, unpack
from nft_jax.train.step import loss_inputs
from nft_jax.train.step_metrics import combine, summarise, tally
from nft_jax.types import Group, InputError, TrainBatch

if TYPE_CHECKING:
    import pandas

    from nft_jax.policy import Policy
    from nft_jax.record.pictures import Picture
    from nft_jax.report.views import GroupView

# Columns that a table may lack.
OPTIONAL = ("old_logprobs", "reference_logprobs", "kept", "mask")
# Tokens whose losses are computed at a time.
PART = 1 << 20


@dataclass(frozen=True, repr=False)
class Replay:
    """What `replay` returns. `metrics` has the metrics that the objective decides, named and added
    up as in the step's row of metrics.jsonl. `notes` are sentences on which log-probs were used."""
    path: Path
    objective: str
    config: ObjectiveConfig           # resolved
    answers: tuple[Answer, ...]
    metrics: dict[str, float]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return (f"Replay({str(self.path)!r}, {self.objective}: {len(self.answers)} answers, "
                f"{sum(len(a.ids) for a in self.answers)} tokens; {'; '.join(self.notes)})")

    def table(self) -> "pandas.DataFrame":
        """A row for every token. Columns are the fields of `Answer`, and `position`, the token's place in it."""
        import pandas
        sizes = [len(answer.ids) for answer in self.answers]
        columns = {name: np.repeat([getattr(answer, name) for answer in self.answers], sizes)
                   for name in ("update", "prompt_index", "sample", "reward", "group_accuracy")}
        columns["position"] = np.concatenate([np.arange(size) for size in sizes])
        per_token = ("tokens", "ids", "old_logprobs", "logprobs", "entropies", "ratio", "x", "weight", "loss",
                     "coefficient", *FLAGS)
        return pandas.DataFrame(columns | {
            name: np.concatenate([np.asarray(getattr(answer, name)) for answer in self.answers]) for name in per_token})

    def group(self, prompt_index: int | None = None, colour: str = "coefficient", most: int = 8) -> "GroupView":
        """Right and wrong answers to a question, whatever K is, their tokens coloured: `GroupView`. None is the group
        whose tokens moved most."""
        from nft_jax.report.views import GroupView
        return GroupView.of(self.answers, self.objective, prompt_index, colour, most)

    def draw_x(self, prompt_index: int | None = None) -> "Picture":
        """x = pi_minus / pi_old at every token of a wrong answer, with the clamp: `views.draw_x`. None is the answer
        whose x falls lowest."""
        from nft_jax.report.views import draw_x
        return draw_x(self.answers, self.config.epsilon, prompt_index)

    def summary(self) -> "pandas.DataFrame":
        """A row for right answers (reward >= 1/2) and one for wrong answers, if there are any.

        Columns: numbers of answers and tokens; means over tokens of ratio and coefficient; the
        largest ratio; shares of clamped, saturated and clipped tokens; over all updates, the sum of
        weight * loss (`loss`) and of weight * coefficient (`push`)."""
        import pandas
        table = self.table()
        rows = {}
        for sign, part in (("positive", table[table.reward >= 0.5]), ("negative", table[table.reward < 0.5])):
            if len(part):
                rows[sign] = {"answers": len(part.groupby(["prompt_index", "sample"])), "tokens": len(part),
                              "ratio": part.ratio.mean(), "largest ratio": part.ratio.max(),
                              "coefficient": part.coefficient.mean(), **{name: part[name].mean() for name in FLAGS},
                              "loss": (part.weight * part.loss).sum(), "push": (part.weight * part.coefficient).sum()}
        return pandas.DataFrame.from_dict(rows, orient="index")


def replay(step: str | os.PathLike, objective: str | Objective | Callable | None = None,
           policy: "Policy | str | os.PathLike | None" = None, *, config: ObjectiveConfig | None = None,
           temperature: float | None = None, kept: bool = True) -> Replay:
    """Every token of a step's answers under an objective: loss, coefficient, ratio, clamp and clip.

    step: a table of answers, RUN/rollouts/step_NNNNNN.parquet, or a run's folder, which means its newest step. The
        run's config.json, two folders up from a table, says how groups are dealt to updates and answers weighted.
        Without it, all groups are one update.
    objective: a name, a function or an `Objective`. None: the run's own.
    policy: a `Policy`, or a `path` of `nft_jax.load`. Its log-probs are the new ones in all of the step's updates.
        None: the new log-probs are the old ones, so every ratio is 1, as at the first update on fresh answers.
    config: settings of the objective. None: the run's for the run's own objective, else the defaults.
    temperature: divides the policy's logits. None: the run's rollout.temperature.
    kept: True takes the groups that the step trained on; False takes all groups whose rewards differ.

    The old log-probs are the table's. Groups that were not trained on have none and get the sampler's; `notes`
    says how many. The weights include the run's mask_truncated and mismatch weights. The loss leaves out the
    run's KL and entropy terms. extras["entropies"] are the policy's, or the sampler's without a policy.

    Raises InputError for: no such step; a table that cannot be read, lacks columns, or has no group
    to replay; neither a run's config.json nor an objective; a policy whose vocabulary lacks a
    token; and all that `resolve` and `load` refuse."""
    path = find_step(step)
    every = read_groups(path, kept)
    folder = path.absolute().parent.parent
    recorded = read_run(folder) if is_run(folder) else None
    run = one_update(path, objective, every) if recorded is None else recorded.config
    objective = run.objective if objective is None else objective
    loss = resolve(objective, config or (run.loss if objective == run.objective else ObjectiveConfig()))
    if find_objective(objective).whole_groups:
        run = replace(run, terms=replace(run.terms, mismatch="off"))
    run = replace(run, objective=objective, loss=loss)
    trained = [group for group in every if answers_in_loss(group, run.terms) and learns(group, loss)]
    groups = [group if group.old_logprobs is not None else
              replace(group, old_logprobs=tuple(rollout.logprobs for rollout in group.rollouts)) for group in trained]
    sampled = sum(group.old_logprobs is None for group in trained)
    if not groups:
        raise InputError(f"step is {str(path)!r}, of which no group was trained on: kept=False replays all groups "
                         "whose rewards differ." if kept else
                         f"step is {str(path)!r}, which has no group with different rewards: choose another step.")
    policy = loaded(policy, groups)
    if policy is not None:
        text = Text(policy.tokenizer)
    else:
        text = recorded.text if recorded is not None else None
    number = path.stem.removeprefix("step_")
    parts = [groups]
    if number.isdecimal():
        parts = deal([group for group in groups if group.has_signal], run.batch.updates_per_step,
                     (run.seed, int(number) - 1), beside=[group for group in groups if not group.has_signal])
    temperature = run.rollout.temperature if temperature is None else temperature
    longest = max(len(r.prompt.tokens) + len(r.tokens) for group in groups for r in group.rollouts)
    answers, tallies = [], []
    for update, part in enumerate(parts):
        more, counts = replay_update(update, part, run, policy, temperature, text, longest)
        answers += more
        tallies.append(counts)
    total = {name: np.asarray(value) for name, value in functools.reduce(combine, tallies).items()}
    notes = ["new log-probs are the old ones, every ratio is 1" if policy is None else "new log-probs are the policy's"]
    if sampled:
        notes.append(f"old log-probs of {sampled} groups are the sampler's, as the table has no others")
    label = objective
    if not isinstance(objective, str):
        label = getattr(getattr(objective, "function", objective), "__name__", "objective")
    return Replay(path, label, loss, tuple(answers), summarise(total, len(parts)), tuple(notes))


def replay_update(update: int, groups: Sequence[Group], run: Config, policy: "Policy | None", temperature: float,
                  text: Text | None, longest: int) -> tuple[list[Answer], dict[str, Any]]:
    """The answers of one update, and its tally. `run` has the objective and its settings; no
    sequence has more than `longest` tokens."""
    made = [(group, group.rollouts[i], example) for group in groups for i, example in
            zip(answers_in_loss(group, run.terms), examples_of(group, run.loss, run.rollout.max_new_tokens, run.terms),
                strict=True)]
    rows, places = packed_rows([example for *_, example in made], longest, run.loss)
    logprobs, entropies = rows.old_logprobs, np.zeros_like(rows.weight)
    for (row, place), (_, rollout, _) in zip(places, made, strict=True):
        # A stored answer may have none.
        entropies[row, place] = rollout.entropies if len(rollout.entropies) else 0
    if policy is not None:
        logprobs, entropies = score(policy, rows, temperature, run.batch.rows_per_micro_batch)
    values = row_losses(rows, logprobs, entropies, run.objective, run.loss)
    metrics = {name: value for name, value in values.items() if name not in ("loss", "coefficient")}
    counts = tally(values["loss"], metrics, values["coefficient"], entropies, rows.weight, rows.rewards)
    log_ratio = np.minimum(logprobs - rows.old_logprobs, MAX_LOG_RATIO)
    values |= {"logprobs": logprobs, "weight": rows.weight, "entropies": entropies, "ratio": np.exp(log_ratio),
               "x": np.asarray(implicit_negative(log_ratio, np.zeros_like(log_ratio), rows.group_accuracy))}
    parts = {name: unpack(values[name], places)
             for name in ("logprobs", "entropies", "ratio", "x", "weight", "loss", "coefficient")}
    parts |= {name: [value != 0 for value in unpack(values[name], places)] for name in FLAGS}
    return [Answer(update, group.prompt.index, rollout.sample, float(example.reward), float(example.group_accuracy),
                   rollout.finish_reason, rollout.tokens,
                   tuple(map(str, rollout.tokens) if text is None else pieces(rollout.tokens.tolist(), text)),
                   np.asarray(example.old_logprobs), **{name: each[i] for name, each in parts.items()})
            for i, (group, rollout, example) in enumerate(made)], counts


# ---- reading ---------------------------------------------------------------------------------------------------


def find_step(step: str | os.PathLike) -> Path:
    """The table that `step` means. Raises InputError if there is none."""
    path = Path(step).expanduser()
    if path.is_file():
        return path
    folder = path if path.is_dir() else path.parent.parent
    tables = RunFolder(folder, {}).tables
    if path.is_dir() and tables:
        return tables[max(tables)]
    found = f"has the steps {min(tables)} to {max(tables)}" if tables else "has no rollouts/"
    raise InputError(f"step is {str(path)!r}, where there is no table of answers; the folder {str(folder)!r} {found}: "
                     "give RUN/rollouts/step_NNNNNN.parquet, or the folder of a run.")


def one_update(path: Path, objective: Any, groups: Sequence[Group]) -> Config:
    """The configuration for a table outside a run's folder: all groups in a single update. Raises
    InputError without an objective."""
    if objective is None:
        raise InputError(f"objective is None, but {str(path)!r} is not in the folder rollouts/ of a run, whose "
                         "objective it could be: name one.")
    most = max((len(rollout.tokens) for group in groups for rollout in group.rollouts), default=1)
    return Config(batch=BatchConfig(updates_per_step=1), rollout=RolloutConfig(max_new_tokens=most))


def read_groups(path: Path, kept: bool) -> list[Group]:
    """The groups of the table whose rewards differ; with `kept`, only groups that the step trained
    on. Raises InputError for a table that cannot be read or lacks columns."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"step is {str(path)!r}, which cannot be read as a parquet file ({error}): give a table of "
                         "answers, RUN/rollouts/step_NNNNNN.parquet.") from error
    missing = [name for name in SCHEMA.names if name not in (*OPTIONAL, *table.column_names)]
    if missing:
        raise InputError(f"step is {str(path)!r}, a table without the columns {', '.join(missing)}: give one that a "
                         "run wrote, RUN/rollouts/step_NNNNNN.parquet.")
    if kept:
        known = "kept" in table.column_names
        table = table.filter(pc.fill_null(table["kept"], False)) if known else table.slice(0, 0)
    # A step trains on groups of wrong answers with loss.all_wrong.
    return [group for group in table_to_groups(table) if group.has_signal or (kept and group.all_wrong)]


def loaded(policy: "Policy | str | os.PathLike | None", groups: Sequence[Group]) -> "Policy | None":
    """The policy, loaded if it is a path. Raises InputError if it lacks a token of the answers."""
    if isinstance(policy, (str, os.PathLike)):
        from nft_jax.policy import load
        policy = load(policy)
    if policy is not None:
        largest = max(int(max(r.tokens.max(), r.prompt.tokens.max())) for group in groups for r in group.rollouts)
        if largest >= policy.config.vocab_size:
            raise InputError(f"policy has vocab_size {policy.config.vocab_size}, but the answers have the token "
                             f"{largest}: give a policy with the tokenizer that the answers were sampled with.")
    return policy


# ---- losses ----------------------------------------------------------------------------------------------------


def packed_rows(examples: Sequence[Example], longest: int, loss: ObjectiveConfig) -> tuple[TrainBatch, list]:
    """The examples of one update as `make_batch` packs them, with all rows in one piece [N, T], and
    their places."""
    # N and T are powers of two, so that updates share what jax compiles.
    shape = BatchShape(len(examples), 1, 1 << (longest - 1).bit_length())
    batch, places = make_batch(examples, shape, loss.loss_agg, loss.constant_length, group_ids=True)
    count = 1 << (int(batch.num_micro) - 1).bit_length()

    def rows(x: np.ndarray) -> np.ndarray:
        x = x[:count, 0]
        return np.pad(x, ((0, count - len(x)), (0, 0)))

    return TrainBatch(*(x if x is None or x.ndim == 0 else rows(x) for x in batch)), places


def row_losses(rows: TrainBatch, logprobs: np.ndarray, entropies: np.ndarray,
               objective: str | Objective | Callable, loss: ObjectiveConfig) -> dict[str, np.ndarray]:
    """`loss`, `coefficient` and the metrics of `token_loss`, each [N, T], for the rows of
    `packed_rows`. The extras are the same as in training."""
    objective = find_objective(objective)
    # Some rows at a time, but all at once for an objective that looks at whole groups.
    count = len(logprobs) if objective.whole_groups else max(1, PART // logprobs.shape[1])
    parts = []
    for start in range(0, len(logprobs), count):
        part = jax.tree.map(lambda x, place=slice(start, start + count): x[place] if np.ndim(x) else x, rows)
        inputs = loss_inputs(part if objective.whole_groups else part._replace(group_ids=None), loss,
                             None if objective.whole_groups else entropies[start:start + count])
        found, metrics = token_loss(objective, logprobs[start:start + count], *inputs)
        pushed = coefficients(objective, logprobs[start:start + count], *inputs)
        parts.append(metrics | {"loss": found, "coefficient": pushed})
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


@functools.cache
def _scorer(model: ModelConfig, compute: Compute):
    def of(params, tokens, positions, segment_ids, wanted, temperature):
        return token_logprobs(params, model, tokens, positions, segment_ids, wanted=wanted, temperature=temperature,
                              compute=compute)
    return jax.jit(of)


def score(policy: "Policy", rows: TrainBatch, temperature: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs and entropies [N, T] of the answers under the policy, computed in the type of its
    parameters, about `count` rows at a time. 0 outside the answers."""
    scorer = _scorer(policy.config, Compute(policy.params["embed"].dtype.name))
    count = 1 << (count - 1).bit_length()
    parts = [scorer(policy.params, *(x[start:start + count] for x in (rows.tokens, rows.positions, rows.segment_ids,
                                                                      rows.weight > 0)), np.float32(temperature))
             for start in range(0, len(rows.tokens), count)]
    logprobs, entropies = (np.concatenate([np.asarray(x, np.float32) for x in each])
                           for each in zip(*parts, strict=True))
    return logprobs, entropies
