"""From judged groups to packed optimizer batches.

1. `examples_of`: judged answers become sequences, with the statistics of their group.
2. `deal`: groups are dealt whole to the optimizer updates of a step.
3. `choose_shape`: of the few row lengths that are compiled, the cheapest one for these sequences is chosen.
4. `pack`: the sequences are packed into rows of this length.
5. `balance`: rows are dealt to the devices, so that each device has as much to do.
6. `make_batch`: every token gets the weight that makes the loss one global reduction.

The loss is sum(weight * token loss), whatever the micro-batches, rows or devices."""
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from nft_jax.config import Config, LossAgg, ObjectiveConfig, TermsConfig
from nft_jax.model import delta
from nft_jax.model.config import ModelConfig
from nft_jax.model.flops import multiplied, multiplied_outside
from nft_jax.objectives.all_wrong import prior_accuracies
from nft_jax.objectives.registry import overlong_penalty, token_weights
from nft_jax.objectives.terms import OFF, answers_in_loss, mismatch_weights
from nft_jax.types import Group, TrainBatch

Place = tuple[int, slice]      # where a response lies: its row, counted over micro-batches, and the slice of the row

SHORTEST_ROW = 128      # shorter rows save next to nothing, and each length is two programs to compile
MOST_SHAPES = 4
# The cost of exp, mask and sums for a query-key pair, over the cost of the pair's two products (measured on CPU).
SCORE_COST = 1.0


