"""Sweeps: grids of fields, names of folders, command lines, and a runner that survives what runs and kills do to it."""
import fcntl
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from experiments import sweep
from experiments.harness import runner, variants
from experiments.harness.board import Board, progress_of
from experiments.harness.runner import Job, Place, places, run_all
from experiments.presets import PRESETS, QUICKSTART
from nft_jax.cli import parse
from nft_jax.config import ObjectiveConfig
from refusal import refused

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("text", "told"), [
    ("seed=1", "--seeds"), ("name=a", "'name=a'"), ("loss.epsilon", "field=value"), ("loss.epsilon=", "field=value"),
    ("--steps=2 steps=3", "twice")])
def test_a_text_that_is_no_grid_is_refused(text, told):
    with refused(repr(text.split()[-1]), told):
        sweep.grid_of(text.split())


def test_a_grid_is_read_by_the_types_of_its_fields():
    grid = sweep.grid_of(["--loss.epsilon=0.1,1", "loss.neg-weight=None,0.5", "data.thinking=True",
                          "objective=nft,rft,nft", "verifier.allow_weak_sandbox=true"])
    arms = sweep.arms_of(QUICKSTART, grid | {"loss.epsilon": ["1"]})
    assert [[*changes.values()] for changes, _ in arms.values()] == [
        [1.0, weight, True, objective, True] for weight in (None, 0.5) for objective in ("nft", "rft")]
    # What is the same in all arms is in no name.
    assert list(arms) == ["neg_weight None, nft", "neg_weight None, rft", "neg_weight 0.5, nft", "neg_weight 0.5, rft"]


def test_flags_of_a_run_are_for_all_runs_whatever_their_objective(tmp_path):
    arms = sweep.arms_of(PRESETS["qwen2_5_math_7b_official"], {"objective": ["grpo", "dapo"]},
                         ["--loss.clip-high", "0.3", "--steps=3", "--data.thinking", "True"])
    assert list(arms) == ["grpo", "dapo"]
    for name, (changes, config) in arms.items():
        assert changes == {"objective": name} and config.objective == name
        assert config.loss == ObjectiveConfig(clip_high=0.3) and (config.steps, config.data.thinking) == (3, True)
    (config,) = (config for _, config in sweep.arms_of(QUICKSTART, {}, ["--objective", "rft"]).values())
    assert config.objective == "rft"
    names = [f"{tmp_path / name}:forks" for name in ("a.py", "b.py")]
    for name in names:
        Path(name.removesuffix(":forks")).write_text(
            "def forks(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras, "
            "threshold=0.5):\n    return -logprobs, {}\n")
    assert list(sweep.arms_of(QUICKSTART, {"objective": names})) == ["forks", names[1]]
    # A setting of an objective of one's own, which the experiment's does not have.
    arms = sweep.arms_of(QUICKSTART, {"objective.threshold": ["0.1", "0.5"]}, ["--objective", names[0], "--steps", "3"])
    assert {name: config.loss.own["threshold"] for name, (_, config) in arms.items()} == {
        "threshold 0.1": 0.1, "threshold 0.5": 0.5}


