"""From data sets to a stream of prompts.

Life of a prompt: rows come from a source (`nft_jax.data.sources`) (1); a row becomes a question and its gold answer, or
is skipped with a reason (2); repeats of a question are dropped (3); the chat template renders it, the tokenizer turns
it into ids, and too long ones are skipped (4); the stream hands them out in a seeded order, a new permutation every
epoch, for ever (5).
"""
from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice

import numpy as np

from nft_jax.config import DataConfig
from nft_jax.data.sources import ANSWER_COLUMNS, QUESTION_COLUMNS, Rows, read_rows
from nft_jax.types import InputError, Prompt
from nft_jax.verify.maths.judge import alternatives, check_gold, extract
from nft_jax.verify.rewards.registry import lookup

REASONS = ("unreadable", "no_question", "no_answer", "bad_gold", "bad_chat", "too_long")
LONGEST_ANSWER = 200         # characters of a text without box that can pass for an answer
CHUNK = 1024                 # rows that are rendered and tokenised together


@dataclass(frozen=True)
class Question:
    """A usable row: what a prompt is, but for its place in the stream."""
    problem: str
    gold: str
    text: str
    tokens: np.ndarray                # [n] int32

    def prompt(self, index: int) -> Prompt:
        """The prompt at position `index` of a stream."""
        return Prompt(index, self.problem, self.gold, self.text, self.tokens)


@dataclass(frozen=True)
class SkippedRow:
    """A row that is not used. `row` counts from 1 (the line number in a .jsonl file)."""
    row: int
    reason: str                       # one of REASONS
    detail: str


@dataclass(frozen=True)
class LoadReport:
    """What became of the rows that were read: rows = used + repeats + len(skipped)."""
    source: str
    rows: int
    used: int
    repeats: int
    conflicting_repeats: int          # repeats whose gold is not that of the first
    skipped: tuple[SkippedRow, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Skipped rows by reason; only the reasons that occurred."""
        found = Counter(row.reason for row in self.skipped)
        return {reason: found[reason] for reason in REASONS if found[reason]}

    def to_rows(self) -> list[dict]:
        """The skipped rows as plain dicts (row, reason, detail)."""
        return [asdict(row) for row in self.skipped]

    def to_json(self) -> dict:
        """Everything, as what json writes."""
        return {"source": self.source, "rows": self.rows, "used": self.used, "repeats": self.repeats,
                "conflicting_repeats": self.conflicting_repeats, "counts": self.counts, "skipped": self.to_rows()}

    def __str__(self) -> str:
        parts = [f"{self.used} questions from {self.rows} rows of {self.source}"]
        if self.repeats:
            different = f" ({self.conflicting_repeats} with another answer)" if self.conflicting_repeats else ""
            parts.append(f"{self.repeats} repeats dropped{different}")
        parts += [f"{count} skipped: {reason.replace('_', ' ')}" for reason, count in self.counts.items()]
        return ", ".join(parts)


class Unusable(Exception):
    """Why a row cannot be used: (reason, detail)."""


def render(tokenizer, prompt: str | Sequence[dict], *, template: str = "{problem}", system: str = "",
           thinking: bool | None = None) -> str:
    """The text a model continues: `prompt` through the tokenizer's chat template, with the assistant's turn opened.

    A string is put into `template` as one user message, after `system` when that is not empty; chat messages (dicts
    with role and content) are taken as they are. `thinking` is passed as enable_thinking unless it is None. Raises
    InputError when the template does not accept the messages.
    """
    if isinstance(prompt, str):
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": template.replace("{problem}", prompt)})
    else:
        messages = list(prompt)
    from jinja2.exceptions import TemplateError
    options = {} if thinking is None else {"enable_thinking": thinking}
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    except (TemplateError, TypeError, KeyError) as error:
        raise InputError(f"the tokenizer's chat template refuses the messages with the roles "
                         f"{[message.get('role') for message in messages]}: {error}. Use roles it knows, leave "
                         "data.system empty, or give the model another chat template.") from error


def read_question(row: dict) -> str | list[dict]:
    """The question of a row: a string, or chat messages that end with the user's. Raises Unusable."""
    name = next((name for name in QUESTION_COLUMNS if row.get(name)), None)
    if name is None:
        raise Unusable("no_question", f"no value in {', '.join(QUESTION_COLUMNS)} (columns: {', '.join(row)})")
    value = row[name]
    if isinstance(value, str):
        if not value.strip():
            raise Unusable("no_question", f"{name} is blank")
        return value
    messages = list(value) if isinstance(value, (list, tuple)) else []
    if not messages or not all(isinstance(message, dict) and isinstance(message.get("role"), str)
                               and isinstance(message.get("content"), str) for message in messages):
        raise Unusable("no_question", f"{name} is neither text nor a list of messages with role and content")
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise Unusable("no_question", f"the last message of {name} is of role {messages[-1]['role']!r}; it must be "
                                      "the user's, and not blank")
    return messages


def read_gold(row: dict) -> str:
    """The gold answer of a row. Raises Unusable.

    From `answer`, `final_answer` (OlympiadBench: a list of all the answers), `solution` or `reward_model.ground_truth`,
    the first that has a value: what follows the last #### (GSM8K), else the content of the last box, else the text
    itself. A whole number is written without a point (142.0 is 142).
    """
    for name in ANSWER_COLUMNS:
        value = row.get(name)
        if name == "reward_model" and isinstance(value, dict):
            name, value = "reward_model.ground_truth", value.get("ground_truth")
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        elif name == "final_answer" and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            value = ", ".join(value)
        if value is None or value != value or (isinstance(value, str) and not value.strip()):   # null, nan or blank
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise Unusable("bad_gold", f"{name} is of type {type(value).__name__}, not text or a number")
        return _final_answer(name, str(int(value) if isinstance(value, float) and value.is_integer() else value))
    raise Unusable("no_answer", "no value in answer, final_answer, solution or reward_model.ground_truth")


def _final_answer(name: str, text: str) -> str:
    if "####" in text:
        gold = text.rpartition("####")[2].strip()
    elif "\\boxed" in text:
        gold = extract(text) or ""
        if not gold:
            raise Unusable("bad_gold", f"the last box in {name} is empty or not complete")
    else:
        gold = text.strip()
        if max(map(len, alternatives(gold))) > LONGEST_ANSWER or "\n" in gold:
            raise Unusable("bad_gold", f"{name} is a long text without #### and without box")
    reason = check_gold(gold)
    if reason is not None:
        raise Unusable("bad_gold", f"{name}: {reason}")
    return gold


@dataclass
class _Tally:
    """What has been read so far."""
    rows: int = 0
    repeats: int = 0
    conflicting_repeats: int = 0
    skipped: list[SkippedRow] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)

    def skip(self, row: int, unusable: Unusable) -> None:
        self.skipped.append(SkippedRow(row, *unusable.args))