@dataclass(frozen=True)
class BatchShape:
    """The static sizes of a batch. `micro_batches` is the worst case, one sequence in each row."""
    micro_batches: int
    rows: int
    row_length: int
    devices: int = 1                  # that share the rows of a micro-batch, contiguous rows each
    token_cost: float = 0.0           # of a token outside attention, in query-key pairs

    @classmethod
    def for_sequences(cls, sequences: int, rows: int, row_length: int, devices: int = 1,
                      token_cost: float = 0.0) -> "BatchShape":
        return cls(-(-sequences // rows), rows, row_length, devices, token_cost)


def shapes_of(config: Config, data_parallel: int = 1, model: ModelConfig | None = None) -> tuple[BatchShape, ...]:
    """The shapes that an update of `config` may have, shortest rows first.

    Row lengths are the longest prompt and answer allowed, and powers of two below it; with
    batch.row_length, that length alone. Shorter rows come in larger micro-batches, so that all shapes
    have about as many tokens. Rows are rounded to a multiple of `data_parallel` devices."""
    longest, lengths = config.row_length, []
    if not config.batch.row_length:
        # The largest power of two below `longest`.
        power = 1 << (longest - 1).bit_length() - 1
        lengths = [power >> i for i in range(MOST_SHAPES - 1)
                   if power >> i >= SHORTEST_ROW and not (power >> i) % max(config.mesh.context, 1)]
    rows = -(-config.batch.rows_per_micro_batch // data_parallel) * data_parallel
    sequences = config.sequences_per_update
    cost = token_cost(model) if model else 0.0
    return tuple(BatchShape.for_sequences(
        sequences, rows * longest // length // data_parallel * data_parallel, length, data_parallel, cost)
        for length in [*lengths[::-1], longest])


def token_cost(model: ModelConfig) -> float:
    """What a token costs outside attention, in query-key pairs.

    The multiplications with the weights, over the multiplications of one pair in all heads and layers with attention.
    The elementwise work of a pair weighs SCORE_COST times its products."""
    layers, rest = model.attention_layers, model.delta_layers
    heads = sum(model.num_heads * model.heads_of(model.kinds[layer])[1] for layer in layers) / len(layers)
    others = multiplied_outside(model) + multiplied(model, rest) + len(rest) * delta.operations(model) / 2
    # One quotient of the sum would round otherwise in its last bit, and rows of equal cost might change places.
    return (multiplied(model, layers) / len(layers) + others / len(layers)) / (2 * heads * (1 + SCORE_COST))


def choose_shape(lengths: Sequence[int], shapes: Sequence[BatchShape]) -> tuple[BatchShape, list[list[int]]]:
    """The shape in which sequences of these lengths cost least, and their rows (`pack`).

    Padding costs like tokens, and a token of a row costs the more attention the longer the row. The
    shape is the same whatever the order of the lengths."""
    packed = [(shape, pack(lengths, shape.row_length)) for shape in shapes if shape.row_length >= max(lengths)]

    def cost(choice: tuple[BatchShape, list[list[int]]]) -> float:
        shape, rows = choice
        full = -(-len(rows) // shape.rows) * shape.rows
        return full * shape.row_length * (shape.token_cost + shape.row_length)

    return min(packed, key=cost)


@dataclass(frozen=True)
class Example:
    """One answer as it is trained on."""
    prompt: np.ndarray                 # [p] int32
    response: np.ndarray               # [n] int32
    reward: float = 0.0
    group_accuracy: float = 0.5
    group_std: float = 1.0
    old_logprobs: np.ndarray | None = None           # [n] float32
    group: int = 0                                   # equal for the answers to one prompt
    reference_logprobs: np.ndarray | None = None     # [n] float32
    importance: np.ndarray | float = 1.0             # [n], factors of the tokens' weights
    counted: bool = True                             # whether the denominators of the loss count it
    mask: np.ndarray | None = None                   # [n] bool: the tokens that are trained on; None: all

    @property
    def trained(self) -> int:
        """Tokens that are trained on."""
        return len(self.response) if self.mask is None else int(self.mask.sum())


def learns(group: Group, loss: ObjectiveConfig) -> bool:
    """Whether a step may train on the group: its rewards differ, or all are 0 and `loss.all_wrong` is set."""
    return group.has_signal or (loss.all_wrong > 0 and group.all_wrong)


def deal(groups: Sequence[Group], updates: int, seed: Sequence[int],
         beside: Sequence[Group] = ()) -> list[list[Group]]:
    """Whole groups, shuffled by `seed` and dealt to `updates` parts of nearly equal size. No part is empty:
    fewer groups make fewer parts. Groups `beside` them are dealt likewise to the parts that there are."""
    order = np.random.default_rng(seed).permutation(len(groups))
    parts = [[groups[i] for i in part] for part in np.array_split(order, updates) if len(part)]
    if parts and beside:
        order = np.random.default_rng([*seed, 1]).permutation(len(beside))
        for part, more in zip(parts, np.array_split(order, len(parts)), strict=True):
            part += [beside[i] for i in more]
    return parts


def examples_of(group: Group, loss: ObjectiveConfig, max_new_tokens: int,
                terms: TermsConfig = OFF) -> list[Example]:
    """The answers of a group that are in the loss (`answers_in_loss`).

    Mean and standard deviation are of the full group's rewards: answers outside the loss say as much
    about the policy. With `loss.overlong_buffer` they include DAPO's overlong penalty. Each answer of a group of wrong
    answers has those of a reward that is 1 with the probability of `prior_accuracies`."""
    rollouts = [group.rollouts[i] for i in group.judged]
    rewards = group.rewards.astype(np.float64)
    if loss.overlong_buffer:
        lengths = np.array([len(rollout.tokens) for rollout in rollouts])
        rewards = rewards + overlong_penalty(lengths, max_new_tokens, loss.overlong_buffer)
    weight = 1.0
    if group.all_wrong:
        weight, means = loss.all_wrong, prior_accuracies([rollout.logprobs for rollout in rollouts])
        stds = np.sqrt(means * (1 - means))
    else:
        means, stds = (np.full(len(rewards), each) for each in (rewards.mean(), rewards.std(ddof=loss.std_ddof)))
    old, reference = (scored or (None,) * len(group.rollouts)
                      for scored in (group.old_logprobs, group.reference_logprobs))
    chosen = set(answers_in_loss(group, terms))
    examples = []
    for i, rollout, reward, mean, std in zip(group.judged, rollouts, rewards, means, stds, strict=True):
        if i in chosen:
            importance = weight
            if terms.mismatch != "off":
                importance = weight * mismatch_weights(terms.mismatch, old[i], rollout.logprobs, terms.mismatch_cap)
            examples.append(Example(rollout.prompt.tokens, rollout.tokens, reward, mean, std, old[i],
                                    group.prompt.index, reference[i], importance, not group.all_wrong, rollout.mask))
    return examples


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Rows of indices whose lengths add up to at most `row_length`: best-fit decreasing, the same for the same
    input. Raises ValueError for a length over `row_length`."""
    rows: list[list[int]] = []
    # (tokens left, row), sorted.
    room: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        need = int(lengths[index])
        if need > row_length:
            raise ValueError(f"a sequence of {need} tokens does not fit in a row of {row_length}")
        place = bisect_left(room, (need, -1))
        left, row = room.pop(place) if place < len(room) else (row_length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(room, (left - need, row))
    return rows


def balance(rows: Sequence[Sequence[int]], lengths: Sequence[int], shape: BatchShape) -> list[int]:
    """The place of each row, counted over micro-batches.

    Rows of like cost share a micro-batch. In a full micro-batch every device gets as many rows, of
    about the same total cost (longest processing time first). A row costs, over its sequences, their
    tokens and their query-key pairs: kernels skip the pairs of two segments."""
    costs = [sum(lengths[i] * (shape.token_cost + lengths[i]) for i in row) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (-costs[i], i))
    places, share = [0] * len(rows), shape.rows // shape.devices
    for start in range(0, len(rows), shape.rows):
        # A heap of cost, rows, device.
        loads = [(0.0, 0, device) for device in range(shape.devices)]
        for row in order[start:start + shape.rows]:
            load, used, device = heappop(loads)
            places[row] = start + device * share + used
            if used + 1 < share:
                heappush(loads, (load + costs[row], used + 1, device))
    return places


def make_batch(examples: Sequence[Example], shape: BatchShape, loss_agg: LossAgg = "token_mean",
               constant_length: float = 1.0, group_ids: bool = False,
               rows: Sequence[Sequence[int]] | None = None, fresh: bool = False) -> tuple[TrainBatch, list[Place]]:
    """The examples packed into a TrainBatch of numpy arrays, and the places of their responses (for `unpack`).

    group_ids: whether the batch has them, for an objective that compares the answers of a group. fresh: whether the
    update computes the old log-probs of examples without any. rows: the examples of each row, if they are packed
    already (`choose_shape`). Raises ValueError for more rows than the shape has."""
    sizes = [len(e.prompt) + len(e.response) for e in examples]
    rows = pack(sizes, shape.row_length) if rows is None else rows
    total = shape.micro_batches * shape.rows
    if len(rows) > total:
        raise ValueError(f"{len(examples)} sequences fill {len(rows)} rows, more than the batch's {total}")
    names = ["tokens", "segment_ids", "positions"]
    if group_ids:
        names.append("group_ids")
    if fresh:
        names.append("fresh")
    ints = {name: np.zeros((total, shape.row_length), np.int32) for name in names}
    names = ["weight", "rewards", "group_accuracy", "group_std", "old_logprobs"]
    if any(e.reference_logprobs is not None for e in examples):
        names.append("reference_logprobs")
    floats = {name: np.zeros((total, shape.row_length), np.float32) for name in names}
    groups = np.unique([e.group for e in examples], return_inverse=True)[1] + 1
    weights = token_weights(loss_agg, np.array([e.trained for e in examples]), constant_length,
                            np.array([e.counted for e in examples], bool))
    places: list[Place] = [(0, slice(0))] * len(examples)
    for row, members in zip(balance(rows, sizes, shape), rows, strict=True):
        start = 0
        for segment, index in enumerate(members, 1):
            e, end = examples[index], start + sizes[index]
            answer = slice(start + len(e.prompt), end)
            ints["tokens"][row, start:end] = np.concatenate([e.prompt, e.response])
            ints["segment_ids"][row, start:end] = segment
            ints["positions"][row, start:end] = np.arange(end - start)
            if group_ids:
                ints["group_ids"][row, answer] = groups[index]
            if fresh:
                ints["fresh"][row, answer] = e.old_logprobs is None
            weight = weights[index] * e.importance
            values = {"weight": weight if e.mask is None else weight * e.mask, "rewards": e.reward,
                      "group_accuracy": e.group_accuracy, "group_std": e.group_std,
                      "old_logprobs": 0.0 if e.old_logprobs is None else e.old_logprobs,
                      "reference_logprobs": e.reference_logprobs}
            for name, array in floats.items():
                array[row, answer] = values[name]
            places[index] = row, answer
            start = end
    arrays = {name: a.reshape(shape.micro_batches, shape.rows, -1) for name, a in (ints | floats).items()}
    return TrainBatch(**arrays, num_micro=np.int32(-(-len(rows) // shape.rows))), places


def unpack(values: np.ndarray, places: Sequence[Place]) -> list[np.ndarray]:
    """Values per token [M, R, T] -> the values of each example's response."""
    rows = values.reshape(-1, values.shape[-1])
    return [rows[row, answer].copy() for row, answer in places]