def test_folders_are_named_by_what_sets_a_run_apart_and_found_again(tmp_path):
    grid = {"objective": ["nft", "rft"], "steps": ["3"]}
    def plan(seeds, *flags):
        names = variants.Names(tmp_path / "runs")
        planned = sweep.seeded("quickstart", QUICKSTART, sweep.arms_of(QUICKSTART, grid, flags), seeds, names.folder)
        names.write()
        return planned

    first = plan(2)
    assert [each.folder.name for each in first] == ["nft,seed=0", "rft,seed=0", "nft,seed=1", "rft,seed=1"]
    assert [each.name for each in first] == ["nft, seed 0", "rft, seed 0", "nft, seed 1", "rft, seed 1"]
    assert all(each.config.workdir == str(each.folder) and each.config.seed == i // 2 for i, each in enumerate(first))
    assert "--objective=rft" in first[1].command and "--steps=3" in first[1].command
    # The same runs under another name, and others under the same: never one run in another's folder.
    assert [each.folder for each in plan(1)] == [each.folder for each in first[:2]] and plan(1)[0].name == "nft"
    other = plan(2, "--optimizer.learning-rate", "3e-4")
    assert [each.folder.name.rpartition("-")[0] for each in other] == [each.folder.name for each in first]
    assert not {each.folder for each in other} & {each.folder for each in first}
    digest = variants.digest(variants.vary(QUICKSTART, {"steps": 5}))
    (tmp_path / "old" / f"quickstart-nft-seed0-{digest}").mkdir(parents=True)
    assert variants.Names(tmp_path / "old").folder("x", variants.vary(QUICKSTART, {"steps": 5})).name.endswith(digest)


def test_a_dry_run_lists_the_runs_and_starts_none(tmp_path, capsys):
    root = tmp_path / "runs"
    assert sweep.main(["quickstart", "--grid", "loss.epsilon=0.1,1", "--workdir", str(root), "--steps", "3",
                       "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"epsilon 0.1: {root / 'epsilon=0.1'}" in out and f"epsilon 1: {root / 'epsilon=1'}" in out
    assert out.count("--steps=3") == 2 and not root.exists()


def test_a_board_shows_a_line_for_every_running_run(tmp_path):
    """On a terminal its newest whole row, also while the next one is being written; elsewhere that it begins."""
    job = Job(tmp_path / "a", ("true",), 40)
    job.folder.mkdir()
    assert progress_of(job) == (0, "")
    rows = [{"step": 0, "evaluation/accuracy/all": 0.25}, {"step": 1, "seconds/step": 10.0}]
    path = job.folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 2, "secon')
    assert progress_of(job) == (1, "held-out 25.0%, 6 min left")
    long = [{"step": step, "seconds/step": 1.5, "x": "y" * 9999} for step in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in long))
    assert progress_of(job) == (29, "16 s left")                        # more than it reads
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Board(console) as board:
        board.begin(job)
        board.look()
        board.say("another has ended")
        board._bars.refresh()
        board.end(job)
    told = console.file.getvalue()
    assert "29/40" in told and "16 s left" in told and "another has ended" in told
    plain = Console(file=io.StringIO(), soft_wrap=True)
    with Board(plain) as board:
        board.begin(job)
        board.end(job)
    assert plain.file.getvalue().splitlines() == [f"a: begins, output in {job.folder / 'log.txt'}"]


def test_another_objective_begins_with_its_own_defaults():
    base = PRESETS["qwen2_5_math_7b_official"]                    # sets epsilon, weights and the reduction of nft
    varied = variants.vary(base, {"objective": "grpo", "loss.clip_high": 0.3, "seed": 4})
    assert varied.loss == ObjectiveConfig(clip_high=0.3) and (varied.objective, varied.seed) == ("grpo", 4)
    assert variants.vary(base, {"loss.epsilon": 2.0}).loss == replace(base.loss, epsilon=2.0)
    with refused("loss.epsilon", -1):
        variants.vary(base, {"loss.epsilon": -1.0})


def test_flags_make_the_configuration_again():
    config = variants.vary(QUICKSTART, {
        "objective": "rft", "loss.prompt_weight": "1-r", "seed": 3, "data.seed": 3, "rollout.stop": ("a", "b c"),
        "verifier.allow_weak_sandbox": True, "data.thinking": False, "workdir": "/x y/z", "loss.neg_weight": None,
        "evaluation.temperature": 0.0, "data.template": "-{problem}"})
    assert parse(QUICKSTART, "", variants.flags(QUICKSTART, config)).config == config
    back = variants.flags(config, QUICKSTART)
    assert parse(config, "", back).config == QUICKSTART and "--verifier.no-allow-weak-sandbox" in back
    assert variants.flags(config, config) == []


def test_a_run_is_named_by_what_it_computes(tmp_path):
    """Defaults written out, speed settings and another clone change nothing; what is computed does."""
    name = variants.digest(QUICKSTART)
    same = variants.vary(QUICKSTART, {"loss.prompt_weight": "1-r", "rollout.slots": 7, "workdir": "a", "name": "b",
                                      "checkpoint.every": 3, "evaluation.source": "arithmetic",
                                      "policy.path": "nano"})
    assert variants.digest(same) == name
    for changes in ({"seed": 1}, {"data.seed": 1}, {"steps": 41}, {"loss.epsilon": 0.5}, {"objective": "rft"},
                    {"evaluation.reward": "boxed"}, {"rollout.temperature": 0.9}):
        assert variants.digest(variants.vary(QUICKSTART, changes)) != name
    folder = variants.folder_of(tmp_path, "quickstart", variants.vary(QUICKSTART, {"seed": 2}))
    assert folder.name.startswith("quickstart-nft-seed2-")
    other = tmp_path / f"of-another-study-{name}"
    other.mkdir()
    assert variants.folder_of(tmp_path, "quickstart", QUICKSTART) == other


def stub(folder: Path, body: str = "", *, finished: bool = True, status: int = 0) -> Job:
    """A run that takes no time: it locks its folder, counts its starts, does `body`, and says how far it got."""
    code = ("import fcntl, json, pathlib, sys, time\n"
            f"folder = pathlib.Path({str(folder)!r})\n"
            "lock = (folder / 'lock').open('a')\n"
            "lock.write('process of a stub')\n"
            "lock.flush()\n"
            "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            "starts = folder / 'starts'\n"
            "starts.write_text(starts.read_text() + 'x' if starts.exists() else 'x')\n"
            f"{body}\n"
            f"(folder / 'summary.json').write_text(json.dumps({{'finished': {finished}, 'steps': 3 * {finished}, "
            "'base_accuracy': 0.25, 'final_accuracy': 0.5}))\n"
            f"print('the last line'); sys.exit({status})")
    return Job(folder, (sys.executable, "-S", "-c", code), 3)


def starts(job: Job) -> int:
    return len((job.folder / "starts").read_text()) if (job.folder / "starts").exists() else 0


def test_finished_runs_are_skipped_and_failures_do_not_stop_the_others(tmp_path):
    broken = Job(tmp_path / "broken", (sys.executable, "-S", "-c", "raise SystemExit('no memory left')"), 3)
    jobs = [stub(tmp_path / "a"), broken, stub(tmp_path / "cut", finished=False), stub(tmp_path / "b")]
    said = []
    assert run_all([*jobs, jobs[0]], [Place()], said.append) == [broken, jobs[2]]
    assert [starts(job) for job in jobs] == [1, 0, 1, 1] and len(said) == 4
    assert "[1/4] a: 25.0% -> 50.0%" in said[0] and "FAILED with status 1: no memory left" in said[1]
    assert "stopped before its end: the last line" in said[2] and str(tmp_path / "cut" / "log.txt") in said[2]
    mended = stub(tmp_path / "cut")                         # the same commands again: only what is not finished runs
    assert run_all([jobs[0], mended, jobs[3]], [Place()], said.append) == []
    assert [starts(job) for job in jobs] == [1, 0, 2, 1]
    assert shlex.join(mended.command) in (tmp_path / "cut" / "log.txt").read_text()
    more = replace(jobs[0], steps=4)
    assert run_all([more], [Place()], said.append) == [more] and starts(more) == 2       # asked to go further


def test_runs_share_the_places(tmp_path):
    """Two places: two runs at the same time, each on its own cores and with its own variables."""
    cores = sorted(os.sched_getaffinity(0))
    meet = ("import os\n(folder / 'cores').write_text(str(sorted(os.sched_getaffinity(0))) + os.environ['PLACE'])\n"
            "other = folder.parent / {'one': 'two', 'two': 'one'}[folder.name]\n"
            "while not (other / 'cores').exists(): time.sleep(0.01)")
    at = [Place(frozenset(cores[:1]), {"PLACE": "a"}), Place(frozenset(cores[-1:]), {"PLACE": "b"})]
    assert run_all([stub(tmp_path / name, meet) for name in ("one", "two")], at, lambda line: None) == []
    found = [(tmp_path / name / "cores").read_text() for name in ("one", "two")]
    assert sorted(found) == sorted([f"[{cores[0]}]a", f"[{cores[-1]}]b"]) and sorted(os.sched_getaffinity(0)) == cores


@pytest.mark.parametrize("written", ["process 1 on this machine", ""])
def test_a_folder_that_another_process_holds_is_waited_for(written, tmp_path):
    """Seen before the run starts; or, with nothing written in the lock yet, when the run is refused."""
    taken, free = stub(tmp_path / "taken"), stub(tmp_path / "free")
    taken.folder.mkdir()
    lock = (taken.folder / "lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.write(written)
    lock.flush()
    said = []

    def say(line):
        said.append(line)
        if "free" in line:                                  # the other process ends, having finished the run
            (taken.folder / "summary.json").write_text('{"finished": true, "steps": 3}')
            lock.close()

    assert run_all([taken, free], [Place()], say) == []
    assert [line.split(":")[0] for line in said] == ["taken", "[1/2] free", "[2/2] taken"]
    assert "finished before" in said[-1] and starts(taken) == 0
    assert (taken.folder / "log.txt").exists() == (not written)


def sweeping(folder: Path, body: str) -> subprocess.Popen:
    """A process that sweeps two stubs."""
    code = ("import sys; sys.path.insert(0, 'tests/support')\n"
            "from tests.experiments.test_sweep import *\n"
            f"run_all([stub(Path({str(folder)!r}) / name, {body!r}) for name in ('a', 'b')], [Place()])")
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE)


def wait_for(path: Path) -> None:
    limit = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < limit, path
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path):
    """SIGKILL takes the sweep and leaves its run: the next sweep waits for that run and starts only the other."""
    body = "\nwhile not (folder / 'go').exists(): time.sleep(0.01)\n"
    process = sweeping(tmp_path, body)
    wait_for(tmp_path / "a" / "starts")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    said = []

    def say(line):
        said.append(line)
        (tmp_path / "a" / "go").touch()

    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "go").touch()
    jobs = [stub(tmp_path / name, body) for name in ("a", "b")]
    assert run_all(jobs, [Place()], say) == [] and [starts(job) for job in jobs] == [1, 1]
    assert said[0].startswith("a: ") and any("a: finished before" in line for line in said)


