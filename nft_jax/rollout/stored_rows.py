"""Rows of stored answers in one form, whoever wrote them.

`table_rows` reads the files, and `answers_in` turns a row into answers: dicts with the names of NAMES, each value as
the row has it. Four kinds of rows are known:

- of a run's rollouts/*.parquet, or of `nft_jax.rollout.generate`;
- with a prompt, a response and a reward or a gold, under the names of NAMES;
- an answer of an OpenAI-style server such as vLLM's: an object with `choices`, whose fields may stand beside columns of
  one's own, or a line that `vllm run-batch` writes;
- a line that `vllm run-batch` reads: `is_request` finds it, and its answers take its messages and its other columns.

The names of the server's fields are those of vLLM 0.11 (entrypoints/openai/protocol.py).
"""
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nft_jax.data.questions import Unusable
from nft_jax.record.folder import is_run
from nft_jax.runtime.tables import KINDS, read_table
from nft_jax.types import InputError

# What is read of a row -> the columns that may have it; the first with a value counts.
NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "messages", "question", "problem"), "problem": ("problem", "question"),
    "prompt_tokens": ("prompt_tokens", "prompt_token_ids"),
    "response": ("response", "text", "completion", "output"),
    "response_tokens": ("response_tokens", "tokens", "token_ids"),
    "reward": ("reward",), "gold": ("gold",), "outcome": ("outcome",), "extracted": ("extracted",),
    "reason": ("reason",), "mask": ("mask",), "logprobs": ("logprobs",), "old_logprobs": ("old_logprobs",),
    "truncated_logprobs": ("truncated_logprobs",), "entropies": ("entropies",), "finish_reason": ("finish_reason",),
    "group": ("group", "group_id"), "prompt_index": ("prompt_index",), "sample": ("sample",)}
OF_RUNS = "kept"                # only tables of runs have this column
OF_SERVERS = ("choices", "response", "custom_id", "body", "error")
SERVER_ID = "server's id"       # of an answer; servers give no two answers the same
TOKEN_ID = "token_id:"          # begins a token's name where the server was asked for ids as names


class Place(NamedTuple):
    """A row's file, and its number, from 1."""
    file: Path
    row: int
    choice: int | None = None

    def __str__(self) -> str:
        return f"{self.file.name}, row {self.row}" + ("" if self.choice is None else f", choice {self.choice}")


def files_of(path: str) -> list[Path]:
    """The files that `path` means: itself, those of a folder, or those of a run's rollouts/. Raises InputError where
    there is none."""
    said, found = f"rollout.answers is {path!r}", Path(path).expanduser()
    if not found.is_dir():
        if found.suffix not in KINDS:
            raise InputError(f"{said}: give a .jsonl or .parquet file, or a folder of them.")
        return [found]
    folder = found / "rollouts" if is_run(found) else found
    files = sorted(file for file in folder.glob("*") if file.suffix in KINDS)
    if not files:
        raise InputError(f"{said}, a folder without .jsonl and .parquet files: give one that has the answers.")
    return files


def table_rows(file: Path, said: str, wanted: Iterable[str] | None = None) -> tuple[bool, Iterator[tuple[Place, Any]]]:
    """Whether a run wrote the table, and its rows; a row that cannot be read is the reason why.

    wanted: columns that are read of a .parquet file beside those of NAMES; None: all of them."""
    names = {OF_RUNS, *OF_SERVERS, *(column for columns in NAMES.values() for column in columns), *(wanted or ())}
    table = read_table(file, said, bool if wanted is None else names.__contains__)
    return OF_RUNS in table.columns, ((Place(file, number), row) for number, row in table.rows)


def value_of(row: dict, names: Iterable[str]) -> Any:
    """The first value of these columns; None without one. nan, which pandas writes for none, is none."""
    return next((row[name] for name in names if row.get(name) is not None and row[name] == row[name]), None)


def is_request(row: dict) -> bool:
    """Whether the row asks a server: a line of the input of `vllm run-batch`."""
    return isinstance(row.get("body"), dict) and isinstance(row.get("custom_id"), str) and not row.get("response")


def request_in(row: dict) -> dict:
    """What a request says of its answers: the prompt, and the row's other columns."""
    body = row["body"]
    found = {name: value for name, value in row.items() if name not in ("body", "method", "url", "custom_id")}
    if body.get("messages"):
        return found | {"prompt": body["messages"]}
    prompt = body.get("prompt")
    # /v1/completions takes a text as it is, or ids.
    return found | ({"raw_prompt": prompt} if isinstance(prompt, str) else {"prompt_tokens": prompt})


def answers_in(place: Place, row: dict, requests: dict[str, dict]) -> Iterator[tuple[Place, dict | Unusable]]:
    """The answers of a row, by the names of NAMES, with the row's other columns; or why there is none."""
    try:
        body = _body(row)
    except Unusable as unusable:
        yield place, unusable
        return
    if body is None:
        yield place, _named(row)
        return
    beside = {name: value for name, value in row.items() if name not in (*OF_SERVERS, "id")}
    own = requests.get(str(row.get("custom_id")), {}) | beside
    for number, choice in enumerate(body["choices"]):
        found, rewards = place._replace(choice=number), own.get("reward")
        try:
            answer = own | _choice(choice, number, body)
        except Unusable as unusable:
            yield found, unusable
            continue
        # Values of other types than a server's.
        except (AttributeError, TypeError, ValueError) as error:
            yield found, Unusable("unreadable", f"it is no server's choice ({error})")
            continue
        # A list has a reward for each choice.
        if isinstance(rewards, list):
            answer["reward"] = rewards[number] if number < len(rewards) else None
        yield found, _named(answer)


def _named(row: dict) -> dict:
    """The row with the values of NAMES; its other columns stay, for a reward that reads golds in a way of its own."""
    return row | {name: value_of(row, columns) for name, columns in NAMES.items()}


def _body(row: dict) -> dict | None:
    """The server's object in a row; None in a row of another kind. Raises Unusable for an answer that failed."""
    response = row.get("response")
    for found in (row, response, response.get("body") if isinstance(response, dict) else None):
        if isinstance(found, dict) and isinstance(found.get("choices"), list):
            return found
    if isinstance(response, dict) or (response is None and row.get("custom_id") is not None):
        raise Unusable("failed", f"the server gave no answer ({row.get('error') or response})")
    return None


def _choice(choice: dict, number: int, body: dict) -> dict:
    """A choice of a chat or of a completion. Raises Unusable for one whose tokens cannot be known."""
    message = choice.get("message") or {}
    told = choice.get("logprobs") or {}
    content = told.get("content") or []
    names = [each.get("token") for each in content] or told.get("tokens") or []
    ids = choice.get("token_ids")
    if ids is None and names and all(isinstance(name, str) and name.startswith(TOKEN_ID) for name in names):
        ids = [int(name.removeprefix(TOKEN_ID)) for name in names]
    if ids is None and (message.get("reasoning_content") or message.get("reasoning")):
        raise Unusable("no_response", "the server took the reasoning out of the text: ask it for token ids "
                                      "(return_token_ids)")
    prompt = choice.get("prompt_token_ids") or body.get("prompt_token_ids")
    return {"response": message.get("content") if message else choice.get("text"), "response_tokens": ids,
            "logprobs": [each.get("logprob") for each in content] or told.get("token_logprobs"),
            "finish_reason": choice.get("finish_reason"),
            SERVER_ID: f"{body['id']} {number}" if body.get("id") else None} | (
                {"prompt_tokens": prompt} if prompt else {})
