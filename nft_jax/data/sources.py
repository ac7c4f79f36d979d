"""Rows of questions: from a generator, reasoning-gym, local files and folders, or the hub.

`read_rows` gives (row number, row) pairs. A row is a dict, or a string that says why it could not be read. Row
numbers count from 1; in a .jsonl file they are line numbers.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from nft_jax.config import DataConfig
from nft_jax.data import arithmetic
from nft_jax.types import InputError, Unreachable
from nft_jax.verify.rewards.gym import refuse_task

QUESTION_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "solution", "reward_model.ground_truth", "reward_model")
GENERATED = 20_000
"""Questions that a generator makes when data.limit is 0."""
GYM = "reasoning-gym:"

Rows = Iterator[tuple[int, dict | str]]


def read_rows(config: DataConfig, field: str = "data", reward: str = "math") -> Rows:
    """The rows of `config.source`, in order; `reward` is what will judge the answers. Raises InputError, naming
    `field`.source or `field`.split. Raises Unreachable for a data set of the hub that cannot be had."""
    source = config.source
    if source in arithmetic.SOURCES:
        pairs = arithmetic.questions(config.split, config.limit or GENERATED, config.seed or 0, source)
        return ((i, {"problem": problem, "answer": answer}) for i, (problem, answer) in enumerate(pairs, 1))
    if source.startswith(GYM):
        return _gym(source.removeprefix(GYM), config, field, reward)
    path = Path(source).expanduser()
    # NAME:FILE.parquet is a file of a data set on the hub, unless a local file has that very name.
    if path.suffix in (".jsonl", ".parquet") and (":" not in source or path.is_file()):
        if not path.is_file():
            raise InputError(f"{field}.source is {source!r}: there is no such file (looked for {path.absolute()}). "
                             "Check the path.")
        return _jsonl(path) if path.suffix == ".jsonl" else _parquet(path, field)
    if path.is_dir():
        return _saved(path, config, field)
    if path.exists():
        raise InputError(f"{field}.source is {source!r}: files of this kind are not read. Give a .jsonl or .parquet "
                         "file, or a folder written by datasets' save_to_disk.")
    return _hub(config, field)


def _jsonl(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                yield number, f"not JSON: {error}"
                continue
            yield number, row if isinstance(row, dict) else f"JSON of type {type(row).__name__}, not an object"


def _parquet(path: Path, field: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{field}.source is {str(path)!r}: it cannot be read as parquet ({error}).") from error
    wanted = [name for name in file.schema_arrow.names if name in QUESTION_COLUMNS + ANSWER_COLUMNS]
    if not wanted and file.metadata.num_rows:
        # One row that shows the columns, so that the error can name them.
        return iter([(1, dict.fromkeys(file.schema_arrow.names))])
    batches = file.iter_batches(columns=wanted)
    return enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), 1)


def _saved(path: Path, config: DataConfig, field: str) -> Rows:
    from datasets import DatasetDict, load_from_disk
    try:
        data = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{field}.source is {str(path)!r}: this folder was not written by datasets' save_to_disk "
                         f"({error}). Give such a folder, or one .jsonl or .parquet file.") from error
    if isinstance(data, DatasetDict):
        if config.split not in data:
            raise InputError(f"{field}.split is {config.split!r}: {path} has the splits {', '.join(data)}. "
                             "Choose one of them.")
        data = data[config.split]
    return enumerate(data, 1)


def _hub(config: DataConfig, field: str) -> Rows:
    name, _, part = config.source.partition(":")
    options = {"data_files": part} if part.endswith((".jsonl", ".parquet")) else {"name": part or None}
    try:
        from datasets import load_dataset
        data = load_dataset(name, split=config.split, **options)
    except (OSError, ValueError, RuntimeError) as error:
        # Not found, no network, or no such split or subset: datasets' own words say which.
        reason = str(error).strip().splitlines()
        raise Unreachable(
            f"{field}.source is {config.source!r} (split {config.split!r}): there is no such file or folder, and the "
            f"hub gave no data set ({reason[0] if reason else type(error).__name__}). Check the spelling and the "
            "split. A subset is written NAME:SUBSET (openai/gsm8k:main), one file of a data set NAME:FILE.parquet. "
            "Without network, give a local .jsonl or .parquet file.") from error
    return enumerate(data, 1)


def _gym(task: str, config: DataConfig, field: str, reward: str) -> Rows:
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
    return islice(rows, wanted)


def _gym_split(question: str) -> str:
    """The one split of a question, whatever seed and position it was drawn with: a quarter is held out."""
    return "heldout" if hashlib.blake2b(question.encode(), digest_size=1).digest()[0] < 64 else "train"