@pytest.mark.slow
def test_sigterm_goes_to_the_run_which_may_save(tmp_path):
    body = ("\nimport signal\ndef save(*_):\n    (folder / 'saved').touch()\n    sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, save)\n(folder / 'ready').touch()\nwhile True: time.sleep(0.01)\n")
    process = sweeping(tmp_path, body)
    wait_for(tmp_path / "a" / "ready")
    process.terminate()
    errors = process.communicate(timeout=60)[1].decode()
    assert (tmp_path / "a" / "saved").exists() and not (tmp_path / "b").exists() and "KeyboardInterrupt" in errors


def test_devices_are_divided(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
    assert [place.environment for place in places(0)] == [{"CUDA_VISIBLE_DEVICES": name} for name in "235"]
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places(2)] == ["2,5", "3"]
    assert places(1) == [Place()]
    with refused("jobs is 4", "3 GPUs"):
        places(4)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(runner.os, "sched_getaffinity", lambda pid: {4, 5, 6, 7})
    assert places(0) == [Place()] and [sorted(place.cores) for place in places(2)] == [[4, 6], [5, 7]]
    with refused("jobs is 5", "4 cores"):
        places(5)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setattr(runner.glob, "glob", lambda pattern: ["/dev/accel0"])
    assert places(0) == [Place()]
    with refused("jobs is 2", "TPU"):
        places(2)


