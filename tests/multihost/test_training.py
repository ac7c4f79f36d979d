"""A run does not depend on how many processes share its devices; and no process outlives the others. Minutes long."""
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from local_processes import outputs, start, wait_until
from nft_jax.record.metrics import read_metrics
from runs import comparable, steps_done

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS = 3
SMALL = ["--steps", str(STEPS), "--checkpoint.every", "2", "--rollout.prompts-per-step", "7",
         "--rollout.samples-per-prompt", "4", "--rollout.max-new-tokens", "24", "--rollout.slots", "16",
         "--batch.updates-per-step", "2", "--batch.row-length", "64", "--evaluation.questions", "3",
         "--evaluation.samples", "2", "--evaluation.every", "2", "--optimizer.warmup-updates", "4", "--data.limit",
         "12", "--data.max-prompt-tokens", "24", "--verifier.workers", "1", "--terms.kl-weight", "0.05", "--data.order",
         "accuracy", "--rollout.ema", "0.5", "--loss.all-wrong", "0.25", "--rollout.tokens-per-step", "10"]
RUN = [sys.executable, "-m", "experiments.quickstart", *SMALL]


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Everything that is compiled is kept in the cache of the tests (jax lets the first process of a run write it)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


def launch(workdir, processes, devices, *more):
    """A whole run, through launch/local.py; its output."""
    result = subprocess.run([sys.executable, "launch/local.py", "-n", str(processes), "-d", str(devices), "--", *RUN,
                             "--workdir", str(workdir), *more], capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    launch(workdir, 1, 8, "--mesh.data", "2", "--mesh.fsdp", "4")
    return workdir


def assert_same_run(workdir, expected):
    """The same tokens, verdicts and choice of groups; numbers within the rounding of other sums."""
    for path in sorted((expected / "rollouts").iterdir()):
        found, wanted = pq.read_table(workdir / "rollouts" / path.name), pq.read_table(path)
        for name in wanted.column_names:
            if name not in ("logprobs", "truncated_logprobs", "entropies", "old_logprobs", "reference_logprobs"):
                assert found[name].equals(wanted[name]), (path.name, name)
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (workdir, expected))
    start = load_file(ROOT / "nft_jax" / "assets" / "nano" / "model.safetensors")
    assert max(np.abs(b[name] - start[name]).max() for name in start) > 1e-4
    for name in b:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=1e-5)
    rows = read_metrics(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    for row, other in zip(rows, read_metrics(expected / "metrics.jsonl"), strict=True):
        assert comparable(row).keys() == comparable(other).keys()
        for name in ("accuracy/all", "evaluation/accuracy/all", "tokens/generated", "tokens/kept", "groups/kept"):
            assert row.get(name) == other.get(name), name
    assert row["kl/mean"] == pytest.approx(other["kl/mean"], rel=0.05) and row["kl/mean"] > 0     # of the last step


@pytest.mark.parametrize(("processes", "mesh"), [(2, ["--mesh.data", "2", "--mesh.fsdp", "4"]),
                                                 (4, ["--mesh.data", "4", "--mesh.tensor", "2"])])
def test_a_run_does_not_depend_on_the_number_of_processes(tmp_path, one_process, processes, mesh):
    """1 x 8, 2 x 4, 4 x 2 (processes x devices), over fsdp and over tensor."""
    output = launch(tmp_path, processes, 8 // processes, *mesh)
    assert f"processes: {processes}, each with {8 // processes} of the 8 devices" in output
    assert output.count("step 3/3") == 1 and "[1] step" not in output            # the first alone reports
    assert_same_run(tmp_path, one_process)
    assert [row["compiles"] for row in read_metrics(tmp_path / "metrics.jsonl")[1:STEPS]] == [0] * (STEPS - 1)


def test_a_run_on_stored_answers_does_not_depend_on_the_number_of_processes(tmp_path):
    """Text with golds: each process judges its share, and all of them score. Two epochs of nine groups, and more."""
    rows = [{"prompt": f"{i}+{i}", "response": f"\\boxed{{{value}}}", "answer": str(2 * i)}
            for i in range(1, 10) for value in (2 * i, 2 * i + 1, i, 2 * i)]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for processes in (1, 2):
        output = launch(tmp_path / str(processes), processes, 8 // processes, "--mesh.data", "2", "--mesh.fsdp", "4",
                        # What a sampler or a stream of questions takes, and stored answers refuse.
                        "--data.order", "permutation", "--rollout.ema", "0", "--loss.all-wrong", "0",
                        "--rollout.tokens-per-step", "0", "--rollout.answers", str(answers))
        assert output.count("stored answers: 9 groups with 36 answers are trained on") == 1
    assert_same_run(tmp_path / "2", tmp_path / "1")


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_process_dies_all_end(tmp_path, killed):
    processes = start([*RUN, "--workdir", str(tmp_path), "--steps", "1000"])
    wait_until(lambda: steps_done(tmp_path) >= 1, processes)
    processes[killed].kill()
    outputs(processes, 30)
    assert processes[killed].returncode == -signal.SIGKILL and processes[1 - killed].returncode != 0


def test_a_signal_to_one_process_stops_and_saves_all_and_the_run_goes_on_with_another_number(tmp_path, one_process):
    processes = start([*RUN, "--workdir", str(tmp_path)])
    wait_until(lambda: steps_done(tmp_path) >= 1, processes)
    processes[1].send_signal(signal.SIGTERM)
    said = outputs(processes, 120)
    assert [process.returncode for process in processes] == [0, 0], said
    summary = json.loads((tmp_path / "summary.json").read_text())
    # In the last evaluation too, a stop leaves a run that is not finished.
    assert not summary["finished"] and 1 <= summary["steps"] <= STEPS
    launch(tmp_path, 1, 1)
    assert_same_run(tmp_path, one_process)


def test_bad_input_of_one_process_ends_all(tmp_path):
    """A file that only one machine lacks, and a question that only one machine has otherwise."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"problem": f"{i}+1", "answer": str(i + 1)}) + "\n" for i in range(9)))
    for change, named in ((lambda copy: copy.unlink(), ("reading its inputs", "data.source")),
                          (lambda copy: copy.write_text(questions.read_text().replace('"5"', '"6"')),
                           ("what they were given", "questions"))):
        folders = [tmp_path / "first", tmp_path / "second"]
        for folder in folders:
            folder.mkdir(exist_ok=True)
            shutil.copy(questions, folder / "questions.jsonl")
        change(folders[1] / "questions.jsonl")
        code = "import os, sys; os.chdir(sys.argv.pop(1 + int(os.environ['NFT_PROCESS_ID']))); sys.argv.pop(1); " \
               "import runpy; runpy.run_module('experiments.quickstart', run_name='__main__')"
        # each process looks for the file in a folder of its own
        processes = start([sys.executable, "-c", code, *map(str, folders), *SMALL, "--workdir",
                           str(tmp_path / "run"), "--data.source", "questions.jsonl"])
        said = outputs(processes, 120)
        assert [process.returncode for process in processes] == [2, 2], said
        assert all("Traceback" not in text for text in said) and all(text in said[0] for text in named), said
