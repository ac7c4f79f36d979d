"""`nft-jax evaluate`: its settings, its table, going on after a kill, and what it refuses."""
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nft_jax.config import Config, DataConfig, EvaluationConfig, RolloutConfig, VerifierConfig
from nft_jax.data.benchmarks import SETS, sets_of
from nft_jax.record.rollouts import SCHEMA
from nft_jax.rollout.estimators import Estimate
from nft_jax.rollout.evaluate import NO_RUN, main, parse, sets_asked, verifier_of
from nft_jax.rollout.evaluation import Summary
from nft_jax.rollout.table import FIGURES, markdown
from tests.support.refusal import refused

ROOT = Path(__file__).parents[2]
NANO = ROOT / "nft_jax" / "assets" / "nano"
AIME = [("12+34-5", "41"), ("(20-7)%5", "3"), ("9-3", "6"), ("7+8", "15"), ("3*4", "12")]
GSM8K = [("50-13", "so #### 37"), ("1+1", "#### 2")]
OUTPUTS = "aime24.parquet", "gsm8k.parquet", "table.md", "summary.json"


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """`command(out, *more)`: the arguments, for two sets in a folder."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "aime24.jsonl").write_text("".join(json.dumps({"problem": q, "answer": a}) + "\n" for q, a in AIME))
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in GSM8K))

    def make(out, *more):
        return ["--model", str(NANO), "--suite", "aime24,gsm8k", "--data-folder", str(folder), "--out", str(out),
                "--template", "{problem}", "--n", "4", "--max-prompt-tokens", "24", "--max-new-tokens", "40", "--slots",
                "4", "--part-prompts", "1", "--block-size", "4", "--top-p", "1", *more]
    return make


@pytest.fixture(scope="module")
def uninterrupted(command, environment, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    done = subprocess.run([sys.executable, "-m", "experiments.evaluate", *command(out)], cwd=ROOT, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (out / "table.md").read_text() in done.stdout and "part 5/5  20 of 28 answers" in done.stderr
    return out


def test_what_it_writes(uninterrupted):
    assert sorted(path.name for path in uninterrupted.iterdir()) == sorted(OUTPUTS)
    found = json.loads((uninterrupted / "summary.json").read_text())["sets"]
    for name, questions in (("aime24", AIME), ("gsm8k", GSM8K)):
        table = pq.read_table(uninterrupted / f"{name}.parquet")
        assert table.schema.names == SCHEMA.names
        rows = table.to_pylist()
        assert [(r["problem"], r["sample"]) for r in rows] == [(q, k) for q, _ in questions for k in range(4)]
        assert [r["gold"] for r in rows[::4]] == [a.removeprefix("so ").removeprefix("#### ") for _, a in questions]
        right = [sum(r["outcome"] == "right" for r in rows[i:i + 4]) for i in range(0, len(rows), 4)]
        estimates = found[name]["estimates"]
        assert estimates["accuracy"]["value"] == pytest.approx(sum(right) / len(rows))
        assert estimates["pass@4"]["value"] == pytest.approx(sum(count > 0 for count in right) / len(right))
        assert found[name]["verdicts"]["right"] == sum(right)
        assert found[name]["length"] == pytest.approx(sum(len(r["tokens"]) for r in rows) / len(rows))
    table = (uninterrupted / "table.md").read_text().splitlines()
    assert len(table) == 5 and all("T 1, top-p 1" in line for line in table[2:])


@pytest.mark.slow
def test_after_a_kill_it_goes_on_and_ends_with_the_same_bytes(command, environment, uninterrupted, tmp_path, capsys):
    out = tmp_path / "out"
    line = [sys.executable, "-m", "experiments.evaluate", *command(out)]
    process = subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    first = out / "aime24.parquet.parts" / "part_000001.parquet"
    while not first.exists() and not (out / "aime24.parquet").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "summary.json").exists()
    with pytest.raises(SystemExit):
        main(command(out, "--temperature", "0.5"))
    assert "temperature: 1.0 there, 0.5 now" in capsys.readouterr().err
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "part 1/5" not in done.stderr
    for name in OUTPUTS:
        assert (out / name).read_bytes() == (uninterrupted / name).read_bytes(), name


def test_a_finished_evaluation_is_read_not_made_again(command, uninterrupted, capsys):
    made = (uninterrupted / "aime24.parquet").stat().st_mtime_ns
    main(command(uninterrupted))
    shown = capsys.readouterr()
    assert (uninterrupted / "table.md").read_text() in shown.out and "part" not in shown.err
    assert (uninterrupted / "aime24.parquet").stat().st_mtime_ns == made


@pytest.mark.parametrize(("more", "told"), [
    (["--seed", "3"], "seed: 0 there, 3 now"),
    (["--n", "-1"], "--n is -1"),
    (["--workers", "0"], "--workers is 0"),
    (["--top-p", "0"], "--top-p is 0.0"),
    (["--template", "no place"], "--template is 'no place'"),
    (["--suite", "aime"], "--suite is 'aime'"),
    (["--suite", "aime24,amc"], "'amc'"),
    (["--suite", "mine=nowhere.jsonl"], "mine.source is 'nowhere.jsonl'"),
    (["--suite", "aime25"], "--data.aime25 FILE"),
    (["--step", "3"], "step is '3'"),
    (["--max-new-tokens", "5000"], "--max-prompt-tokens + --max-new-tokens is 5024"),
    (["--model", "no/such/folder"], "policy.path is 'no/such/folder'"),
])
def test_what_it_refuses(command, uninterrupted, capsys, more, told):
    with pytest.raises(SystemExit) as stopped:
        main(command(uninterrupted, *more))
    assert stopped.value.code == 2 and told in capsys.readouterr().err


def test_what_a_flag_is_when_it_is_not_given(monkeypatch):
    """A flag, then --sampling, then the run, then the paper's 7B."""
    run = Config(seed=5, rollout=RolloutConfig(max_new_tokens=99, stop=("!",)),
                 verifier=VerifierConfig(mode="strict", deadline=9.0),
                 evaluation=EvaluationConfig(temperature=0.3, top_p=0.9, reward="code"))
    names = "temperature", "top_p", "max_new_tokens", "mode", "seed", "stop"

    def found(of, *flags):
        monkeypatch.setattr("nft_jax.rollout.evaluate.run_config", lambda model: of)
        given = parse(["--model", "m", *flags])
        return [getattr(given, name) for name in names]

    assert found(NO_RUN) == [1.0, 0.7, 3584, "equivalent", 0, ()]
    assert found(run, "--sampling", "scripts_32b") == [1.0, 0.7, 7168, "strict", 5, ("!",)]
    assert found(run, "--sampling", "scripts_7b")[:3] == [0.6, 0.7, 3584]
    assert found(run) == [0.3, 0.9, 99, "strict", 5, ("!",)]
    assert found(run, "--sampling", "paper_32b", "--top-p", "0.5") == [0.6, 0.5, 14_336, "strict", 5, ("!",)]
    verifier = verifier_of(parse(["--model", "m", "--mode", "lenient"]), run)
    assert (verifier.mode, verifier.reward, verifier.deadline) == ("lenient", "code", 9.0)


