"""Checkpoints: everything comes back bit by bit, on another mesh too; what stays; the damaged are found and skipped."""
import shutil
from collections import namedtuple
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from made import make_group
from nft_jax.config import CheckpointConfig, MeshConfig, OptimizerConfig
from nft_jax.model import decoder
from nft_jax.record.checkpoint import Checkpoints, check_room, checkpoint_step, most_kept
from nft_jax.runtime.files import damage
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train.state import TrainState, init_state, make_optimizer, state_shardings
from refusal import refused

OPTIMIZER = make_optimizer(OptimizerConfig())
SMALL = TrainState({"w": np.arange(4.0)}, (), np.zeros((), np.int32))


def placed(params, mesh):
    placements = state_shardings(params, OPTIMIZER, mesh)
    state = jax.jit(partial(init_state, optimizer=OPTIMIZER), out_shardings=placements)(params)
    shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, placements)
    return state, shapes


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_round_trip_keep_and_another_mesh(tmp_path, tiny_params):
    state, shapes = placed(tiny_params, make_mesh(MeshConfig(2, 2, 2)))
    carried = [make_group(5, [1, 0], rng=np.random.default_rng(0))]
    checkpoints = Checkpoints(tmp_path / "c", CheckpointConfig(keep=2))
    assert checkpoints.latest is None
    for step in (1, 2, 3):
        checkpoints.save(step, state, {"step": step, "accuracy": None, "seconds": 1.5},
                         {"carried": carried[:step - 1], "seen": []})
    checkpoints.close()
    again = Checkpoints(tmp_path / "c", CheckpointConfig(keep=2))
    assert again.latest == 3 and sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "3"]
    _, other = placed(tiny_params, make_mesh(MeshConfig(8)))
    for layout in (shapes, other):
        restored, host, groups = again.restore(3, layout)
        assert_equal(restored, state)
        assert jax.tree.leaves(restored)[0].sharding == jax.tree.leaves(layout)[0].sharding
        assert host == {"step": 3, "accuracy": None, "seconds": 1.5}
        assert groups["seen"] == []
        np.testing.assert_array_equal(groups["carried"][0].old_logprobs[1], carried[0].old_logprobs[1])
    assert again.restore(2, shapes)[2]["carried"][0].prompt.index == 5
    alone = again.restore_params(3, other.params)
    assert_equal(alone, state.params)
    assert jax.tree.leaves(alone)[0].sharding == jax.tree.leaves(other.params)[0].sharding
    again.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory, tiny_params):
    """A folder with the checkpoints of steps 1, 2 and 3, their counters, and the shapes."""
    state, shapes = placed(tiny_params, make_mesh(MeshConfig(), jax.devices()[:1]))
    folder = tmp_path_factory.mktemp("written") / "c"
    checkpoints = Checkpoints(folder, CheckpointConfig(keep=3))
    for step in (1, 2, 3):
        checkpoints.save(step, state, {"step": step}, {"carried": [make_group(5, [1, 0], rng=np.random.default_rng(0))],
                                                       "seen": []})
    checkpoints.close()
    return folder, shapes


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def cut(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder, path=None):
    path = path or largest(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


# How it is damaged, and what of it is named.
DAMAGE = {
    "cut": (cut, "state/"),
    "flipped": (flip, "state/"),
    "flipped groups": (lambda folder: flip(folder, largest(folder / "groups")), "groups/"),
    "missing": (lambda folder: largest(folder).unlink(), "state/"),
    "missing counters": (lambda folder: shutil.rmtree(folder / "host"), "host/"),
    "missing manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
    "flipped manifest": (lambda folder: flip(folder, folder / "manifest.json"), "manifest.json"),
    "empty": (empty, "empty"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_set_aside_and_skipped(tmp_path, written, kind):
    break_it, named = DAMAGE[kind]
    folder, shapes = shutil.copytree(written[0], tmp_path / "c"), written[1]
    break_it(folder / "3")
    content = {path: path.read_bytes() for path in (folder / "3").rglob("*") if path.is_file()}
    reader = Checkpoints(folder, CheckpointConfig(keep=3), read_only=True)
    with refused("step 3", folder, named):
        reader.restore(3, shapes)
    with refused("step 3", folder, named):
        reader.restore_params(3, shapes.params)
    reader.close()
    checkpoints = Checkpoints(folder, CheckpointConfig(keep=3))
    _, host, groups = checkpoints.resume(shapes)
    assert host == {"step": 2} and groups["carried"][0].prompt.index == 5
    assert len(checkpoints.set_aside) == 1 and "renamed 3.damaged" in checkpoints.set_aside[0]
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3.damaged"] and checkpoints.latest == 2
    assert all((folder / "3.damaged" / path.relative_to(folder / "3")).read_bytes() == data
               for path, data in content.items())
    checkpoints.close()


def test_when_all_are_damaged_nothing_starts_over(tmp_path, written):
    folder, shapes = shutil.copytree(written[0], tmp_path / "c"), written[1]
    for step, break_it in (("1", cut), ("2", empty), ("3", flip)):
        break_it(folder / step)
    for _ in range(2):                        # the second start finds the same
        checkpoints = Checkpoints(folder, CheckpointConfig(keep=3))
        with refused(folder, "step 3", "step 2", "step 1", "--fresh"):
            checkpoints.resume(shapes)
        checkpoints.close()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]


def test_metadata_of_orbax_that_cannot_be_read_ends_no_run(tmp_path, written):
    """It is written after the manifest, and nothing in it is needed."""
    folder, shapes = shutil.copytree(written[0], tmp_path / "c"), written[1]
    (folder / "1" / "_CHECKPOINT_METADATA").unlink()
    (folder / "2" / "_CHECKPOINT_METADATA").write_text("not JSON")
    (folder / "3" / "_CHECKPOINT_METADATA").write_text("{}")
    checkpoints = Checkpoints(folder, CheckpointConfig(keep=3))
    assert checkpoints.resume(shapes)[1] == {"step": 3} and not checkpoints.set_aside
    assert checkpoints.restore(2, shapes)[1] == {"step": 2} and checkpoints.restore(1, shapes)[1] == {"step": 1}
    checkpoints.close()


def test_the_best_the_newest_and_every_so_many_steps_stay(tmp_path):
    config = CheckpointConfig(every=1, keep=1, keep_every=4, best="evaluation/accuracy/all")
    checkpoints = Checkpoints(tmp_path / "c", config)
    there = []
    for step, score in enumerate([0.5, 0.25, 0.75, None, 0.75, 0.25, 1.0, 0.5], start=1):
        checkpoints.save(step, SMALL, {"step": step}, {"carried": []}, score)
        if step == 6:                         # what is known of the scores comes from the disk
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path / "c", config)
        checkpoints._checkpointer.wait()
        there.append((checkpoints.best, sorted(int(path.name) for path in (tmp_path / "c").iterdir())))
    assert there == [(1, [1]), (1, [1, 2]), (3, [3]), (3, [3, 4]), (3, [3, 4, 5]), (3, [3, 4, 6]), (7, [4, 7]),
                     (7, [4, 7, 8])]
    checkpoints.close()
    reader = Checkpoints(tmp_path / "c", CheckpointConfig(), read_only=True)
    assert (reader.latest, reader.best) == (8, 7)
    assert Checkpoints(tmp_path / "c", replace(config, best="evaluation/other"), read_only=True).best is None
    reader.close()
    (tmp_path / "c").rename(tmp_path / "checkpoints")
    assert checkpoint_step(tmp_path, config, "best") == 7
    with refused("step", "best", tmp_path, "4, 7, 8", "checkpoint.best"):
        checkpoint_step(tmp_path, replace(config, best="evaluation/other"), "best")


def test_a_save_that_fails_deletes_nothing_and_the_next_one_works(tmp_path, monkeypatch):
    config = CheckpointConfig(every=1, keep=1)
    checkpoints = Checkpoints(tmp_path / "c", config)
    checkpoints.save(1, SMALL, {"step": 1}, {"carried": []})
    checkpoints._checkpointer.wait()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("nft_jax.record.checkpoint.write_manifest", full)
        checkpoints.save(2, SMALL, {"step": 2}, {"carried": []})
        with refused("No space left", kind=OSError):
            checkpoints.save(3, SMALL, {"step": 3}, {"carried": []})
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["1"] and checkpoints.latest == 1
    checkpoints.save(3, SMALL, {"step": 3}, {"carried": []})
    checkpoints.close()
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["3"]


def test_a_step_that_is_there_stays_and_learns_its_score(tmp_path):
    """Saved as its evaluation was given up, and measured by who goes on: overwritten it would be gone for a while."""
    config = CheckpointConfig(every=1, keep=1, best="evaluation/accuracy/all")
    checkpoints = Checkpoints(tmp_path / "c", config)
    checkpoints.save(1, SMALL, {"step": 1}, {"carried": []})
    checkpoints.close()
    files = {path: path.stat().st_ino for path in (tmp_path / "c" / "1").rglob("*")}
    checkpoints = Checkpoints(tmp_path / "c", config)
    checkpoints.save(1, SMALL, {"step": 1}, {"carried": []}, 0.5)
    assert {path.name for path, inode in files.items() if path.stat().st_ino != inode} == {"manifest.json"}
    checkpoints.save(2, SMALL, {"step": 2}, {"carried": []}, 0.25)
    checkpoints.close()
    again = Checkpoints(tmp_path / "c", config)
    assert again.best == 1 and again.steps == [1, 2] and damage(tmp_path / "c" / "1") == ""
    again.close()


def test_what_fails_in_another_process_has_failed_here(tmp_path, monkeypatch):
    """Or this one would go on to save what the other does not."""
    config = CheckpointConfig(every=1, keep=1)
    checkpoints = Checkpoints(tmp_path / "c", config)
    checkpoints.save(1, SMALL, {"step": 1}, {"carried": []}, 0.5)
    with monkeypatch.context() as patched:
        patched.setattr("nft_jax.record.checkpoint.gather", lambda value: [value, "OSError: no room"])
        with refused("process 1", "no room", kind=OSError):
            checkpoints.wait()
    assert checkpoints.asked is None and checkpoints.best is None
    checkpoints.save(2, SMALL, {"step": 2}, {"carried": []})
    checkpoints.close()
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["2"]


def test_a_reader_leaves_what_is_being_written(tmp_path, written):
    folder, shapes = shutil.copytree(written[0], tmp_path / "c"), written[1]
    (folder / "4.orbax-checkpoint-tmp").mkdir()
    reader = Checkpoints(folder, CheckpointConfig(), read_only=True)
    assert reader.latest == 3 and reader.restore(3, shapes)[1] == {"step": 3}
    reader.close()
    assert (folder / "4.orbax-checkpoint-tmp").exists()
    writer = Checkpoints(folder, CheckpointConfig())      # orbax cleans up beside it, and is waited for by a save
    writer.save(5, SMALL, {"step": 5}, {"carried": []})
    writer.close()
    assert not (folder / "4.orbax-checkpoint-tmp").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path, tiny_model, tiny_params):
    import dataclasses
    mesh = make_mesh(MeshConfig())
    state, _ = placed(tiny_params, mesh)
    checkpoints = Checkpoints(tmp_path / "c", CheckpointConfig())
    checkpoints.save(1, state, {"step": 1}, {"carried": []})
    checkpoints.close()
    for change in ({"hidden_size": 32}, {"num_layers": 3}, {"qkv_bias": True}):
        other = decoder.init(dataclasses.replace(tiny_model, **change), jax.random.key(0))
        again = Checkpoints(tmp_path / "c", CheckpointConfig())
        shapes = placed(other, mesh)[1]
        with refused("step 1", "policy.path", "--fresh"):
            again.restore(1, shapes)
        with refused("step 1", "policy.path", "--fresh"):
            again.restore_params(1, shapes.params)
        again.close()


