"""Whole runs in tests: judges that stand in for a verifier, one device, and whether two runs are the same run."""
import shutil
from concurrent.futures import Future

import jax
import pyarrow.parquet as pq

from nft_jax.record.metrics import read_metrics
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import Verdict


class Judge:
    """Gives the i-th answer of a group the reward `reward(i, text, gold)`, whatever the model says. None: the
    verifier failed."""

    reward = None      # as a `Verifier` of maths has it: it tells no solutions apart

    def __init__(self, reward):
        self.judged = reward

    def submit(self, responses, golds, prompts=None):
        future, rewards = Future(), map(self.judged, range(len(responses)), responses, golds)
        future.set_result([Verdict("error" if reward is None else "right" if reward > 0.5 else "wrong", reward)
                           for reward in rewards])
        return future


EVERY_OTHER = Judge(lambda i, text, gold: float(i % 2))


def use_devices(patch, count=1):
    """Runs take only the first of the eight virtual devices: compiling for all takes longer."""
    patch.setattr("nft_jax.train.plan.make_mesh", lambda config, devices: make_mesh(config, jax.devices()[:count]))


def steps_done(folder):
    """The last step in metrics.jsonl, -1 before the first row."""
    path = folder / "metrics.jsonl"
    return max((row["step"] for row in read_metrics(path)), default=-1) if path.exists() else -1


def comparable(row: dict) -> dict:
    """A row without times, speeds, memory and compilations. An exact resume reproduces the rest bit for bit."""
    return {key: value for key, value in row.items()
            if not key.startswith(("seconds/", "tokens_per_second/", "memory/", "compiles"))}


def straight_and_resumed(run, parent):
    """The folders of two steps that `run(folder)` makes, and of the second again from the checkpoint of the first."""
    straight, resumed = parent / "straight", parent / "resumed"
    run(straight)
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "checkpoints" / "2")
    run(resumed)
    return straight, resumed


def assert_same_run(folder, expected):
    """Rows (times aside), answers and trained model are equal, bit by bit; no table is missing or left over."""
    rows, wanted = (read_metrics(each / "metrics.jsonl") for each in (folder, expected))
    assert [comparable(row) for row in rows] == [comparable(row) for row in wanted]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    names = [sorted(path.name for path in (each / "rollouts").iterdir()) for each in (folder, expected)]
    assert names[0] == names[1]
    for name in names[0]:
        assert pq.read_table(folder / "rollouts" / name).equals(pq.read_table(expected / "rollouts" / name)), name
    for path in (expected / "model").iterdir():
        assert (folder / "model" / path.name).read_bytes() == path.read_bytes(), path.name