@pytest.mark.parametrize("evaluation", [
    EvaluationConfig(source="arithmetic", questions=16),
    EvaluationConfig(source="q.jsonl", samples=3, columns="answer=x"),
    EvaluationConfig(source="aime24,mine=q.jsonl", samples=4), EvaluationConfig(source="aime24,math500", samples=0)])
def test_a_run_is_asked_what_it_asks_itself(evaluation, monkeypatch):
    """The same questions, prompts, numbers of answers and random numbers. Another suite is asked as the paper asks."""
    run = Config(seed=3, data=DataConfig(source="q", template="Q: {problem}", system="s", seed=7, max_prompt_tokens=99),
                 evaluation=evaluation)
    monkeypatch.setattr("nft_jax.rollout.evaluate.run_config", lambda model: run)
    own = sets_of(run.evaluation, run.data)
    asked = sets_asked(parse(["--model", "m"]), run)
    assert [(one.name, one.data, one.samples, one.stream) for one in asked] == [
        (one.name, one.data, one.samples, one.stream) for one in own]
    one, = sets_asked(parse(["--model", "m", "--suite", "aime24"]), run)
    assert (one.samples, one.data.limit, one.data.split) == (32, 0, "train")
    one, = sets_asked(parse(["--model", "m", "--suite", "other=q.jsonl"]), run)
    assert (one.samples, one.data.limit, one.data.split) == (1, 0, "test")


