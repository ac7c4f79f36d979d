"""From a data set to rendered and tokenised questions, with a report on every row that was not used.

The life of a question:
1. `nft_jax.data.sources` reads the rows.
2. A row becomes a question and its gold answer, or is skipped with a reason (`nft_jax.data.questions`).
3. Repeats of a question are dropped; the first one's gold counts.
4. The chat template renders the question; without one, data.template is the whole prompt. A text of too many
   characters is skipped before it costs more.
5. The tokenizer turns it into ids, and too long ones are skipped. What it puts before a text, such as BOS, a chat
   template writes itself; before a whole prompt it is put here.
6. `nft_jax.data.stream` hands the questions out as prompts, in a seeded order.
"""
from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cache
from itertools import takewhile
from operator import itemgetter
from string import ascii_letters
from typing import NamedTuple

import numpy as np

from nft_jax.config import DataConfig
from nft_jax.config.checks import require
from nft_jax.data.questions import REASONS, Unusable, gold_reader, half_pair, read_question
from nft_jax.data.sources import ANSWER_COLUMNS, QUESTION_COLUMNS, columns_flag, read_source, refuse_answers
from nft_jax.runtime.tables import Rows, listed
from nft_jax.types import InputError, Prompt

CHUNK, CHUNK_CHARACTERS = 1024, 1 << 20
"""Rows, and characters, after which the rendered rows are tokenised together."""
LONGEST_DETAIL = 300
"""Characters of what a report says of one row."""
REPEATED_SHARE = 0.2
"""Of the golds: a word that has more of them is named."""
_WORD = re.compile(r"(?:\\text\{)?\s*[^\W\d_]{2,}(?:[\s'-]+[^\W\d_]+)*\s*\}?")
DIRECTIVES = tuple(f"%{flag}{letter}" for flag in ("", *"-_0^#") for letter in ascii_letters)
"""What strftime replaces, with the flags of the C library."""
STRFTIME = r"""
{%- macro strftime_now(format) -%}{%- set told = TOLD -%}{%- set text -%}
{%- for part in format.replace('%%', '\0').split('%') -%}
{%- if loop.first -%}{{ part }}
{%- elif part[:2] in told -%}{{ told[part[:2]] ~ part[2:] }}
{%- elif part[:1] in told -%}{{ told[part[:1]] ~ part[1:] }}
{%- else -%}{{ '%' ~ part }}{%- endif -%}
{%- endfor -%}
{%- endset -%}{{ text.replace('\0', '%') }}{%- endmacro %}
"""


@dataclass(frozen=True)
class Question:
    """A usable row: a prompt without its place in the stream."""
    problem: str
    gold: str
    text: str
    tokens: np.ndarray                # [n] int32

    def prompt(self, index: int) -> Prompt:
        return Prompt(index, self.problem, self.gold, self.text, self.tokens)


@dataclass(frozen=True)
class SkippedRow:
    """A row that is not used. `row` counts from 1; in a .jsonl file it is the line number."""
    row: int
    reason: str                       # one of REASONS
    detail: str


@dataclass
class LoadReport:
    """How many rows were read, and what became of them: rows = used + repeats + len(skipped)."""
    source: str
    rows: int = 0
    used: int = 0
    repeats: int = 0
    conflicting_repeats: int = 0      # repeats whose gold differs from the first one's
    skipped: list[SkippedRow] = field(default_factory=list)
    repeated_golds: dict[str, float] = field(default_factory=dict)
    """Words that are the gold of more than a fifth of the questions, with their shares."""

    def skip(self, row: int, unusable: Unusable) -> None:
        reason, detail = unusable.args
        self.skipped.append(SkippedRow(row, reason, detail[:LONGEST_DETAIL]))

    @property
    def counts(self) -> dict[str, int]:
        """Skipped rows by reason; only the reasons that occurred."""
        found = Counter(row.reason for row in self.skipped)
        return {reason: found[reason] for reason in REASONS if found[reason]}

    def to_json(self) -> dict:
        return asdict(self) | {"counts": self.counts}

    def __str__(self) -> str:
        parts = [f"{self.used} questions from {self.rows} rows of {self.source}"]
        if self.repeats:
            different = f" ({self.conflicting_repeats} with another answer)" if self.conflicting_repeats else ""
            parts.append(f"{self.repeats} repeats dropped{different}")
        parts += [f"{count} skipped: {reason.replace('_', ' ')}" for reason, count in self.counts.items()]
        parts += [f"warning: {share:.0%} of the golds are {gold!r}: easy to guess, or no gold at all (leave such rows "
                  "out)" for gold, share in self.repeated_golds.items()]
        return ", ".join(parts)


def dated(config: DataConfig, tokenizer, day: str) -> DataConfig:
    """The settings with the day that the chat template writes into every prompt: `config.date`, else `day`. For a
    template that writes none they stay as they are."""
    writes = "strftime_now" in (tokenizer.chat_template or "")
    return replace(config, date=day) if writes and not config.date else config


