"""Who may write a run folder, what it is bound to, and what is never touched."""
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from nft_jax.config import CheckpointConfig, MeshConfig, ObjectiveConfig
from nft_jax.config.differences import MAY_CHANGE, REMOVED
from nft_jax.record.claim import NAMES, claimed, look
from nft_jax.record.folder import MARKER, read_marker, read_run
from nft_jax.types import InputError
from refusal import refused

INPUTS = {"questions": "60, 1f", "held-out questions": "8, 2e", "tokenizer": "3d", "chat template": "4c",
          "ids that end an answer": "[1]", "weights of policy.path": "5b", "source of verifier.reward": "6a",
          "source of the objective": "79"}


def claim(config, inputs=INPUTS, **options):
    with claimed(config, inputs, **options) as standing:
        return standing


def finish_step(folder, step=1):
    """What a run that has finished a step has at least."""
    with (folder / "metrics.jsonl").open("a") as rows:
        rows.write(json.dumps({"step": step}) + "\n")


def content(folder):
    """Every file below the folder with its bytes, and every link with its target."""
    return {str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else
            path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


# ---- what a run is bound to


def test_a_changed_configuration_is_refused_with_a_table(small_run, tmp_path):
    config = small_run(tmp_path)
    claim(config)
    finish_step(tmp_path)
    other = replace(config, seed=1, loss=ObjectiveConfig(epsilon=0.5), steps=7, mesh=MeshConfig(1),
                    checkpoint=CheckpointConfig(3))
    with pytest.raises(InputError) as error:
        claim(other)
    lines = str(error.value).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["what", "in", "the", "folder", "now"], ["loss.epsilon", "1.0", "0.5"], ["seed", "0", "1"]]
    assert len(lines) == 5 and "--fresh" in lines[4] and "choose another workdir" in lines[4]
    assert all(name in lines[4] for name in MAY_CHANGE)
    assert read_run(tmp_path).fields["seed"] == 0
    claim(replace(other, seed=0, loss=config.loss))                # what is left may change
    assert read_run(tmp_path).fields["steps"] == 7
    for name in ("rollouts/step_000001.parquet", "metrics.jsonl", "curves.png.partial", "notes.txt"):
        (tmp_path / name).write_text("x")
    standing = claim(other, fresh=True)
    assert "checkpoints, rollouts, metrics.jsonl, config.json" in standing.lines[0]
    assert read_run(tmp_path).fields["seed"] == 1
    assert sorted(content(tmp_path)) == ["checkpoints", "config.json", "lock", "notes.txt", "rollouts", MARKER]


@pytest.mark.parametrize("name", INPUTS)
def test_a_changed_input_is_refused_with_a_table(small_run, tmp_path, name):
    config = small_run(tmp_path)
    claim(config)
    finish_step(tmp_path)
    before = content(tmp_path)
    with refused("what", "in the folder", "now", name, INPUTS[name], "other", "--fresh", "another workdir"):
        claim(config, INPUTS | {name: "other"})
    assert content(tmp_path) == before
    assert claim(config).run is not None                           # put back
    claim(config, INPUTS | {name: "other"}, fresh=True)
    assert read_marker(tmp_path)["inputs"][name] == "other"


def test_what_only_one_of_two_versions_compares_is_kept_and_refuses_nothing(small_run, tmp_path):
    """A dry run knows less too: it reads no weights."""
    config = small_run(tmp_path)
    claim(config, {"tokenizer": "3d"})
    finish_step(tmp_path)
    claim(config, {"questions": "60, 1f"})
    assert read_marker(tmp_path)["inputs"] == {"tokenizer": "3d", "questions": "60, 1f"}
    with refused("questions", "60, 1f"):
        claim(config, INPUTS | {"questions": "30, 99"})


@pytest.mark.parametrize("change", ["fields", "inputs"])
@pytest.mark.parametrize("reached", ["the lock", "the marker", "the configuration", "an evaluation of the start"])
def test_a_start_that_finished_no_step_binds_nothing(small_run, tmp_path, change, reached):
    config = small_run(tmp_path / "run")
    folder = Path(config.folder)
    claim(config)
    (folder / "metrics.jsonl").write_text('{"step": 0, "evaluation/accuracy/all": 0.5}\n')
    (folder / "notes.txt").write_text("mine")
    if reached == "the lock":
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "lock").write_text("process 1 on somewhere, since 2026-01-01")
    elif reached == "the marker":
        for name in ("config.json", "metrics.jsonl"):
            (folder / name).unlink()
    elif reached == "the configuration":
        (folder / "metrics.jsonl").unlink()
    assert claim(config).run is None and (folder / "metrics.jsonl").exists() == (reached[:2] == "an")
    other = replace(config, seed=1) if change == "fields" else config
    claim(other, INPUTS if change == "fields" else INPUTS | {"questions": "30, 99"})
    assert read_run(folder).fields["seed"] == other.seed and not (folder / "metrics.jsonl").exists()
    assert read_marker(folder)["inputs"]["questions"] == ("60, 1f" if change == "fields" else "30, 99")
    assert (folder / "notes.txt").exists() == (reached != "the lock")


