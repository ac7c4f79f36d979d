"""Exact resume (contract 3): killed with SIGKILL at any file event, a run ends bit by bit like one that was never
killed, and within 1e-5 if it continues on another mesh."""
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from nft_jax import policy
from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.record.checkpoint import Checkpoints
from nft_jax.record.metrics import read_metrics
from nft_jax.record.rollouts import groups_to_table
from nft_jax.train.plan import make_plan
from runs import assert_same_run, steps_done

sys.path.insert(0, str(Path(__file__).parent))
import killed

ROOT = Path(__file__).parents[2]
SINGLE = [1, 1, 1, 1]
CHAINS = 4
START = ("lock", "run.json", "config.json", "skipped.json", "metrics.jsonl.partial")


def phases(events: list[str]) -> dict[str, list[str]]:
    """The names of a whole run's file events, once each, in their order, by the part of the run that they belong to.
    Removals count only among old checkpoints: elsewhere they tidy up what no kill has left."""
    found = {"start": [], "checkpoint": [], "deletion": [], "end": []}
    for name in dict.fromkeys(events):
        kind, path = name.split(" ", 1)
        removal = kind in ("os.remove", "os.rmdir")
        if path.startswith("checkpoints/N/") and removal:
            found["deletion"].append(name)
        elif path.startswith("checkpoints/N") and not removal:
            found["checkpoint"].append(name)
        elif path.startswith(("curves", "model", "summary")) and not removal:
            found["end"].append(name)
        elif path.startswith(START) and not removal:
            found["start"].append(name)
    return found


def chain(events: list[str], number: int) -> list[tuple[str, int, bool]]:
    """The kills (event, n, torn) of one chain; no two chains share an event of their own. The order is one that every
    chain can reach in its six steps: at most two kills come a step later than they could."""
    rng = random.Random(0)
    own = {phase: rng.sample(names, len(names))[number::CHAINS] for phase, names in phases(events).items()}
    rng.seed(number)
    early = [(name, 1) for name in own["start"][:2] + own["checkpoint"][:3]]
    early += [("open metrics.jsonl", 2), ("os.rename rollouts/step_N.parquet", 2), (own["deletion"][0], 1)]
    late = [(name, 1) for name in own["end"][:3]]
    return [(name, n, rng.random() < 0.5) for name, n in rng.sample(early, len(early)) + late]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """One layer of 16 features, with the tokenizer of the embedded model."""
    folder = tmp_path_factory.mktemp("model")
    nano = policy.load(ROOT / "nft_jax" / "assets" / "nano")
    config = ModelConfig("qwen3", vocab_size=nano.config.vocab_size, hidden_size=16, intermediate_size=32, num_layers=1,
                         num_heads=4, num_kv_heads=2, head_dim=8, max_positions=64, tie_embeddings=True, qk_norm=True,
                         initializer_range=0.3)
    policy.save(replace(nano, config=config, params=decoder.init(config, jax.random.key(0))), folder)
    return config, folder


@pytest.fixture(scope="module")
def execute(model):
    """`execute(folder, kills, ...)`: trains in `folder` with these kills; the file events of the last start."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(folder, kills, *, ends=True, mesh=SINGLE, devices=1, rank=0):
        specification = folder.with_suffix(".json")
        specification.write_text(json.dumps({"folder": str(folder), "model": str(model[1]), "mesh": mesh,
                                             "devices": devices, "rank": rank, "kills": kills, "ends": ends}))
        done = subprocess.run([sys.executable, killed.__file__, str(specification)], env=environment, cwd=ROOT,
                              capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        starts = json.loads(done.stdout.splitlines()[-1])
        statuses = [status for status, _ in starts]
        assert statuses == [-9] * len(kills) + [0] * ends, (list(zip(kills, statuses, strict=False)), done.stderr)
        return starts[-1][1]
    return run


@pytest.fixture(scope="module")
def whole(execute, tmp_path_factory):
    """The folder of a run that nobody killed, and its file events."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, execute(folder, [])


def last_checkpoint(folder, model, rank):
    """What it holds (but for seconds), and the steps of the checkpoints that there are."""
    config = killed.config_of({"folder": str(folder), "model": str(model[1]), "mesh": SINGLE, "rank": rank})
    shapes = make_plan(config, model[0], jax.devices()[:1]).state
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint, read_only=True)
    state, host, groups = checkpoints.restore(killed.STEPS, shapes)
    steps = checkpoints.steps, checkpoints.best
    checkpoints.close()
    return jax.device_get(state), {k: v for k, v in host.items() if k != "seconds"}, groups, steps