@cache
def _telling(date: str, template: str) -> str:
    """The chat template with a `strftime_now` of its own, which tells `date` instead of today."""
    # transformers hands a template nothing but plain data, so the function is a macro.
    day = datetime.fromisoformat(date)
    told = {name[1:]: day.strftime(name) for name in DIRECTIVES if day.strftime(name) != name}
    return STRFTIME.replace("TOLD", json.dumps(told)) + template


def render(tokenizer, prompt: str | Sequence[dict], *, template: str = "{problem}", system: str = "",
           thinking: bool | None = None, date: str = "") -> str:
    """The text that a model continues: the chat template's, with the assistant's turn opened.

    A string becomes one user message, put into `template`; a `system` that is not empty stands before it. Chat
    messages (dicts with role and content) are rendered unchanged. `thinking` is passed as enable_thinking
    unless it is None. A template that writes the date writes `date` (YYYY-MM-DD; empty: today). Raises InputError
    when the template does not accept the messages.

    Without a chat template the text is `template` with the question, and nothing else. Of chat messages, a single one
    of the user is a question.
    """
    if tokenizer.chat_template is None:
        return _whole(prompt, template, system, thinking)
    if isinstance(prompt, str):
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": template.replace("{problem}", prompt)})
    else:
        messages = list(prompt)
    options = {} if thinking is None else {"enable_thinking": thinking}
    if date:
        options["chat_template"] = _telling(date, tokenizer.get_chat_template())
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        if not text.strip():
            raise ValueError("it writes nothing")
        return text
    # A template is a program that came with the model: it may raise anything.
    except Exception as error:
        raise InputError(f"the tokenizer's chat template refuses the messages with the roles "
                         f"{[message.get('role') for message in messages]} ({type(error).__name__}: {error}). Use "
                         "roles it knows, leave data.system empty, or give the model another chat template.") from error


def _whole(prompt: str | Sequence[dict], template: str, system: str, thinking: bool | None) -> str:
    """The prompt of a model without a chat template. Raises InputError for what only such a template could render."""
    for name, value, unset in (("data.system", system, ""), ("data.thinking", thinking, None)):
        require(value == unset, name, value, f"there is no chat template that would take it. Leave it at {unset!r} "
                "and write data.template, the whole prompt, or name a data.chat_template.")
    if not isinstance(prompt, str):
        roles = [message.get("role") for message in prompt]
        if roles != ["user"]:
            raise InputError(f"the question is chat messages with the roles {roles}, and there is no chat template "
                             "that would render them: name one as data.chat_template.")
        prompt = prompt[0]["content"]
    return template.replace("{problem}", prompt)


def opening(tokenizer) -> list[int]:
    """The ids that the tokenizer puts before a text: BOS, or none. tokenizer.json decides, as in transformers 5."""
    encoded = tokenizer.backend_tokenizer.encode("a")
    return [i for i, _ in takewhile(itemgetter(1), zip(encoded.ids, encoded.special_tokens_mask, strict=True))]


def token_ids(tokenizer, texts: Sequence[str], *, raw: bool) -> list[list[int]]:
    """The ids of prompts. A `raw` text did not come from a chat template: the tokenizer's opening is put before it,
    unless it begins so. What tokenizers put behind a text, such as EOS, never is."""
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    first = opening(tokenizer) if raw else []
    return [each if each[:len(first)] == first else first + each for each in ids]


def prompt_lines(tokenizer) -> list[str]:
    """A line for the user where questions do not go through a chat template."""
    if tokenizer.chat_template is not None:
        return []
    first = opening(tokenizer)
    begins = f"begins with {tokenizer.decode(first)!r} ({', '.join(map(str, first))})" if first else "begins with it"
    return [f"prompts: there is no chat template, so data.template is the whole prompt, which {begins}"]