def gold_reader(reward: str) -> Callable[[dict], str]:
    """How the gold of a row is read for a reward: by the rules of maths, or in the reward's own way."""
    if reward == "math":
        return read_gold
    read = lookup(reward).read_gold

    def read_or_skip(row: dict) -> str:
        try:
            return read(row)
        except ValueError as problem:
            raise Unusable("bad_gold", str(problem)) from problem
    return read_or_skip


def _gold_or_nothing(read: Callable[[dict], str]) -> Callable[[dict], str]:
    """For questions that are only to be answered: a row without a usable gold has the gold ""."""
    def read_or_nothing(row: dict) -> str:
        try:
            return read(row)
        except Unusable:
            return ""
    return read_or_nothing


def _usable(rows: Rows, tally: _Tally, read_gold: Callable[[dict], str]) -> Iterator[tuple[int, str | list[dict], str]]:
    """(row number, question, gold) of the rows that have both, each question once."""
    golds: dict[str, str] = {}           # question -> gold of its first usable row
    for number, row in rows:
        tally.rows += 1
        try:
            if isinstance(row, str):
                raise Unusable("unreadable", row)
            tally.columns |= dict.fromkeys(row)
            question, gold = read_question(row), read_gold(row)
        except Unusable as unusable:
            tally.skip(number, unusable)
            continue
        key = json.dumps(question)
        if key in golds:
            tally.repeats += 1
            tally.conflicting_repeats += gold != golds[key]
            continue
        golds[key] = gold
        yield number, question, gold