def assert_same_end(folder, expected, model, rank=0):
    """Parameters, optimizer, counters, groups, answers, metrics and the model, bit by bit; and no leftovers."""
    (state, host, groups, (steps, best)), (wanted, wanted_host, wanted_groups, (wanted_steps, wanted_best)) = (
        last_checkpoint(one, model, rank) for one in (folder, expected))
    assert jax.tree.structure(state) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)
    assert host == wanted_host and host["step"] == killed.STEPS and best == wanted_best == host["best_step"]
    assert set(steps) >= set(wanted_steps)       # killed between the last checkpoint and the deletion of an old one
    for name in wanted_groups:
        assert groups_to_table(groups[name]).equals(groups_to_table(wanted_groups[name]))
    assert_same_run(folder, expected)
    assert steps_done(folder) == killed.STEPS
    for place in ("", "model"):
        names, wanted_names = ({path.name for path in (one / place).iterdir()} for one in (folder, expected))
        assert names == wanted_names
    summary, wanted_summary = (json.loads((one / "summary.json").read_text()) for one in (folder, expected))
    assert {k: v for k, v in summary.items() if k not in ("seconds", "command")} == {
        k: v for k, v in wanted_summary.items() if k not in ("seconds", "command")}


@pytest.mark.slow
def test_the_chains_reach_every_part_of_a_run(whole):
    """Each part has file events, and the kills of all chains are many and of different events."""
    _, events = whole
    assert all(len(names) >= 3 * CHAINS for part, names in phases(events).items() if part != "start")
    kills = [kill for number in range(CHAINS) for kill in chain(events, number)]
    assert len(kills) >= 40 and len({name for name, *_ in kills}) >= 34
    assert {torn for *_, torn in kills} == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(CHAINS))
def test_a_run_that_is_killed_again_and_again_is_the_same_run(tmp_path, execute, whole, model, number):
    folder, events = whole
    execute(tmp_path / "run", chain(events, number))
    assert_same_end(tmp_path / "run", folder, model)


@pytest.mark.slow
def test_a_run_of_adapters_that_is_killed_is_the_same_run(tmp_path, execute, model):
    """Its checkpoints hold the adapters alone, and its model/ is an adapter's folder."""
    events = execute(tmp_path / "whole", [], rank=2)
    kills = [("open metrics.jsonl", 2, True), *((phases(events)[part][-1], 1, True) for part in ("checkpoint", "end"))]
    execute(tmp_path / "run", kills, rank=2)
    assert_same_end(tmp_path / "run", tmp_path / "whole", model, rank=2)


@pytest.mark.slow
def test_the_run_that_is_compared_with_has_what_a_resume_could_lose(whole, model):
    """Groups carried over, accuracies that differ, a best step that is not the last, steps kept."""
    rows = read_metrics(whole[0] / "metrics.jsonl")
    assert any(row["groups/carried"] for row in rows[1:]) and any(row["groups/generated"] > 3 for row in rows[1:])
    assert len({row["evaluation/accuracy/all"] for row in rows if "evaluation/accuracy/all" in row}) > 1
    _, host, _, (steps, best) = last_checkpoint(whole[0], model, 0)
    assert best == host["best_step"] < killed.STEPS and steps == sorted({best, 3, killed.STEPS})


@pytest.mark.slow
def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(tmp_path, execute, whole, model):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    newest = folder / "checkpoints" / str(killed.STEPS)
    path = max((path for path in (newest / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    # Killed before it wrote its end: a finished run is left as it is.
    (folder / "summary.json").unlink()
    execute(folder, [])
    assert (folder / "checkpoints" / f"{killed.STEPS}.damaged").is_dir()
    assert_same_end(folder, whole[0], model)


@pytest.mark.slow
def test_a_run_goes_on_with_another_mesh(tmp_path, execute, whole, model):
    folder = tmp_path / "run"
    execute(folder, [("os.rename rollouts/step_N.parquet", 4, False)], ends=False)
    execute(folder, [], mesh=[2, 2, 2, 1], devices=8)
    (state, host, *_), (wanted, wanted_host, *_) = (last_checkpoint(one, model, 0) for one in (folder, whole[0]))
    assert host == wanted_host
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    for path in (whole[0] / "rollouts").iterdir():
        a, b = pq.read_table(folder / "rollouts" / path.name), pq.read_table(path)
        assert a["tokens"].equals(b["tokens"]) and a["kept"].equals(b["kept"])
        for name in ("logprobs", "old_logprobs"):
            for x, y in zip(a[name].to_pylist(), b[name].to_pylist(), strict=True):
                np.testing.assert_allclose(x or [], y or [], rtol=0, atol=1e-5)