def turn_end(tokenizer) -> int | None:
    """The added token with which the chat template ends an answer; None where it ends answers otherwise, or refuses
    the messages, and without a template."""
    if tokenizer.chat_template is None:
        return None
    answer = "forty-two"
    messages = [{"role": "user", "content": "6*7"}, {"role": "assistant", "content": answer}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:
        # A template may refuse answers: `render` never gives it one.
        return None
    _, found, rest = text.rpartition(answer)
    ids = tokenizer(rest.strip(), add_special_tokens=False)["input_ids"] if found else []
    return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None


def _usable(rows: Rows, report: LoadReport,
            read_gold: Callable[[dict], str]) -> Iterator[tuple[int, str | list[dict], str]]:
    """(row number, question, gold) of the rows that have both, each question once."""
    golds: dict[bytes, str] = {}      # digest of a question -> gold of its first usable row
    for number, row in rows:
        report.rows += 1
        try:
            if isinstance(row, str):
                raise Unusable("unreadable", row)
            question, gold = read_question(row), read_gold(row)
        except Unusable as unusable:
            report.skip(number, unusable)
            continue
        # Messages may carry values that JSON has not, such as a date.
        key = hashlib.blake2b(json.dumps(question, default=repr).encode(), digest_size=16).digest()
        if key in golds:
            report.repeats += 1
            report.conflicting_repeats += gold != golds[key]
            continue
        golds[key] = gold
        yield number, question, gold


class _Rendered(NamedTuple):
    """A question as its text, not yet tokenised."""
    number: int
    problem: str
    gold: str
    text: str


def _rendered(usable: Iterator, config: DataConfig, tokenizer, report: LoadReport) -> Iterator[_Rendered]:
    """The questions as text, without those that the template refuses or that are too long by their characters."""
    longest_token = max(map(len, tokenizer.get_vocab()))
    # Twice as many: a tokenizer may drop white space, and write two characters as one.
    most = 2 * config.max_prompt_tokens * longest_token
    for number, question, gold in usable:
        try:
            text = render(tokenizer, question, template=config.template, system=config.system,
                          thinking=config.thinking, date=config.date)
        except InputError as error:
            report.skip(number, Unusable("bad_chat", str(error)))
            continue
        if broken := half_pair(text):
            report.skip(number, Unusable("unreadable", broken))
        elif len(text) > most:
            report.skip(number, Unusable("too_long", f"{len(text):,} characters; no token has more than "
                                                     f"{longest_token}"))
        else:
            yield _Rendered(number, question if isinstance(question, str) else question[-1]["content"], gold, text)


def _chunk(rendered: Iterator[_Rendered], most: int) -> list[_Rendered]:
    """The next rows, at most so many, and not many more than CHUNK_CHARACTERS characters."""
    chunk, characters = [], 0
    while len(chunk) < most and characters < CHUNK_CHARACTERS and (one := next(rendered, None)) is not None:
        chunk.append(one)
        characters += len(one.text)
    return chunk


def _tokenized(usable: Iterator, config: DataConfig, tokenizer, report: LoadReport) -> list[Question]:
    """The questions rendered and tokenised, without the too long ones. No row is read beyond the one that
    completes config.limit."""
    made: list[Question] = []
    rendered = _rendered(usable, config, tokenizer, report)
    while chunk := _chunk(rendered, min(config.limit - len(made), CHUNK) if config.limit else CHUNK):
        ids = token_ids(tokenizer, [one.text for one in chunk], raw=tokenizer.chat_template is None)
        for one, tokens in zip(chunk, ids, strict=True):
            if len(tokens) > config.max_prompt_tokens:
                report.skip(one.number, Unusable("too_long", f"{len(tokens)} tokens"))
            else:
                made.append(Question(one.problem, one.gold, one.text, np.asarray(tokens, np.int32)))
    return made


def load_questions(config: DataConfig, tokenizer, *, field: str = "data",
                   reward: str = "math", answers: bool = True) -> tuple[list[Question], LoadReport]:
    """The usable questions of `config.source` in the order of the source, and a report on all rows.

    The reward decides how a gold is read. With `answers` False, questions without a gold are usable too. With
    `config.limit` = n, only the first n usable questions are kept, and no row after them is read. Raises
    InputError, naming `field`.source: nothing there, no rows, unknown columns, nothing usable.
    """
    if tokenizer.chat_template is None:
        # Every question would be skipped for it.
        _whole("", config.template, config.system, config.thinking)
    table, report = read_source(config, field, reward), LoadReport(config.source)
    if answers:
        refuse_answers(table, config, field)
    used = _tokenized(_usable(table.rows, report, gold_reader(reward, answers)), config, tokenizer, report)
    report.used = len(used)
    report.repeated_golds = {
        gold: times / len(used) for gold, times in Counter(question.gold for question in used).items()
        if times > max(1, REPEATED_SHARE * len(used)) and _WORD.fullmatch(gold)}
    report.skipped.sort(key=lambda skipped: skipped.row)
    if not used:
        raise InputError(_nothing_usable(report, table.columns, config, field, answers))
    return used, report


def _nothing_usable(report: LoadReport, columns: Collection[str], config: DataConfig, field: str,
                    answers: bool) -> str:
    found = f"{field}.source is {config.source!r}: "
    for kind, names in (("problem", QUESTION_COLUMNS), ("answer", ANSWER_COLUMNS if answers else columns)):
        own = config.renamed.get(kind)
        if not columns or any(name in columns for name in (names if own is None else (own, own.partition(".")[0]))):
            continue
        known = ", ".join(name for name in names if name != "reward_model") if own is None else repr(own)
        return found + f"it has no column {known} for the {kind} (found: {listed(columns)}). Name yours: " \
                       f"{columns_flag(field)} {kind}=NAME."
    if not report.rows:
        return found + "the data set has no rows. Give one with a question and an answer in each row."
    first = report.skipped[0]
    remedy = f"raise {field}.max_prompt_tokens = {config.max_prompt_tokens}" if report.counts.get("too_long") else \
        "give another data set"
    return found + (f"none of its {report.rows} rows can be used ({report}). The first: row {first.row}, "
                    f"{first.detail}. Mend the rows, or {remedy}.")