def test_no_room_is_said_at_the_start(tmp_path, tiny_params, monkeypatch):
    _, shapes = placed(tiny_params, make_mesh(MeshConfig()))
    config = CheckpointConfig(every=10, keep=2)
    (tmp_path / "checkpoints").mkdir()
    check_room(tmp_path, shapes, config, 100)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(free=3 * size - 1))
    with refused("workdir", tmp_path, "3 checkpoints", "keep = 2"):
        check_room(tmp_path, shapes, config, 100)
    check_room(tmp_path, shapes, config, 20)                   # there will only be two
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    check_room(tmp_path, shapes, config, 100)                  # one of the three is there
    with refused("workdir", "keep_every = 50", "best = 'evaluation/accuracy/all'"):
        check_room(tmp_path, shapes, CheckpointConfig(10, 2, 50, "evaluation/accuracy/all"), 100)


def test_how_many_are_kept_at_most():
    assert [most_kept(CheckpointConfig(10, 2), steps) for steps in (5, 10, 15, 100)] == [1, 1, 2, 3]
    assert most_kept(CheckpointConfig(10, 2, 20), 100) == 5 + 1              # 20 ... 100, and 90 beside 80 and 100
    assert most_kept(CheckpointConfig(10, 2, 20, "evaluation/accuracy/all"), 100) == 7