@pytest.mark.parametrize(("arguments", "told"), [
    ("quickstart --grid loss.epsilom=1", ("--loss.epsilom", "--loss.epsilon")),
    ("quickstart --grid loss.epsilon=small", ("--loss.epsilon", "small")),
    ("quickstart --grid steps=1.5", ("--steps", "1.5")),
    ("quickstart --grid loss.ratio=word", ("--loss.ratio", "word", "sequence")),
    ("quickstart --grid objective=nft,grpo --grid loss.epsilon=0.5", ("loss.epsilon", "grpo")),
    ("quikstart", ("quikstart", "quickstart")),
    ("quickstart --seeds 0", ("seeds is 0",)),
    ("quickstart --grid loss.epsilon=1 --steps x", ("--steps", "x")),
    ("quickstart --sedes 3", ("--sedes",)),
    ("quickstart --seed 3", ("--seed", "--seeds")), ("quickstart --data.seed=3", ("--data.seed=3", "--seeds")),
    ("quickstart --fresh", ("--fresh", "--workdir")), ("quickstart --fork x", ("--fork", "--policy.path")),
])
def test_mistakes_of_the_command_end_it_before_anything_starts(arguments, told, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        sweep.main([*arguments.split(), "--workdir", str(tmp_path / "runs")])
    out = capsys.readouterr()
    assert ended.value.code == 2 and all(words in out.err + out.out for words in told)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_sweep_of_real_runs(tmp_path, capsys, monkeypatch):
    """Two arms of one step each on the embedded model, then the same command again: nothing runs twice."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    (tmp_path / "small.py").write_text(
        "from dataclasses import replace\nfrom experiments.presets import QUICKSTART as Q\n"
        "SMALL = replace(Q, name='small', steps=1, rollout=replace(Q.rollout, prompts_per_step=4, samples_per_prompt=4,"
        " slots=16), batch=replace(Q.batch, updates_per_step=1), evaluation=replace(Q.evaluation, questions=4, "
        "samples=2))\n")
    command = [f"{tmp_path}/small.py:SMALL", "--grid", "objective=nft,rft", "--workdir", str(tmp_path / "runs"),
               "--rollout.max-new-tokens", "32"]
    assert sweep.main(command) == 0
    out = capsys.readouterr().out
    assert "nft: begins" in out and "[2/2] rft: " in out
    assert {path.suffix for path in (tmp_path / "runs").glob("compare.*")} == {".md", ".png", ".parquet", ".html"}
    assert "| nft | 1 |" in (tmp_path / "runs" / "compare.md").read_text()
    table = pd.read_parquet(tmp_path / "runs" / "results.parquet")
    assert [*zip(table["arm"], table["objective"], table["step"], strict=True)] == [
        (name, name, step) for name in ("nft", "rft") for step in (0, 1)]
    assert (table["tokens"] == table["tokens/generated"].fillna(0)).all() and table["tokens"][1] > 0
    assert table["evaluation/accuracy/all"].notna().all()
    said = json.loads((tmp_path / "runs" / "rft" / "summary.json").read_text())
    assert "--objective=rft" in said["command"] and "--rollout.max-new-tokens=32" in said["command"]
    assert sweep.main(command) == 0 and capsys.readouterr().out.count("finished before") == 2