@pytest.mark.parametrize("sign", ["a row", "a checkpoint"])
@pytest.mark.parametrize("lost", ["missing", "damaged"])
def test_a_run_without_its_configuration_is_not_taken_for_nothing(small_run, tmp_path, sign, lost):
    config = small_run(tmp_path)
    claim(config)
    finish_step(tmp_path) if sign == "a row" else (tmp_path / "checkpoints" / "4").mkdir()
    (tmp_path / "config.json").unlink() if lost == "missing" else (tmp_path / "config.json").write_text("{")
    before = content(tmp_path)
    with refused("workdir", tmp_path, "config.json", "--fresh"):
        claim(config)
    assert content(tmp_path) == before


def test_a_field_that_the_run_did_not_know_had_its_default(small_run, tmp_path):
    config = small_run(tmp_path)
    claim(config)
    finish_step(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["rollout"]["kv_dtype"], settings["verifier"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    claim(config)
    (tmp_path / "config.json").write_text(json.dumps(settings | {"gone": 1}))
    with refused("rollout.kv_dtype", "'compute'", "'int8'"):
        claim(replace(config, rollout=replace(config.rollout, kv_dtype="int8")))
    with refused("gone", "1"):
        claim(config)


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_field_at_what_is_all_there_is_now_is_left_out(small_run, tmp_path, name):
    room, _, field = name.rpartition(".")
    config = small_run(tmp_path)
    claim(config)
    finish_step(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for value in (REMOVED[name][0], "other"):
        settings[room][field] = value
        (tmp_path / "config.json").write_text(json.dumps(settings))
        if value != "other":
            claim(config)
    with refused(name, "'other'", REMOVED[name][1]):
        claim(config)


def test_the_date_of_a_run_is_its_own_and_a_run_that_kept_none_takes_it_now(small_run, tmp_path):
    def on(day):
        return replace(config, data=replace(config.data, date=day))

    config = small_run(tmp_path)
    claim(config)
    finish_step(tmp_path)
    claim(on("2026-03-02"))
    assert look(config).remembered("data.date", "") == "2026-03-02"
    with refused("data.date", "'2026-03-02'", "'2026-03-03'"):
        claim(on("2026-03-03"))


# ---- what is somebody else's


KINDS = {"a file": lambda path: path.write_text("mine"),
         "a folder": lambda path: (path.mkdir(), (path / "mine").write_text("mine")),
         "a link to a file": lambda path: ((path.parent / "a").write_text("mine"), path.symlink_to(path.parent / "a")),
         "a link to a folder": lambda path: ((path.parent / "b").mkdir(), (path.parent / "b" / "c").touch(),
                                             path.symlink_to(path.parent / "b"))}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*NAMES, MARKER, "lock", "model.old", "metrics.jsonl.partial"])
def test_what_is_not_of_a_run_is_never_touched(small_run, tmp_path, name, kind):
    """Whatever it is, under whichever name of a run, with and without --fresh; and the error lists it."""
    (tmp_path / "code.py").write_text("mine")
    KINDS[kind](tmp_path / name)
    before = content(tmp_path)
    for fresh in (False, True):
        with refused("workdir", tmp_path, name, "another workdir"):
            claim(small_run(tmp_path), fresh=fresh)
        with refused("workdir", tmp_path, name):
            look(small_run(tmp_path), fresh=fresh)
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["../mine", "/etc/passwd", "..", "", "a/b", 1, None])
def test_a_marker_that_names_another_place_is_none(small_run, tmp_path, name):
    folder, mine = tmp_path / "run", tmp_path / "mine"
    mine.touch()
    folder.mkdir()
    (folder / MARKER).write_text(json.dumps({"names": ["model", name], "inputs": {}}))
    with refused("workdir", folder, MARKER):
        claim(small_run(folder), fresh=True)
    assert mine.exists() and read_marker(folder) is None


def test_all_that_is_in_the_way_is_listed(small_run, tmp_path):
    for name in ("metrics.jsonl", "model", "checkpoints"):
        KINDS["a folder"](tmp_path / name)
    with refused("checkpoints, model, metrics.jsonl are"):
        claim(small_run(tmp_path))


def test_a_place_that_somebody_prepared_is_taken(small_run, tmp_path):
    """Empty folders, links to empty folders on another disk, an empty lock, and files of other names."""
    scratch = tmp_path / "scratch"
    (scratch / "model").mkdir(parents=True)
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "model").symlink_to(scratch / "model")
    (folder / "lock").touch()
    (folder / "log.txt").write_text("mine")
    config = small_run(folder)
    claim(config)
    (folder / "model" / "weights").write_text("of the run")
    claim(config, fresh=True)
    assert (folder / "model").is_symlink() and not list((scratch / "model").iterdir())
    assert (folder / "log.txt").read_text() == "mine"


