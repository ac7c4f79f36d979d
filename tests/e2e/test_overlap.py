"""What the host and the devices do at the same time, and that it changes nothing: late rows, several row lengths
without recompilation, rollouts one step ahead, the timeline."""
import gzip
import json
from concurrent.futures import Future

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from nft_jax.config import BatchConfig, CheckpointConfig, DataConfig, EvaluationConfig, MeshConfig, RolloutConfig
from nft_jax.record.metrics import MetricsWriter, comparable, read_metrics
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train import loop
from nft_jax.types import Verdict

STEPS = 4


class ByLength:
    """Half of the answers are right, whatever the model says."""

    def submit(self, responses, golds, prompts=None):
        future = Future()
        future.set_result([Verdict("right", 1.0) if i % 2 else Verdict("wrong", 0.0) for i in range(len(responses))])
        return future


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """The runs of this module share one device and a compilation cache."""
    patch = pytest.MonkeyPatch()
    patch.setattr("nft_jax.train.plan.make_mesh", lambda config, devices: make_mesh(config, jax.devices()[:1]))
    patch.setattr("nft_jax.train.batch.SHORTEST_ROW", 64)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(tmp_path_factory.mktemp("compiled")), 0.0), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)
    patch.undo()


@pytest.fixture(scope="module")
def config(small_run, compiled_once):
    """Rows of 64 or 128 tokens."""
    def make(workdir, ahead=0, every=100):
        return small_run(workdir, steps=STEPS, data=DataConfig(source="arithmetic", max_prompt_tokens=24, limit=50),
                         evaluation=EvaluationConfig(questions=2, samples=2, every=0),
                         checkpoint=CheckpointConfig(every=every),
                         batch=BatchConfig(updates_per_step=2, rows_per_micro_batch=2),
                         rollout=RolloutConfig(prompts_per_step=4, samples_per_prompt=4, max_new_tokens=48, slots=16,
                                               block_size=8, rollout_ahead=ahead))
    return make


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    """The folder of a run with a timeline; the row length of every batch, and how many files of answers there were when
    each row was written."""
    folder, lengths, order = tmp_path_factory.mktemp("plain"), [], []
    choose, write = loop.choose_shape, MetricsWriter.write

    def alternate(sizes, shapes):
        """Long rows at first, short rows in the last two steps."""
        assert choose(sizes, shapes) in shapes
        shape = shapes[0 if len(lengths) >= 6 and max(sizes) <= 64 else -1]
        lengths.append(shape.row_length)
        return shape

    def note(self, step, metrics):
        order.append((step, len(list((folder / "rollouts").iterdir()))))
        write(self, step, metrics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "choose_shape", alternate)
        patch.setattr(MetricsWriter, "write", note)
        loop.train(config(folder), verifier=ByLength(), quiet=True, profile=True)
    return folder, lengths, order


def test_rows_are_late_and_nothing_is_compiled_after_the_start(plain):
    """Batches use both row lengths; a row is written when the answers of the step after it are."""
    folder, lengths, order = plain
    rows = read_metrics(folder / "metrics.jsonl")
    assert set(lengths[:6]) == {128} and set(lengths[6:]) >= {64}
    assert order == [(0, 0), (1, 2), (2, 3), (3, 4), (4, 4)]
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


def answers(folder, step):
    table = pq.read_table(folder / "rollouts" / f"step_{step:06d}.parquet").to_pylist()
    return {(row["prompt_index"], row["sample"]): row for row in table}


def test_one_step_ahead_samples_with_the_parameters_of_before_the_update(config, plain, tmp_path):
    """Steps 1 and 2 train on answers of the first parameters, and old log-probs are those of the parameters that
    sampled."""
    whole = tmp_path / "ahead"
    loop.train(config(whole, 1), verifier=ByLength(), quiet=True)
    usual, ahead = (read_metrics(folder / "metrics.jsonl") for folder in (plain[0], whole))
    first, second = answers(whole, 1), answers(whole, 2)
    assert first == answers(plain[0], 1) and second != answers(plain[0], 2)
    assert {index for index, _ in first} == set(range(4)) and {index for index, _ in second} == set(range(4, 8))
    for row in second.values():
        np.testing.assert_allclose(row["old_logprobs"], row["logprobs"], atol=1e-4)
    assert abs(ahead[2]["ratio/mean_positive"] - 1) > abs(usual[2]["ratio/mean_positive"] - 1)


class Sometimes(ByLength):
    """No right answer to two questions in three, and rewards that float32 does not hold."""

    def submit(self, responses, golds, prompts=None):
        future, learnable = Future(), int(golds[0]) % 3 == 0
        future.set_result([Verdict("right", 0.7) if i % 2 and learnable else Verdict("wrong", 0.1)
                           for i in range(len(responses))])
        return future


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_run_killed_with_groups_carried_over_ends_bit_by_bit_like_one_that_was_not(config, tmp_path, monkeypatch,
                                                                                     ahead):
    whole, killed, finish, carried = tmp_path / "whole", tmp_path / "killed", loop.finish_step, []

    def kill(run, state, progress, *arguments):
        finish(run, state, progress, *arguments)
        if progress.carried:                   # one step at least is left to train on them
            carried.append(progress.step)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "finish_step", kill)
        loop.train(config(killed, ahead, every=1), verifier=Sometimes(), quiet=True)
    assert 1 <= carried[0] < STEPS - ahead
    for folder in (killed, whole):
        loop.train(config(folder, ahead, every=1), verifier=Sometimes(), quiet=True)
    a, b = (read_metrics(folder / "metrics.jsonl") for folder in (killed, whole))
    assert [comparable(row) for row in a] == [comparable(row) for row in b]
    for step in range(1, STEPS + 1):
        assert answers(killed, step) == answers(whole, step)
    a, b = ((folder / "model/model.safetensors").read_bytes() for folder in (killed, whole))
    assert a == b


@pytest.mark.slow
def test_nothing_is_compiled_after_the_start_on_a_mesh(small_run, tmp_path, monkeypatch):
    """Parameters over fsdp and tensor: what one step hands to the next is placed as the programs expect it. (Without
    checkpoints in between: orbax compiles a few slices of sharded arrays when it first saves them.)"""
    monkeypatch.setattr("nft_jax.train.plan.make_mesh", lambda config, devices: make_mesh(config, jax.devices()[:4]))
    loop.train(small_run(
        tmp_path, mesh=MeshConfig(data=1, fsdp=2, tensor=2), checkpoint=CheckpointConfig(every=100),
        evaluation=EvaluationConfig(questions=2, samples=2, every=0),
        rollout=RolloutConfig(prompts_per_step=2, samples_per_prompt=4, max_new_tokens=32, slots=8, block_size=8)),
        verifier=ByLength(), quiet=True)
    assert [row["compiles"] for row in read_metrics(tmp_path / "metrics.jsonl")[1:]] == [0, 0]
