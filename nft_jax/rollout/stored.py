"""Stored answers in the sampler's place: files become groups of answers with token ids, and a report on every row.

The life of a stored answer:

1. `nft_jax.rollout.stored_rows` reads its row in one form, whoever wrote it.
2. `nft_jax.rollout.stored_answers` makes it a `StoredAnswer`, or raises Unusable with the reason.
3. Rows of one group id, or else of one prompt, are a group (`read_stored`).
4. `nft_jax.train.stored_groups` judges what has no reward and scores what has no log-probs, once, and keeps both.
5. The prompt stream hands out the groups as prompts that carry their answers (`StoredQuestion`). From there on the
   run knows no difference.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from nft_jax.config import Config
from nft_jax.data.prompts import Question
from nft_jax.data.questions import Unusable
from nft_jax.data.sources import ANSWER_COLUMNS, with_names
from nft_jax.data.stream import hash_of
from nft_jax.rollout.stored_answers import Reader, StoredAnswer, StoredReport
from nft_jax.rollout.stored_rows import (
    SERVER_ID,
    Place,
    answers_in,
    files_of,
    is_request,
    request_in,
    table_rows,
)
from nft_jax.runtime.files import checksum
from nft_jax.types import Group, InputError, Prompt, Verdict


@dataclass(frozen=True)
class StoredPrompt(Prompt):
    """A prompt of the stream whose answers are stored: `group`, with this prompt's index."""
    group: Group


@dataclass(frozen=True)
class StoredQuestion(Question):
    """A stored group as the prompt stream takes it."""
    group: Group

    @classmethod
    def of(cls, group: Group) -> StoredQuestion:
        prompt = group.prompt
        return cls(prompt.problem, prompt.gold, prompt.text, prompt.tokens, group)

    def prompt(self, index: int) -> StoredPrompt:
        rollouts = tuple(replace(r, prompt=replace(r.prompt, index=index)) for r in self.group.rollouts)
        group = replace(self.group, prompt=rollouts[0].prompt, rollouts=rollouts)
        return StoredPrompt(index, self.problem, self.gold, self.text, self.tokens, group)


class Stored(NamedTuple):
    """groups: the answers of each, in the order of their first rows. digest: of all that training reads of them."""
    groups: list[list[StoredAnswer]]
    report: StoredReport
    digest: str

    @property
    def prompts(self) -> list[Prompt]:
        """The first prompt of every group."""
        return [members[0].rollout.prompt for members in self.groups]


def read_stored(config: Config, tokenizer, eos: Sequence[int], vocabulary: int) -> Stored:
    """The groups of `config.rollout.answers`.

    Raises InputError, naming the field: nothing there, the same file twice, no usable answer, ids of another tokenizer,
    a group of more than rollout.samples_per_prompt answers, no group that could have unequal rewards."""
    source, reader = config.rollout.answers, Reader(config, tokenizer, eos, vocabulary)
    said, report = f"rollout.answers is {source!r}", reader.report
    files = files_of(source)
    report.files = len(files)
    _refuse_copies(files, said)
    groups: dict[Hashable, list[StoredAnswer]] = {}
    taken: dict[Hashable, tuple[Hashable, int]] = {}             # what tells a row from others -> group, place in it
    for place, of_run, row in _rows(files, said, config):
        report.rows += 1
        if isinstance(row, Unusable):
            report.skip(place, row)
            continue
        try:
            answer = reader.answer(place, row)
        except Unusable as unusable:
            report.skip(place, unusable)
            continue
        key, name = _identity(row, answer, of_run)
        members = groups.setdefault(key, [])
        if name in taken:
            other = groups[taken[name][0]][taken[name][1]]
            # A run writes a group again in the step that trains on it, now with its old log-probs.
            if of_run and row["old_logprobs"] is not None:
                groups[taken[name][0]][taken[name][1]] = answer
            report.skip(place, Unusable("repeated", f"the same answer as {other.place}"))
            continue
        if name is not None:
            taken[name] = key, len(members)
        members.append(answer)
    if reader.strange > reader.checked / 2:
        raise InputError(f"{said}, whose ids another tokenizer made: in {reader.strange} of {reader.checked} answers "
                         f"they say something else than the text. {reader.first_strange}. Give the model that "
                         "answered, or rows of text alone.")
    found = _grouped(groups, config, report, said)
    return Stored(found, report, _digest(found))