def test_where_each_set_is_read_from(tmp_path):
    (tmp_path / "minerva.parquet").write_bytes(b"")
    given = parse(["--model", "m", "--data-folder", str(tmp_path), "--data.aime25", "a.jsonl", "--limit", "7"])
    asked = {one.name: one for one in sets_asked(given, NO_RUN)}
    assert list(asked) == list(SETS) and {one.data.limit for one in asked.values()} == {7}
    assert asked["aime25"].data.source == "a.jsonl"
    assert asked["minerva"].data.source == str(tmp_path / "minerva.parquet")
    assert asked["math500"].data.source == "HuggingFaceH4/MATH-500" and asked["math500"].data.split == "test"
    assert [one.samples for one in asked.values()] == [32, 32, 32, 1, 1, 1, 1]
    with refused("--suite", "minerva,minerva"):
        sets_asked(parse(["--model", "m", "--suite", "minerva,minerva"]), NO_RUN)


def test_the_table_beside_the_paper_s_figures():
    def summary(samples, error, skipped=0, **estimates):
        found = {name: Estimate(value, error) for name, value in estimates.items()}
        return Summary(30, skipped, samples, found, 1234.4, 0.025,
                       {"right": 8, "wrong": 20, "no_answer": 1, "timeout": 1, "too_large": 0, "error": 0})
    four = summary(4, 0.03, **{"accuracy": 0.25, "pass@2": 0.4, "pass@4": 0.5, "maj@4": 0.3})
    sets = {"aime24": four, "mine": summary(1, float("nan"), 2, accuracy=0.5)}
    assert markdown(sets, "T 0.6, top-p 0.7") == """\
| set | questions | sampled | n | avg@n | pass@2 | pass@4 | maj@n | tokens | truncated | right / wrong / no answer / \
other | Qwen2.5-Math-7B | NFT-7B | Qwen2.5-32B | NFT-32B |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| aime24 | 30 | T 0.6, top-p 0.7 | 4 | 25.0 ± 3.0 | 40.0 ± 3.0 | 50.0 ± 3.0 | 30.0 ± 3.0 | 1,234 | 2.5% | \
8 / 20 / 1 / 1 | - | 32.0 | - | 37.8 |
| mine | 30 of 32 | T 0.6, top-p 0.7 | 1 | 50.0 | - | - | - | 1,234 | 2.5% | 8 / 20 / 1 / 1 | - | - | - | - |
| average of all 2 |  | T 0.6, top-p 0.7 |  | 37.5 |  |  |  |  |  |  | - | - | - | - |
"""
    others = markdown({"mine": sets["mine"]}, "T 1, top-p 1")
    assert not any(name in others for name in FIGURES) and others.count("\n") == 3
    six = {name: summary(1, 0.06, accuracy=0.1 * i) for i, name in enumerate(
        ("aime24", "aime25", "amc23", "math500", "olympiadbench", "minerva"))}
    last = markdown(six, "T 1, top-p 0.7").splitlines()[-1]
    assert last.startswith("| average of the six |  | T 1, top-p 0.7 |  | 25.0 ± 2.4 |")
    assert last.endswith("| 31.6 | 51.7 | 29.6 | 59.2 |")


def test_help_answers_without_jax():
    code = ("import sys\nfrom nft_jax.rollout.evaluate import parse\ntry: parse(['--help'])\n"
            "except SystemExit: assert 'jax' not in sys.modules\nelse: raise SystemExit(1)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
