"""A run that is stopped wherever it is, that meets numbers which are not finite, or whose disk is full: it goes on,
or ends with a message, and nothing is lost."""
import errno
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from nft_jax.config import CheckpointConfig, DataConfig, EvaluationConfig, GuardConfig, RolloutConfig
from nft_jax.record.checkpoint import Checkpoints
from nft_jax.record.metrics import read_metrics
from nft_jax.train import loop, saving
from nft_jax.train.run import Run
from nft_jax.types import Halted
from refusal import refused
from runs import EVERY_OTHER, assert_same_run

STEPS = 4


@pytest.fixture(scope="module")
def config(small_run, compiled_once):
    """Runs on one device that share what is compiled; they evaluate after steps 2 and 4."""
    def make(workdir, every=100, best="", **guard):
        return small_run(workdir, steps=STEPS, data=DataConfig(source="arithmetic", max_prompt_tokens=24, limit=50),
                         evaluation=EvaluationConfig(questions=2, samples=2, every=2),
                         checkpoint=CheckpointConfig(every=every, best=best), guard=GuardConfig(**guard),
                         rollout=RolloutConfig(prompts_per_step=4, samples_per_prompt=4, max_new_tokens=32, slots=16,
                                               block_size=8))
    return make


def train(config):
    return loop.train(config, verifier=EVERY_OTHER, quiet=True)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    train(config(folder))
    return folder


def stop_in(monkeypatch, name, call):
    """Asks the next run to stop with the first block of tokens of the so-many-th call of loop.NAME."""
    calls, usual, alive = [], getattr(loop, name), Run.alive

    def counted(*arguments):
        calls.append(len(calls))
        return usual(*arguments)

    def asking(run, tokens=0):
        if len(calls) == call + 1:
            run.stop.ask()
        alive(run, tokens)

    monkeypatch.setattr(loop, name, counted)
    monkeypatch.setattr(Run, "alive", asking)


def test_stopped_anywhere_a_run_ends_bit_by_bit_like_one_that_was_not(config, whole, tmp_path, monkeypatch):
    """Stopped while it measures the first model, while it samples for steps 1 and 2, and twice in the evaluation of
    step 2. The checkpoint of step 2 is due, too: it is the one of the stop, and learns what was measured later."""
    stopped = config(tmp_path, every=2, best="evaluation/accuracy/all")
    for where, call, steps in (("evaluate", 0, 0), ("collect", 0, 0), ("collect", 1, 1), ("evaluate", 0, 2),
                               ("evaluate", 0, 2)):
        with monkeypatch.context() as patch:
            stop_in(patch, where, call)
            summary = train(stopped)
        assert summary["steps"] == steps and not summary["finished"], (where, call)
        assert not (tmp_path / "model").exists()
        assert (tmp_path / "checkpoints" / str(steps)).exists() == bool(steps)
    summary = train(stopped)
    assert summary["finished"]
    assert_same_run(tmp_path, whole)
    checkpoints = Checkpoints(tmp_path / "checkpoints", stopped.checkpoint, read_only=True)
    assert checkpoints.best == summary["best"]["step"] and {2, 4} <= set(checkpoints.steps)
    checkpoints.close()


def spoil(monkeypatch, chosen):
    """The updates whose number (from 0, over the run) is `chosen` get an old log-prob that is not a number."""
    packed, updates = loop.packed, []

    def spoiled(run, examples, *arguments):
        # Scoring packs examples without old log-probs.
        if examples[0].old_logprobs is not None:
            if chosen(len(updates)):
                nan = np.full_like(examples[0].old_logprobs, np.nan)
                examples = [replace(examples[0], old_logprobs=nan), *examples[1:]]
            updates.append(len(examples))
        return packed(run, examples, *arguments)

    monkeypatch.setattr(loop, "packed", spoiled)


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_skipped_counted_and_kept(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        spoil(patch, lambda update: update == 3)              # the second of step 2
        summary = train(config(tmp_path))
    assert summary["finished"] and summary["skipped_updates"] == 1
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row.get("nonfinite/skipped") for row in rows] == [None, 0, 1, 0, 0]
    assert all(np.isfinite(row["loss/total"]) and np.isfinite(row["grad_norm/max"]) for row in rows[1:])
    batch = np.load(tmp_path / "nonfinite" / "step_000002_update_02.npz")
    assert np.isnan(batch["old_logprobs"]).any() and len(batch["prompt_index"]) == 2
    seen = pq.read_table(tmp_path / "rollouts" / "step_000002.parquet").to_pydict()
    assert set(batch["prompt_index"]) <= set(seen["prompt_index"])
    assert all(np.isfinite(array).all() for array in load_file(tmp_path / "model" / "model.safetensors").values())


def test_too_many_in_a_row_end_the_run_at_the_last_good_parameters(config, tmp_path, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        spoil(patch, lambda update: update >= 3)              # from the second of step 2 on
        with refused("3 updates in a row, up to step 3", "guard.max_nonfinite is 3", "saved as of step 3", kind=Halted):
            train(config(tmp_path))
    assert json.loads((tmp_path / "summary.json").read_text())["skipped_updates"] == 3
    files = sorted(path.name for path in (tmp_path / "nonfinite").iterdir())
    assert files == ["step_000002_update_02.npz", "step_000003_update_01.npz", "step_000003_update_02.npz"]
    assert (tmp_path / "checkpoints" / "3").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of some MB, whose room `fill` takes and `free` gives back. Needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or os.system(f"mount -t tmpfs -o size=80m tmpfs {folder} 2>/dev/null"):
        pytest.skip("no right to mount a file system")
    yield folder
    os.system(f"umount -l {folder}")


def fill(folder):
    with (folder / "filler").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(65536))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return


def fill_between(monkeypatch, disk, first, last):
    """The disk is full from the end of step `first` to the end of step `last`."""
    usual = loop.finish

    def finish(run, rollouts, updates, progress):
        if progress.step == first:
            fill(disk)
        if progress.step == last:
            (disk / "filler").unlink()
        return usual(run, rollouts, updates, progress)

    monkeypatch.setattr(loop, "finish", finish)


def test_a_disk_that_is_full_for_a_while_costs_nothing(config, whole, small_disk, monkeypatch, capfd):
    fill_between(monkeypatch, small_disk, 2, 4)
    loop.train(config(small_disk / "run", every=1), verifier=EVERY_OTHER)
    assert_same_run(small_disk / "run", whole)
    out = capfd.readouterr().out
    assert "metrics.jsonl: the row of step" in out and "rollouts: step_000002.parquet cannot be written" in out
    assert "metrics.jsonl: written again" in out and "rollouts: written again" in out
    assert "a checkpoint could not be written" in out
    assert (small_disk / "run" / "checkpoints" / "4").exists()
    assert not list((small_disk / "run").rglob("*.partial")) + list((small_disk / "run").rglob("*checkpoint-tmp*"))


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_run_with_what_is_missing_and_it_goes_on_from_the_last_checkpoint(
        config, whole, small_disk, monkeypatch):
    monkeypatch.setattr(saving, "PATIENCE", 0.0)
    with monkeypatch.context() as patch:
        fill_between(patch, small_disk, 3, None)
        with refused("run", "the checkpoint of step 4", "of step 2", kind=Halted):
            train(config(small_disk / "run", every=1))
    (small_disk / "filler").unlink()
    train(config(small_disk / "run", every=1))
    assert_same_run(small_disk / "run", whole)