def _rows(files: Sequence, said: str, config: Config) -> Iterator[tuple[Place, bool, dict | Unusable]]:
    """Every answer of the files: its place, whether a run wrote it, and its row or why it cannot be read. The columns
    that data.columns names are called problem and answer."""
    renamed = config.data.renamed
    # Golds of other rewards than maths may stand in any column.
    wanted = (*ANSWER_COLUMNS, *(name.partition(".")[0] for name in renamed.values()), *renamed.values()) \
        if config.verifier.reward == "math" else None
    requests: dict[str, dict] = {}
    for file in files:
        if file.suffix == ".jsonl":
            requests |= {row["custom_id"]: request_in(row) for _, row in table_rows(file, said)[1]
                         if isinstance(row, dict) and is_request(row)}
    for file in files:
        of_run, rows = table_rows(file, said, wanted)
        for place, row in rows:
            if isinstance(row, str):
                yield place, of_run, Unusable("unreadable", row)
            elif not is_request(row):
                row = with_names(row, renamed) if renamed else row
                yield from ((where, of_run, answer) for where, answer in answers_in(place, row, requests))


def _refuse_copies(files: Sequence, said: str) -> None:
    known: dict[tuple[int, int], Any] = {}
    for file in files if len(files) > 1 else ():
        content = file.stat().st_size, checksum(file)
        if content in known:
            raise InputError(f"{said}: {file.name} is a copy of {known[content].name}. Leave one of them out.")
        known[content] = file


def _identity(row: dict, answer: StoredAnswer, of_run: bool) -> tuple[Hashable, Hashable]:
    """The group of an answer, and what no other answer has: of a server its id, else the sample's number. None: the
    row has neither, so an equal row is another sample."""
    prompt = answer.rollout.prompt.tokens.tobytes()
    # A run asks a question again in a later epoch, and another policy answers.
    group = (str(row["prompt_index"]), prompt) if of_run else ("", prompt)
    if not of_run and row["group"] is not None:
        group = (str(row["group"]),)
    if row.get(SERVER_ID) is not None:
        return group, row[SERVER_ID]
    if row["sample"] is None:
        return group, None
    file = None if of_run else answer.place.file
    return group, (file, group, str(row["sample"]))


def _grouped(groups: dict[Hashable, list[StoredAnswer]], config: Config, report: StoredReport,
             said: str) -> list[list[StoredAnswer]]:
    """The groups, numbered; the report counts them. Raises InputError as `read_stored`."""
    found = [[replace(answer, rollout=replace(answer.rollout, sample=sample)) for sample, answer in enumerate(members)]
             for members in groups.values() if members][:config.data.limit or None]
    answers = [answer for members in found for answer in members]
    if not answers:
        first = f"The first: {report.skipped[0]['row']}, {report.skipped[0]['detail']}. " if report.skipped else ""
        raise InputError(f"{said}: none of its {report.rows} rows can be used ({report}). {first}Each row needs a "
                         "prompt, a response, and a reward or a gold.")
    most, largest = config.rollout.samples_per_prompt, max(found, key=len)
    if len(largest) > most:
        raise InputError(f"rollout.samples_per_prompt is {most}, and the group of {largest[0].place} has "
                         f"{len(largest)} answers: use {len(largest)}, the largest group's.")
    report.used, report.groups = len(answers), len(found)
    report.tokens = sum(len(answer.rollout.tokens) for answer in answers)
    report.unjudged = sum(answer.verdict is None for answer in answers)
    report.alike = sum(len(members) - len({answer.rollout.tokens.tobytes() for answer in members})
                       for members in found)
    report.single = sum(len(members) == 1 for members in found)
    require_unequal(([answer.verdict for answer in members] for members in found), said)
    return found


def require_unequal(groups: Iterable[Sequence[Verdict | None]], said: str) -> None:
    """Raises InputError unless some group has, or may have once it is judged, unequal rewards."""
    counts = Counter()
    for verdicts in groups:
        rewards = {verdict.reward for verdict in verdicts if verdict is not None} - {None}
        if len(rewards) > 1 or (len(verdicts) > 1 and None in verdicts):
            return
        counts[why_equal(verdicts)] += 1
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    raise InputError(f"{said}: no group of it has answers with different rewards ({told}). Such groups teach nothing: "
                     "give several answers to each prompt, right and wrong ones.")


def why_equal(verdicts: Sequence[Verdict | None]) -> str:
    """Why a group without unequal rewards teaches nothing, in words."""
    if len(verdicts) == 1:
        return "one answer"
    rewards = {verdict.reward for verdict in verdicts if verdict is not None} - {None}
    return {0.0: "all wrong", 1.0: "all right"}.get(rewards.pop(), "equal rewards") if rewards else "no verdict"


def _digest(groups: Iterable[Sequence[StoredAnswer]]) -> str:
    """Hash of everything in the answers that training reads."""
    def parts() -> Iterator[bytes]:
        for members in groups:
            yield b"group"
            for answer in members:
                rollout = answer.rollout
                arrays = (rollout.prompt.tokens, rollout.tokens, rollout.logprobs, rollout.mask, answer.old)
                yield from (b"" if array is None else array.tobytes() for array in arrays)
                reward = None if answer.verdict is None else answer.verdict.reward
                yield f"{rollout.finish_reason} {reward} {rollout.prompt.gold}".encode("utf-8", "replace")
    return hash_of(parts())
