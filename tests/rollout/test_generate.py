"""The command that answers a file of questions: the table, going on after a kill, and what it refuses."""
import json
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from datetime import date
from pathlib import Path

import jax
import pyarrow.parquet as pq
import pytest

from nft_jax.config import Config, MeshConfig
from nft_jax.record.parts import Parts
from nft_jax.record.rollouts import JUDGED, SCHEMA
from nft_jax.rollout.answers import dated_as_begun, identity, questions_of
from nft_jax.rollout.evaluation import HeldOut
from nft_jax.rollout.generate import main, parse
from nft_jax.rollout.slots import slots_that_fit
from nft_jax.runtime.mesh import make_mesh
from tests.support.refusal import refused

ROOT = Path(__file__).parents[2]
NANO = ROOT / "nft_jax" / "assets" / "nano"
QUESTIONS = [{"question": "12+34-5", "answer": "41"}, {"question": "1+2"}, {"question": "(20-7)%5", "answer": "3"},
             {"question": "9-3", "answer": "no number, and far too long " * 20}, {"question": "7+8", "answer": "15"}]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """`command(out, *more)`: the arguments."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))

    def make(out, *more):
        return ["--model", str(NANO), "--prompts", str(folder / "q.jsonl"), "--num-samples", "3", "--out", str(out),
                "--max-new-tokens", "40", "--part-prompts", "2", "--slots", "4", "--block-size", "4", *more]
    return make


@pytest.fixture(scope="module")
def uninterrupted(command, environment, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "answers.parquet"
    done = subprocess.run([sys.executable, "-m", "nft_jax.rollout.generate", *command(out)], cwd=ROOT, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"table: {out}" in done.stdout and "part 3/3  15 of 15 answers" in done.stderr
    return out


def test_the_table(uninterrupted):
    table = pq.read_table(uninterrupted)
    assert table.schema.names == [name for name in SCHEMA.names if name not in JUDGED]
    rows = table.to_pylist()
    assert [(r["prompt_index"], r["sample"]) for r in rows] == [(p, k) for p in range(5) for k in range(3)]
    assert [r["problem"] for r in rows[::3]] == [q["question"] for q in QUESTIONS]
    assert [r["gold"] for r in rows[::3]] == ["41", "", "3", "", "15"]
    assert all(len(r["tokens"]) == len(r["logprobs"]) == len(r["entropies"]) for r in rows)
    assert not (uninterrupted.parent / "answers.parquet.parts").exists()


def test_after_a_kill_it_goes_on_and_ends_with_the_same_file(command, environment, uninterrupted, tmp_path):
    out = tmp_path / "answers.parquet"
    line = [sys.executable, "-m", "nft_jax.rollout.generate", *command(out)]
    process = subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    first = tmp_path / "answers.parquet.parts" / "part_000000.parquet"
    while not first.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if not out.exists():                     # it may have been as fast as the kill
        made = first.stat().st_mtime_ns
        with pytest.raises(SystemExit):
            main(command(out, "--temperature", "0.5"))
        assert first.stat().st_mtime_ns == made
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 questions to go" not in done.stderr
    assert out.read_bytes() == uninterrupted.read_bytes()


def test_the_verifier_judges_the_table(uninterrupted):
    from nft_jax.verify.__main__ import main as verify
    verify([str(uninterrupted), "--output", str(uninterrupted.parent / "verdicts.parquet")])
    verdicts = pq.read_table(uninterrupted.parent / "verdicts.parquet").to_pylist()
    assert len(verdicts) == 15 and sum(row["reward"] for row in verdicts) >= 1


def test_a_finished_table_is_left_alone_and_another_is_refused(command, uninterrupted, capsys):
    before = uninterrupted.stat().st_mtime_ns
    main(command(uninterrupted))
    assert "is there already" in capsys.readouterr().err
    for more, message in (
            (["--seed", "3"], "seed: 0 there, 3 now"), (["--num-samples", "0"], "--num-samples is 0"),
            (["--top-p", "0"], "--top-p is 0.0"), (["--stop", ""], "--stop is ('',)"),
            (["--out", "answers.json"], "--out is 'answers.json'"),
            (["--max-new-tokens", "5000"], "--max-new-tokens is 5001"),
            (["--template", "no place"], "--template is 'no place'"), (["--step", "3"], "step is '3'"),
            (["--prompts", "nowhere.jsonl"], "prompts.source is 'nowhere.jsonl'")):
        with pytest.raises(SystemExit) as stopped:
            main(command(uninterrupted, *more))
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    assert uninterrupted.stat().st_mtime_ns == before


def test_stops_that_are_refused_bind_nothing(command, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(command(tmp_path / "answers.parquet", "--stop-token-id", "3", "--stop-token-id", "104"))
    assert stopped.value.code == 2 and "--stop-token-ids is (3, 104)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_too_little_memory_is_told_in_the_flags_of_this_command(command, tiny_model, monkeypatch, tmp_path):
    monkeypatch.setattr("nft_jax.rollout.slots.free_bytes", lambda mesh: 0)
    given = parse(command(tmp_path / "answers.parquet", "--slots", "0"))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with refused("--slots is 0", "--max-new-tokens", "--kv-dtype", "tensor") as told:
        slots_that_fit(tiny_model, mesh, given, 15, given.max_prompt_tokens, given.dtype)
    assert not any(name in str(told.value) for name in ("rollout.", "policy.", "mesh."))


def test_help_answers_without_jax():
    code = ("import sys\nfrom nft_jax.rollout.generate import parse\ntry: parse(['--help'])\n"
            "except SystemExit: assert 'jax' not in sys.modules\nelse: raise SystemExit(1)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_the_date_that_a_template_writes_is_of_the_first_start(tmp_path):
    """A table that is begun on one day is ended with its date on another, and is the same table on a third."""
    dated = Config().data, types.SimpleNamespace(chat_template="{{ strftime_now('%d') }}"), tmp_path / "t.parquet"
    assert dated_as_begun(*dated).date == date.today().isoformat()
    parts = Parts(tmp_path / "t.parquet", {"date": "2026-03-02"})
    parts.claim(lambda: {"slots": 1, "part_prompts": 1})
    assert dated_as_begun(*dated).date == "2026-03-02"
    parts.fill([], 1, lambda prompts: [], lambda *told: None)
    assert not parts.folder.exists() and dated_as_begun(*dated).date == "2026-03-02"
    asked = replace(dated[0], date="2026-03-09"), *dated[1:]
    assert questions_of(HeldOut("", [], 1, 0), dated_as_begun(*asked))["date"] == "2026-03-09"
    with refused("date", "2026-03-02", "2026-03-09"):
        _ = Parts(tmp_path / "t.parquet", {"date": "2026-03-09"}).finished


def test_answers_of_an_average_are_others_and_older_tables_are_as_before(command, tmp_path):
    weights = types.SimpleNamespace(step=3, digests=[])
    plain, average = (identity(parse(command(tmp_path / "out.parquet", *more)), weights) for more in ((), ("--ema",)))
    assert average == plain | {"ema": True}