def test_fresh_removes_only_what_the_run_s_own_list_names(small_run, tmp_path):
    """A name that a later version writes may be somebody's file in a folder of before."""
    config = small_run(tmp_path)
    claim(config)
    marker = read_marker(tmp_path)
    (tmp_path / MARKER).write_text(json.dumps(marker | {"names": [n for n in NAMES if n != "curves.png"] + ["gone"]}))
    (tmp_path / "gone").write_text("of the run")
    claim(config, fresh=True)
    assert not (tmp_path / "gone").exists() and read_marker(tmp_path)["names"] == list(NAMES)
    (tmp_path / MARKER).write_text(json.dumps(marker | {"names": [n for n in NAMES if n != "curves.png"]}))
    (tmp_path / "curves.png").write_text("mine")
    with refused("curves.png"):
        claim(config, fresh=True)
    assert (tmp_path / "curves.png").read_text() == "mine"


def test_fresh_does_not_delete_a_run_that_is_alive(small_run, tmp_path):
    config = small_run(tmp_path)
    with claimed(config, INPUTS):
        (tmp_path / "metrics.jsonl").write_text("{}")
        (tmp_path / "evaluations" / "step_000001").mkdir(parents=True)       # of weights that will be gone
        with refused("workdir", tmp_path, "--fresh"):
            claim(config, fresh=True)
    assert (tmp_path / "metrics.jsonl").exists() and (tmp_path / "evaluations").exists()
    claim(config, fresh=True)
    assert not (tmp_path / "metrics.jsonl").exists() and not (tmp_path / "evaluations").exists()


@pytest.mark.parametrize("field", ["policy.path", "data.source", "terms.reference", "--fork"])
def test_a_run_never_writes_over_its_own_inputs(small_run, tmp_path, field):
    source = tmp_path / "model" / "input"
    source.mkdir(parents=True)
    config, (room, _, name) = small_run(tmp_path), field.partition(".")
    if name:
        config = replace(config, **{room: replace(getattr(config, room), **{name: str(source)})})
    with refused(field, source, tmp_path):
        claim(config, fresh=True, fork="" if name else str(source))
    assert source.exists()


# ---- where no run can be


def a_file(folder):
    folder.touch()
    return folder


def below_a_file(folder):
    folder.touch()
    return folder / "below" / "it"


def a_link_to_nothing(folder):
    folder.symlink_to(folder.with_name("nothing"))
    return folder


def a_loop(folder):
    folder.symlink_to(folder)
    return folder


def a_link_to_nothing_inside(folder):
    folder.mkdir()
    (folder / "checkpoints").symlink_to(folder / "nothing")
    return folder


def a_loop_inside(folder):
    folder.mkdir()
    (folder / "metrics.jsonl").symlink_to(folder / "metrics.jsonl")
    return folder


PLACES = [lambda folder: "gs://bucket/runs/first", lambda folder: "s3://bucket", lambda folder: "gs:/bucket",
          lambda folder: "hdfs://host/x", lambda folder: "/", lambda folder: "//", lambda folder: "../" * 30,
          a_file, below_a_file, a_link_to_nothing, a_loop, a_link_to_nothing_inside, a_loop_inside]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_a_place_where_no_run_can_be_is_named_at_once(small_run, tmp_path, monkeypatch, place, fresh):
    monkeypatch.chdir(tmp_path)
    workdir = str(place(tmp_path / "run"))
    before, config = content(tmp_path), small_run(workdir)
    with refused("workdir", workdir):
        look(config, fresh=fresh)
    assert content(tmp_path) == before


def test_the_home_folder_has_its_usual_name(small_run, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert small_run("~/runs/first").folder == "/somewhere/runs/first"


@pytest.fixture
def unprivileged():
    """A folder of a user whom the system refuses what is read-only, as it does not refuse root."""
    folder = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
        yield folder
        os.seteuid(0)
    else:
        yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["", "checkpoints", "rollouts", "model", "tensorboard", "metrics.jsonl", "config.json",
                                  "lock", MARKER])
def test_what_is_read_only_is_named_before_anything_is_trained(small_run, unprivileged, name):
    config = small_run(unprivileged / "run")
    claim(config)
    folder = Path(config.folder)
    finish_step(folder)
    for part in ("model", "tensorboard"):
        (folder / part).mkdir()
    before = content(folder)
    (folder / name).chmod(0o555)
    with refused("workdir", folder, folder / name):
        claim(config)
    (folder / name).chmod(0o755)
    assert content(folder) == before
