"""What the host and the devices do at the same time, and that it changes nothing: rows of metrics, several row lengths
without recompilation, groups carried over, the timeline."""
import gzip
import json

import pytest

from nft_jax.config import BatchConfig, CheckpointConfig, DataConfig, EvaluationConfig, MeshConfig, RolloutConfig
from nft_jax.record.metrics import MetricsWriter, read_metrics
from nft_jax.train import loop, scoring
from runs import EVERY_OTHER, Judge, assert_same_run, use_devices

STEPS = 4


@pytest.fixture(scope="module")
def config(small_run, compiled_once):
    """Rows of 64 or 128 tokens."""
    compiled_once.setattr("nft_jax.train.batch.SHORTEST_ROW", 64)

    def make(workdir, every=100):
        return small_run(workdir, steps=STEPS, data=DataConfig(source="arithmetic", max_prompt_tokens=24, limit=50),
                         evaluation=EvaluationConfig(questions=2, samples=2, every=0),
                         checkpoint=CheckpointConfig(every=every),
                         batch=BatchConfig(updates_per_step=2, rows_per_micro_batch=2),
                         rollout=RolloutConfig(prompts_per_step=4, samples_per_prompt=4, max_new_tokens=48, slots=16,
                                               block_size=8))
    return make


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    """The folder of a run with a timeline; the row length of every batch; and at every row of metrics its step, and how
    many files of answers there were."""
    folder, lengths, order = tmp_path_factory.mktemp("plain"), [], []
    choose, write = scoring.choose_shape, MetricsWriter.write

    def alternate(sizes, shapes):
        """Long rows at first, short rows in the last two steps."""
        assert choose(sizes, shapes)[0] in shapes
        shape = shapes[0 if len(lengths) >= 6 and max(sizes) <= 64 else -1]
        lengths.append(shape.row_length)
        return choose(sizes, [shape])

    def note(self, step, metrics):
        order.append((step, len(list((folder / "rollouts").iterdir()))))
        write(self, step, metrics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "choose_shape", alternate)
        patch.setattr(MetricsWriter, "write", note)
        loop.train(config(folder), verifier=EVERY_OTHER, quiet=True, profile=True)
    return folder, lengths, order


def test_a_step_writes_its_answers_then_its_row_and_compiles_nothing(plain):
    """Batches use both row lengths."""
    folder, lengths, order = plain
    rows = read_metrics(folder / "metrics.jsonl")
    assert set(lengths[:6]) == {128} and set(lengths[6:]) >= {64}
    assert order == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert [row["compiles"] for row in rows[1:]] == [0] * STEPS
    for row in rows[1:]:
        assert row["grad_norm/mean"] > 0 and row["tokens_per_second/train"] > 0
        phases = ("rollout", "verify", "score", "pack", "train", "write", "step")
        assert {f"seconds/{name}" for name in phases} <= set(row)


def test_the_timeline_holds_the_phases_and_the_programs(plain):
    trace = next((plain[0] / "profile").rglob("perfetto_trace.json.gz"))
    names = {event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert {"step", "rollout", "verify", "score", "pack", "train", "write"} <= names
    assert any("train_step" in str(name) for name in names)


# No right answer to two questions in three, and rewards that float32 does not hold.
SOMETIMES = Judge(lambda i, text, gold: 0.7 if i % 2 and int(gold) % 3 == 0 else 0.1)


def test_a_run_killed_with_groups_carried_over_ends_bit_by_bit_like_one_that_was_not(config, tmp_path, monkeypatch):
    whole, killed, record, carried = tmp_path / "whole", tmp_path / "killed", loop.record, []

    def kill(run, state, progress, metrics):
        record(run, state, progress, metrics)
        # One step at least is left to train on the carried groups.
        if progress.carried:
            carried.append(progress.step)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "record", kill)
        loop.train(config(killed, every=1), verifier=SOMETIMES, quiet=True)
    assert 1 <= carried[0] < STEPS
    for folder in (killed, whole):
        loop.train(config(folder, every=1), verifier=SOMETIMES, quiet=True)
    assert_same_run(killed, whole)


@pytest.mark.slow
def test_nothing_is_compiled_after_the_start_on_a_mesh(small_run, tmp_path, monkeypatch):
    """Parameters over fsdp and tensor: what one step hands to the next is placed as the programs expect it. (Without
    checkpoints in between: orbax compiles a few slices of sharded arrays when it first saves them.)"""
    use_devices(monkeypatch, 4)
    loop.train(small_run(
        tmp_path, mesh=MeshConfig(data=1, fsdp=2, tensor=2), checkpoint=CheckpointConfig(every=100),
        evaluation=EvaluationConfig(questions=2, samples=2, every=0),
        rollout=RolloutConfig(prompts_per_step=2, samples_per_prompt=4, max_new_tokens=32, slots=8, block_size=8)),
        verifier=EVERY_OTHER, quiet=True)
    assert [row["compiles"] for row in read_metrics(tmp_path / "metrics.jsonl")[1:]] == [0, 0]