def _tokenized(usable: Iterator, config: DataConfig, tokenizer, tally: _Tally) -> Iterator[Question]:
    """Rendered and tokenised, without the too long ones; reads no row beyond the one that completes config.limit."""
    made = 0
    while chunk := list(islice(usable, min(config.limit - made, CHUNK) if config.limit else CHUNK)):
        rendered = []
        for number, question, gold in chunk:
            try:
                text = render(tokenizer, question, template=config.template, system=config.system,
                              thinking=config.thinking)
            except InputError as error:
                tally.skip(number, Unusable("bad_chat", str(error)))
                continue
            problem = question if isinstance(question, str) else question[-1]["content"]
            rendered.append((number, problem, gold, text))
        texts = [text for *_, text in rendered]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        for (number, problem, gold, text), tokens in zip(rendered, ids, strict=True):
            if len(tokens) > config.max_prompt_tokens:
                tally.skip(number, Unusable("too_long", f"{len(tokens)} tokens"))
            else:
                made += 1
                yield Question(problem, gold, text, np.asarray(tokens, np.int32))


def load_questions(config: DataConfig, tokenizer, *, field: str = "data",
                   reward: str = "math", answers: bool = True) -> tuple[list[Question], LoadReport]:
    """The usable questions of `config.source` in the order of the source, and what became of the other rows. The
    reward decides what a gold is; with `answers` False, questions without one are usable too.

    With `config.limit`, the first so many usable ones; rows after them are not read. Raises InputError (naming the
    field `field`.source): nothing there, no rows, unknown columns, nothing usable.
    """
    tally = _Tally()
    read = gold_reader(reward) if answers else _gold_or_nothing(gold_reader(reward))
    used = list(_tokenized(_usable(read_rows(config, field, reward), tally, read), config, tokenizer, tally))
    report = LoadReport(config.source, tally.rows, len(used), tally.repeats, tally.conflicting_repeats,
                        tuple(sorted(tally.skipped, key=lambda skipped: skipped.row)))
    if not used:
        raise InputError(_nothing_usable(report, tally.columns, config, field))
    return used, report


def _nothing_usable(report: LoadReport, columns: dict[str, None], config: DataConfig, field: str) -> str:
    """What to tell when not a single row can be used."""
    found = f"{field}.source is {config.source!r}: "
    if not report.rows:
        return found + "the data set has no rows. Give one with a question and an answer in each row."
    for kind, names in (("question", QUESTION_COLUMNS), ("answer", ANSWER_COLUMNS)):
        if columns and not any(name in columns for name in names):
            return found + (f"none of its columns holds the {kind} (found: {', '.join(columns)}). Rename the column "
                            f"of the {kind} to one of {', '.join(name for name in names if name != 'reward_model')}.")
    first = report.skipped[0]
    remedy = f"Mend the rows, or raise {field}.max_prompt_tokens = {config.max_prompt_tokens}." \
        if report.counts.get("too_long") else "Mend the rows, or give another data set."
    return found + (f"none of its {report.rows} rows can be used ({report}). The first: row {first.row}, "
                    f"{first.detail}. {remedy}")


def digest(questions: Iterable[Question | Prompt]) -> str:
    """Of what is asked and what is right, in their order."""
    out = hashlib.blake2b(digest_size=8)
    for question in questions:
        for part in (question.tokens.tobytes(), question.gold.encode("utf-8", "replace")):
            out.update(len(part).to_bytes(8, "little") + part)
    return out.hexdigest()


class PromptStream:
    """An endless stream of prompts: every epoch a new permutation of the questions, drawn from (seed, epoch).

    The prompt at an index is a function of (questions, seed, index) only, so the index is all there is to save.
    """

    def __init__(self, questions: Sequence[Question], seed: int = 0):
        if not questions:
            raise InputError("the prompt stream has no questions: give it at least one.")
        self._questions, self._seed = questions, seed
        self._index, self._epoch, self._order = 0, -1, np.zeros(0, np.int64)

    def _question(self, index: int) -> Question:
        epoch, place = divmod(index, len(self._questions))
        if epoch != self._epoch:
            generator = np.random.default_rng([self._seed % 2**63, epoch])
            self._epoch, self._order = epoch, generator.permutation(len(self._questions))
        return self._questions[self._order[place]]

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts; their indices go on where the last call ended."""
        start, self._index = self._index, self._index + count
        return [self._question(index).prompt(index) for index in range(start, self._index)]

    def digest(self) -> str:
        """Streams of equal digests and seeds hand out the same."""
        return digest(self._questions)

    def state(self) -> dict[str, int]:
        """What `restore` needs to go on from here."""
        return {"index": self._index}

    def restore(self, state: dict[str, int]) -> None:
        """Go on exactly where `state` was taken. Raises InputError for a negative index."""
        if state["index"] < 0:
            raise InputError(f"the prompt stream's index is {state['index']}: it must be 0 or more.")
        self._index = int(state["index"])
