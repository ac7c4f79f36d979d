"""Stored answers, made ready once: judged, scored, and kept in the run's folder.

1. Answers without a reward go to the run's verifier.
2. Groups of equal rewards are left out and counted.
3. Answers without stored log-probs are scored by the parameters that the run starts from: pi_old.
4. The groups are written to answers.parquet, and read back. A run that continues reads them there: neither a verdict
   that hung on a deadline nor the first parameters could be had again.
"""
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nft_jax.data.stream import STREAMS, PromptStream, hash_of
from nft_jax.record.claim import STORED, refusals_named
from nft_jax.record.folder import read_marker
from nft_jax.record.rollouts import MASKED, groups_to_table, table_to_groups
from nft_jax.rollout.stored import StoredQuestion, require_unequal, why_equal
from nft_jax.rollout.stored_answers import StoredAnswer
from nft_jax.runtime.distributed import gather, is_first, process_count
from nft_jax.runtime.files import replaced
from nft_jax.train.run import Run
from nft_jax.train.scoring import scored
from nft_jax.train.state import Progress
from nft_jax.types import Group, InputError, Verdict
from nft_jax.verify.maths.extract import with_open_thought

METADATA = b"nft_jax.train.stored_groups"     # the table's key for what it was made of, and what was left out
CHUNK = 8                                     # updates' worth of groups that are scored and written together


def stored_stream(run: Run, params, progress: Progress) -> PromptStream:
    """The stream of the stored groups that the run trains on, where `progress` stands. They come from
    answers.parquet, or are made ready now with `params`. Says what is left out, and what pi_old is.

    Raises InputError where no group has unequal rewards, and where a run goes on whose answers.parquet is gone. Raises
    StopRun where the run is to stop."""
    path, made_of = run.folder / STORED, _made_of(run)
    notes, began = gather((_notes(path), _began(run.folder)) if is_first() else None)[0]
    if notes.get("made of") != made_of:
        if progress.step > began:
            raise InputError(f"workdir is {str(run.folder)!r}, whose {STORED} is "
                             f"{'of other answers' if notes else 'missing'}: it has pi_old, which only the parameters "
                             "that the run started from could give again. Put it back, or start over with --fresh.")
        _make(run, params, path, made_of)
        notes = gather(_notes(path) if is_first() else None)[0]
    groups = [group for part in _read(path) for group in part]
    run.console.say(_told(run, groups, notes))
    # Every answer is in memory twice until here.
    run.stored.groups.clear()
    data = run.config.data
    stream = STREAMS[data.order]([StoredQuestion.of(group) for group in groups], data.seed)
    stream.restore(progress.stream)
    return stream


def _made_of(run: Run) -> str:
    """What the verdicts and the old log-probs depend on, beside the first parameters: as 16 digits."""
    config = run.config
    verifier = {name: value for name, value in asdict(config.verifier).items() if name != "workers"}
    return hash_of(str(part).encode() for part in (
        run.stored.digest, sorted(verifier.items()), config.rollout.temperature, config.rollout.old_logprobs))


def _notes(path: Path) -> dict[str, Any]:
    """What a table of ready groups says of itself; {} without one."""
    try:
        return json.loads(pq.read_schema(path).metadata[METADATA])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return {}


def _began(folder: Path) -> int:
    """The step that the run in the folder started at: above 0 where it is forked."""
    return (read_marker(folder) or {}).get("fork", {}).get("step", 0)


def _read(path: Path) -> Iterator[list[Group]]:
    # Part by part: as Python's lists, numbers take many times their memory.
    file = pq.ParquetFile(path)
    return (table_to_groups(file.read_row_group(part)) for part in range(file.num_row_groups))


