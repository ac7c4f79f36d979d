"""Rows of questions: from a generator, reasoning-gym, local files and folders, or the hub.

`read_source` gives a `Table`: its rows are (row number, row) pairs, and a row that cannot be read is the reason
why. Files are read by `nft_jax.runtime.tables`.
"""
import hashlib
import os
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path

from nft_jax.config import DataConfig
from nft_jax.data import arithmetic
from nft_jax.runtime.network import hub_without_retries
from nft_jax.runtime.tables import BATCH, KINDS, Table, arrow_table, listed, no_file, read_table
from nft_jax.runtime.terminal import hide_bars
from nft_jax.types import InputError, Unreachable
from nft_jax.verify.rewards.gym import refuse_task
from nft_jax.verify.rewards.registry import lookup, plain_gold

QUESTION_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "solution", "reward_model.ground_truth", "reward_model")
RESPONSE_COLUMNS = ("response", "responses", "text", "completion", "completions", "output")
SAMPLED_COLUMNS = ("tokens", "logprobs", "reward", "rewards", "verdict", "outcome")
"""Columns of stored answers: a text, and what sampling or judging it gave."""
GENERATED = 20_000
"""Questions that a generator makes when data.limit is 0."""
GYM = "reasoning-gym:"
SAVED = ("state.json", "dataset_dict.json", "dataset_info.json")
"""A folder of datasets' save_to_disk has one of these files."""


def read_source(config: DataConfig, field: str = "data", reward: str = "math") -> Table:
    """The rows of `config.source`, in order; `reward` is what will judge the answers. Columns that
    `config.columns` names are called problem and answer. Raises InputError, naming `field`.source or
    `field`.split. Raises Unreachable for a data set of the hub that cannot be had."""
    table = _read(config, field, reward)
    if renamed := config.renamed:
        table.rows = ((number, row if isinstance(row, str) else with_names(row, renamed)) for number, row in table.rows)
    return table


def _read(config: DataConfig, field: str, reward: str) -> Table:
    source, said = config.source, f"{field}.source is {config.source!r}"
    if source in arithmetic.SOURCES:
        pairs = arithmetic.questions(config.split, config.limit or GENERATED, config.seed or 0, source)
        return Table((i, {"problem": problem, "answer": answer}) for i, (problem, answer) in enumerate(pairs, 1))
    if source.startswith(GYM):
        return _gym(source.removeprefix(GYM), config, field, reward)
    path = Path(os.path.expanduser(source))
    reason = no_file(path)
    # NAME:FILE.parquet is a file of a data set on the hub, unless a local file has that very name.
    if path.suffix in KINDS and (":" not in source or reason is None):
        return read_table(path, said, _wanted(config, reward))
    if os.path.isdir(path):
        return _saved(path, config, said, field, reward)
    if reason is None or os.path.lexists(path):
        raise InputError(f"{said}: {reason or 'files of this kind are not read'}. Give a .jsonl or .parquet file, or "
                         "a folder written by datasets' save_to_disk.")
    return _hub(config, said, reward)


def _wanted(config: DataConfig, reward: str) -> Callable[[str], bool]:
    """Which columns are read, by name: the others may be large. A reward that reads golds in a way of its own
    gets them all."""
    if reward != "math" and lookup(reward).read_gold is not plain_gold:
        return lambda name: True
    names = {*QUESTION_COLUMNS, *ANSWER_COLUMNS}
    for name in config.renamed.values():
        names |= {name, name.partition(".")[0]}
    return names.__contains__


def with_names(row: dict, columns: dict[str, str]) -> dict:
    """The row with the values of these columns as problem and answer. No other column stands in for them."""
    found = {kind: _value(row, name) for kind, name in columns.items()}
    dropped = {name for kind in columns for name in (QUESTION_COLUMNS if kind == "problem" else ANSWER_COLUMNS)}
    return {name: value for name, value in row.items() if name not in dropped} | found


def _value(row: dict, name: str) -> object:
    """The value of a column, or of a field in it (extra_info.answer). None where there is none."""
    if name in row or "." not in name:
        return row.get(name)
    outer, _, inner = name.partition(".")
    return _value(row[outer], inner) if isinstance(row.get(outer), dict) else None


def refuse_answers(table: Table, config: DataConfig, field: str) -> None:
    """Raises InputError for a table of stored answers, whose answers would be dropped."""
    first = next(table.rows, None)        # fills in the columns of a .jsonl file
    if first is None:
        return
    table.rows = chain([first], table.rows)
    responses, sampled = ([name for name in names if name in table.columns]
                          for names in (RESPONSE_COLUMNS, SAMPLED_COLUMNS))
    if responses and sampled and not config.columns:
        raise InputError(
            f"{field}.source is {config.source!r}: it holds stored answers (columns {listed(responses + sampled)}), "
            "which are not read here: a model answers the questions anew. Give a file of questions. To judge stored "
            "answers, run python -m nft_jax.verify FILE. To ask their questions all the same, name the columns: "
            f"{columns_flag(field)} problem=NAME,answer=NAME.")


