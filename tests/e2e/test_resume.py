"""Exact resume: a run that was killed, and killed again, ends like one that was not. SIGTERM saves and exits with 0."""
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nft_jax.record.metrics import read_metrics
from runs import assert_same_run, steps_done

ROOT = Path(__file__).parents[2]
SMALL = ["--steps", "5", "--checkpoint.every", "2", "--rollout.prompts-per-step", "6", "--rollout.samples-per-prompt",
         "4", "--rollout.max-new-tokens", "32", "--rollout.slots", "16", "--batch.updates-per-step", "2",
         "--batch.row-length", "64", "--batch.rows-per-micro-batch", "8", "--evaluation.questions", "6",
         "--evaluation.samples", "2", "--evaluation.every", "2"]


def start(workdir, environment, *more):
    return subprocess.Popen([sys.executable, "-m", "experiments.quickstart", "--workdir", str(workdir), *SMALL, *more],
                            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def wait_until(process, condition):
    """Poll until the run has come so far; fail with its output when it ends before."""
    while not condition():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, environment):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finish(start(workdir, environment))
    return workdir


def test_killed_again_and_again(tmp_path, uninterrupted, environment):
    """Before the first checkpoint, between those of steps 2 and 4, and after that of step 4."""
    for reached in (lambda: steps_done(tmp_path) >= 1, lambda: steps_done(tmp_path) >= 3,
                    lambda: (tmp_path / "checkpoints" / "4").exists()):
        process = start(tmp_path, environment)
        wait_until(process, reached)
        process.kill()
        process.wait()
    finish(start(tmp_path, environment))
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_exits_with_zero(tmp_path, uninterrupted, environment, number):
    process = start(tmp_path, environment)
    wait_until(process, lambda: steps_done(tmp_path) >= 1)
    process.send_signal(number)
    output = finish(process)
    assert "stopped early; the same command continues the run" in output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert not summary["finished"] and 1 <= summary["steps"] < 5
    assert (tmp_path / "checkpoints" / str(summary["steps"])).exists()
    if number == signal.SIGTERM:      # both leave the same folder
        finish(start(tmp_path, environment))
        assert_same_run(tmp_path, uninterrupted)


def test_another_configuration_is_refused_and_fresh_starts_over(tmp_path, uninterrupted, environment):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    (workdir / "notes.txt").write_text("mine")
    process = start(workdir, environment, "--seed", "1")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 2 and re.search(r"seed +0 +1\n", output) and "--fresh" in output
    assert "Traceback" not in output
    finish(start(workdir, environment, "--steps", "1", "--seed", "1", "--fresh"))
    assert [row["step"] for row in read_metrics(workdir / "metrics.jsonl")] == [0, 1]
    assert (workdir / "notes.txt").read_text() == "mine"


def test_a_finished_run_can_go_on_further(tmp_path, uninterrupted, environment):
    """Stopping at 5 and going on to 6 equals going to 6 at once, except for the evaluation that ended the first."""
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    finish(start(workdir, environment, "--steps", "6"))
    finish(start(tmp_path / "straight", environment, "--steps", "6"))
    a, b = ((folder / "model/model.safetensors").read_bytes() for folder in (workdir, tmp_path / "straight"))
    assert a == b