def _make(run: Run, params, path: Path, made_of: str) -> None:
    """Judges and scores the groups, and writes those that have something to teach. Every process scores; the first
    one writes."""
    stored, verdicts, said = run.stored.groups, _judged(run), f"rollout.answers is {run.config.rollout.answers!r}"
    require_unequal(verdicts, said)
    whole = [(Group(members[0].rollout.prompt, tuple(each.rollout for each in members), tuple(judged)), members)
             for members, judged in zip(stored, verdicts, strict=True)]
    used = [(StoredQuestion.of(group).prompt(index).group, members)
            for index, (group, members) in enumerate((g, m) for g, m in whole if _teaches(g))]
    left = Counter("no trained token" if group.has_signal else why_equal(group.verdicts)
                   for group, _ in whole if not _teaches(group))
    if not used:
        raise InputError(f"{said}: its groups with different rewards have no trained token ({left.total():,} groups "
                         "left out). Give masks with a 1, or raise rollout.max_new_tokens.")
    notes = {"made of": made_of, "left out": left,
             "stored log-probs": sum(each.old is not None for _, members in used for each in members)}
    schema = MASKED.with_metadata({METADATA: json.dumps(notes).encode()})
    size = CHUNK * run.config.groups_per_update
    with ExitStack() as writing:
        if is_first():
            writing.enter_context(refusals_named(run.folder))
            writer = writing.enter_context(
                pq.ParquetWriter(writing.enter_context(replaced(path)), schema, compression="zstd"))
        for start in range(0, len(used), size):
            run.stop.check()
            run.watchdog.feed("score")
            part = _with_old(run, used[start:start + size], params)
            if is_first():
                writer.write_table(groups_to_table(part, masks=True).replace_schema_metadata(schema.metadata))
    # Nobody reads what is not there yet.
    gather(None)


def _teaches(group: Group) -> bool:
    return group.has_signal and any(group.rollouts[i].trained for i in group.judged)


def _judged(run: Run) -> list[list[Verdict]]:
    """The verdicts of every group: stored ones, and for answers without a reward the verifier's. Each process judges
    its share of the groups."""
    count, stored = process_count(), run.stored.groups
    waiting = []
    for members in stored[jax.process_index() % count::count]:
        open_ones = [each.rollout for each in members if each.verdict is None]
        waiting.append((members, run.verifier.submit(
            [with_open_thought(r.prompt.text, r.text) for r in open_ones], [r.prompt.gold for r in open_ones],
            [r.prompt.problem for r in open_ones]) if open_ones else None))
    here = []
    for members, future in waiting:
        run.phase("verify")
        found = iter(future.result() if future else ())
        here.append([next(found) if each.verdict is None else each.verdict for each in members])
    parts = gather(here)
    return [parts[place % count][place // count] for place in range(len(stored))]


def _with_old(run: Run, part: Sequence[tuple[Group, Sequence[StoredAnswer]]], params) -> list[Group]:
    """The groups with their old log-probs: stored ones, and for answers without any those of `params`."""
    def lacks(members: Sequence[StoredAnswer]) -> bool:
        return any(each.old is None and each.rollout.trained for each in members)

    found = iter(scored(run, [group for group, members in part if lacks(members)],
                        {"old_logprobs": (run.score, params)}))
    groups = []
    for group, members in part:
        made = next(found).old_logprobs if lacks(members) else [np.zeros(len(r.tokens)) for r in group.rollouts]
        old = tuple(np.asarray(own if each.old is None else each.old, np.float32)
                    for own, each in zip(made, members, strict=True))
        groups.append(replace(group, old_logprobs=old))
    return groups


def _told(run: Run, groups: Sequence[Group], notes: dict[str, Any]) -> str:
    answers, config = sum(len(group.rollouts) for group in groups), run.config
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in notes["left out"].items()) or "none"
    stored = notes["stored log-probs"]
    first = "the model that the run starts from"
    policy = first if not stored else "the stored log-probs" if stored == answers else \
        f"the stored log-probs of {stored:,} answers, and {first} for {answers - stored:,} without any"
    epoch = len(groups) / config.rollout.prompts_per_step
    return (f"stored answers: {len(groups):,} groups with {answers:,} answers are trained on; left out: {kinds}. "
            f"pi_old: {policy}. An epoch is {epoch:.2f} steps, the run's {config.steps} steps are "
            f"{config.steps / epoch:.1f} epochs")