def columns_flag(field: str) -> str:
    """The flag that names the columns of `field`.source: data, evaluation, evaluation/NAME; else that of a command
    without sections."""
    room = field.partition("/")[0]
    return f"--{room}.columns" if room in ("data", "evaluation") else "--columns"


def _saved(path: Path, config: DataConfig, said: str, field: str, reward: str) -> Table:
    if not any((path / name).is_file() for name in SAVED):
        raise InputError(f"{said}: this folder was not written by datasets' save_to_disk (it has none of "
                         f"{', '.join(SAVED)}). Give such a folder, or one .jsonl or .parquet file.")
    strange = next((inner for pattern in ("*", "*/*") for inner in path.glob(pattern)
                    if not inner.is_dir() and no_file(inner)), None)
    if strange is not None:
        raise InputError(f"{said}: {strange.name} in it cannot be read, {no_file(strange)}. Save the data set again.")
    hide_bars()
    from datasets import DatasetDict, load_from_disk
    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{said}: datasets cannot load this folder ({type(error).__name__}: {error}). Save the data "
                         "set again, or give one .jsonl or .parquet file.") from error
    if isinstance(data, DatasetDict):
        if config.split not in data:
            raise InputError(f"{field}.split is {config.split!r}: {path} has the splits {listed(data)}. "
                             "Choose one of them.")
        data = data[config.split]
    return _dataset(data, said, _wanted(config, reward))


def _dataset(data, said: str, wanted: Callable[[str], bool]) -> Table:
    names = data.column_names
    chosen = data.select_columns([name for name in names if wanted(name)]).with_format("arrow")
    return arrow_table(names, chosen.iter(BATCH), said)


def _hub(config: DataConfig, said: str, reward: str) -> Table:
    name, _, part = config.source.partition(":")
    options = {"data_files": part} if part.endswith(KINDS) else {"name": part or None}
    hide_bars()
    from datasets import load_dataset
    with hub_without_retries() as unreachable:
        try:
            data = load_dataset(name, split=config.split, **options)
        except (OSError, ValueError, RuntimeError) as error:
            # Not found, no network, or no such split or subset: datasets' own words say which.
            lines = str(error).strip().splitlines()
            reason = unreachable or (lines[0] if lines else type(error).__name__)
            raise Unreachable(
                f"{said} (split {config.split!r}): there is no such file or folder, and the hub gave no data set "
                f"({reason}). Check the spelling and the split. A subset is written NAME:SUBSET (openai/gsm8k:main), "
                "one file of a data set NAME:FILE.parquet. Without network, give a local .jsonl or .parquet file."
                ) from error
    return _dataset(data, said, _wanted(config, reward))


def _gym(task: str, config: DataConfig, field: str, reward: str) -> Table:
    """Each row also carries `gym`: task, size, seed and index, to make the item again."""
    refuse_task(task, reward, f"{field}.source")
    try:
        import reasoning_gym
    except ImportError as error:
        raise InputError(f"{field}.source is {config.source!r}: the package reasoning-gym is not installed. "
                         "Run: pip install reasoning-gym") from error
    if config.split not in ("train", "heldout"):
        raise InputError(f"{field}.split is {config.split!r}: questions of reasoning-gym have the splits train and "
                         "heldout. Choose one of them.")
    wanted = config.limit or GENERATED
    # A quarter of the items is held out: eight times as many leave enough for either split.
    size = 8 * wanted
    try:
        data = reasoning_gym.create_dataset(task, size=size, seed=config.seed or 0)
    except (ValueError, KeyError, AssertionError) as error:
        # reasoning-gym validates by assertion.
        raise InputError(f"{field}.source is {config.source!r}: reasoning-gym cannot make this task ({error}). Write "
                         f"the name of one of its tasks, such as {GYM}chain_sum.") from error
    origin = {"task": task, "size": size, "seed": config.seed or 0}
    items = ((index, data[index]) for index in range(size))
    rows = ((index + 1, {"question": item["question"], "answer": item["answer"], "gym": origin | {"index": index}})
            for index, item in items if _gym_split(item["question"]) == config.split)
    return Table(islice(rows, wanted))


def _gym_split(question: str) -> str:
    """The one split of a question, whatever seed and position it was drawn with: a quarter is held out."""
    return "heldout" if hashlib.blake2b(question.encode(), digest_size=1).digest()[0] < 64 else "train"
