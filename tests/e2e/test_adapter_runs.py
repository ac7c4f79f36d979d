"""Runs that train adapters: what a run promises holds for them, and their results are read wherever a model is."""
import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

import nft_jax
from model_folders import NANO
from nft_jax.config import AdapterConfig, PolicyConfig, TermsConfig
from nft_jax.config.training import TARGETS
from nft_jax.model import hf
from nft_jax.model.adapter import unwrap
from nft_jax.preflight.dry_run import describe
from nft_jax.record.checkpoint import Checkpoints
from nft_jax.record.claim import look
from nft_jax.record.folder import read_run
from nft_jax.record.metrics import read_metrics
from nft_jax.record.rollouts import table_to_groups
from nft_jax.record.weights import find_weights
from nft_jax.train.loop import train
from nft_jax.train.plan import settle
from refusal import refused
from runs import EVERY_OTHER, assert_same_run, straight_and_resumed

ADAPTER = AdapterConfig(rank=4, alpha=8.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A copy of the embedded model, to be changed."""
    return shutil.copytree(NANO, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def settings(small_run, base):
    def make(folder, **changes):
        run = small_run(folder, **{"policy": PolicyConfig(path=str(base)), "adapter": ADAPTER,
                                   "terms": TermsConfig(kl_weight=0.1, mismatch="token"), **changes})
        return replace(run, rollout=replace(run.rollout, ema=0.5))
    return make


@pytest.fixture(scope="module")
def folders(tmp_path_factory, settings, compiled_once):
    """Two steps, and the second of them again from the checkpoint of the first."""
    return straight_and_resumed(lambda folder: train(settings(folder), quiet=True), tmp_path_factory.mktemp("adapters"))


def test_a_run_resumes_exactly_and_compiles_nothing_more(folders):
    assert_same_run(*folders)
    rows = read_metrics(folders[0] / "metrics.jsonl")
    assert [row["compiles"] for row in rows[1:]] == [0, 0]


def test_merged_weights_sample_what_unmerged_weights_score(folders):
    for step in (1, 2):
        groups = table_to_groups(pq.read_table(folders[0] / f"rollouts/step_00000{step}.parquet"))
        for group in (group for group in groups if group.has_signal):
            for rollout, old in zip(group.rollouts, group.old_logprobs, strict=True):
                np.testing.assert_allclose(rollout.logprobs, old, rtol=1e-5, atol=1e-5)
    for row in read_metrics(folders[0] / "metrics.jsonl")[1:]:
        assert row["mismatch/p95"] < 1e-5 and row["mismatch/outside_10_percent"] == 0


def test_the_base_is_the_reference(folders):
    """New adapters change nothing, so that the first answers have the reference's log-probs; the second have not."""
    apart = []
    for step in (1, 2):
        groups = table_to_groups(pq.read_table(folders[0] / f"rollouts/step_00000{step}.parquet"))
        apart.append(max(float(np.abs(old - reference).max()) for group in groups if group.has_signal
                         for old, reference in zip(group.old_logprobs, group.reference_logprobs, strict=True)))
    assert apart[0] < 1e-5 and apart[1] > 1e-4


def test_the_average_that_samples_is_of_the_adapters(folders):
    """The adapters' B began at 0."""
    first, last, average = (unwrap(nft_jax.load(folders[0], step=step, ema=ema).params)["layers"]
                            for step, ema in ((1, False), (2, False), (2, True)))
    for name, parts in average.items():
        expected = 0.25 * first[name]["lora_b"] + 0.5 * last[name]["lora_b"]
        np.testing.assert_allclose(parts["lora_b"], expected, rtol=1e-5, atol=1e-9)
    assert max(np.abs(parts["lora_b"]).max() for parts in average.values()) > 0


def test_checkpoints_hold_adapters_and_their_moments_alone(folders, base):
    folder = folders[0]
    checkpoints = Checkpoints(folder / "checkpoints", read_run(folder).config.checkpoint, read_only=True)
    counters = checkpoints.restore_counters(2)
    checkpoints.close()
    model = hf.read_config(base)
    assert counters["base_digest"] == hf.peft.weights_digest(base, model)
    size = sum(path.stat().st_size for path in (folder / "checkpoints" / "2" / "state").rglob("*"))
    assert size < (base / "model.safetensors").stat().st_size


def test_the_run_and_its_model_folder_are_one_policy(folders, base, tmp_path):
    run, model = nft_jax.load(folders[0]), nft_jax.load(folders[0] / "model")
    jax.tree.map(np.testing.assert_array_equal, run.params, model.params)
    assert run.adapter.base == model.adapter.base == str(base) and run.adapter.digest == model.adapter.digest
    assert np.abs(unwrap(run.params)["layers"]["down"]["lora_b"]).max() > 0
    answers = nft_jax.sample(run, ["12+34", "7*8"], num_samples=2, max_new_tokens=24)
    unmerged = nft_jax.logprobs(run, answers)
    nft_jax.save(model, tmp_path / "adapter")
    nft_jax.save(model, tmp_path / "whole", merge=True)
    for name in (hf.peft.WEIGHTS, hf.peft.SETTINGS, "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "adapter" / name).read_bytes() == (folders[0] / "model" / name).read_bytes()
    whole = nft_jax.load(tmp_path / "whole")
    assert whole.adapter is None and not hf.peft.is_adapter(tmp_path / "whole")
    for rollout, scored, merged in zip(answers, unmerged, nft_jax.logprobs(whole, answers), strict=True):
        np.testing.assert_allclose(rollout.logprobs, scored, rtol=0, atol=1e-5)
        np.testing.assert_allclose(merged, scored, rtol=0, atol=1e-5)
    assert read_run(folders[0]).text is not None
    assert find_weights(folders[0] / "model").digests == find_weights(tmp_path / "adapter").digests


def going_on(settings, folder, start, **adapter):
    """A run that starts from an adapter's folder."""
    return settings(folder, policy=PolicyConfig(path=str(start)), adapter=AdapterConfig(**adapter), steps=1)


def test_a_run_goes_on_from_an_adapter(folders, base, settings, tmp_path, compiled_once, capsys):
    """Named by the run that trained it. Its policy is the one that this run ended with: the same evaluation."""
    config = going_on(settings, tmp_path / "second", folders[0])
    assert str(folders[0] / "model") in describe(settle(config), hf.read_config(base))
    train(config, quiet=True)
    found = read_run(tmp_path / "second").config
    assert found.policy.path == str(base) and found.data.chat_template == found.adapter.path
    assert found.adapter == replace(ADAPTER, targets=TARGETS["all"], path=str(folders[0] / "model"))
    first, last = read_metrics(tmp_path / "second" / "metrics.jsonl")[0], read_metrics(folders[0] / "metrics.jsonl")[-1]
    measured = {name: value for name, value in first.items() if name.startswith("evaluation/")}
    assert measured and measured == {name: last[name] for name in measured}
    policies = [nft_jax.load(place) for place in (folders[0], tmp_path / "second", tmp_path / "second" / "model")]
    assert len({policy.adapter.digest for policy in policies}) == 1
    assert {policy.adapter.base for policy in policies} == {str(base)}
    before, after = (unwrap(policy.params)["layers"]["down"]["lora_b"] for policy in policies[:2])
    assert 0 < np.abs(before - after).max() < 0.5 * np.abs(before).max()
    # The same command goes on, and so does the one that settle wrote out.
    for again in (config, replace(found, workdir=str(tmp_path / "second"))):
        assert train(again, quiet=True)["finished"]


@pytest.mark.parametrize(("asked", "field"), [
    ({"rank": 8}, "adapter.rank"), ({"rank": 4, "alpha": 4.0}, "adapter.alpha"),
    ({"rank": 4, "alpha": 8.0, "targets": ("mlp",)}, "adapter.targets"),
    ({"rank": 4, "alpha": 8.0, "rslora": True}, "adapter.rslora")])
def test_an_adapter_that_differs_from_the_stored_one_is_refused(asked, field, folders, settings, tmp_path):
    with refused(field, folders[0] / "model", "--adapter.rank 4 --adapter.alpha 8 --adapter.targets query"):
        settle(going_on(settings, tmp_path, folders[0] / "model", **asked))
    same = settle(going_on(settings, tmp_path, folders[0] / "model", rank=4, alpha=8.0, base_dtype="int8"))
    assert same.adapter.base_dtype == "int8" and settle(same) == same


def test_what_is_no_adapter_to_go_on_from(folders, base, settings, tmp_path):
    with refused("adapter.path", base):
        settle(going_on(settings, tmp_path, base, path=str(base)))
    with refused("adapter.path", tmp_path, folders[0] / "model"):
        settle(going_on(settings, tmp_path, folders[0] / "model", path=str(tmp_path)))
    both = shutil.copytree(folders[0] / "model", tmp_path / "both")
    shutil.copy(base / "model.safetensors", both)
    with refused(both, "adapter_config.json", "model.safetensors"):
        settle(going_on(settings, tmp_path, both))
    gone = shutil.copytree(folders[0] / "model", tmp_path / "gone")
    raw = json.loads((gone / hf.peft.SETTINGS).read_text())
    (gone / hf.peft.SETTINGS).write_text(json.dumps(raw | {"base_model_name_or_path": None}))
    with refused(gone / hf.peft.SETTINGS, "base_model_name_or_path", "adapter.path"):
        settle(going_on(settings, tmp_path, gone))
    # With a base of one's own.
    elsewhere = settle(going_on(settings, tmp_path, base, path=str(gone)))
    assert elsewhere.policy.path == str(base) and elsewhere.adapter.rank == 4


def test_a_fork_takes_over_adapters_and_no_others(folders, settings, tmp_path, compiled_once):
    train(settings(tmp_path / "fork", steps=3), fork=str(folders[0]), quiet=True)
    assert [row["step"] for row in read_metrics(tmp_path / "fork" / "metrics.jsonl")] == [3]
    whole = shutil.copytree(folders[0], tmp_path / "whole")
    raw = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps(raw | {"adapter": AdapterConfig().__dict__}))
    for source, adapter, told in (
            (folders[0], AdapterConfig(), ("adapter.rank is 0", "--adapter.rank 4 --adapter.alpha 8")),
            (folders[0], replace(ADAPTER, rank=8), ("adapter.rank is 8", "--adapter.rank 4")),
            (folders[0], replace(ADAPTER, targets=("mlp",)), ("adapter.targets is ('mlp',)", "--adapter.targets all")),
            (whole, ADAPTER, ("adapter.rank is 4", "no --adapter.rank", f"--policy.path {whole}"))):
        with refused(*told, f"--fork '{source}'"):
            look(settings(tmp_path / "other", steps=3, adapter=adapter), fork=str(source))


def test_a_folder_holds_a_model_or_an_adapter(folders, base, tmp_path):
    policy = nft_jax.load(folders[0] / "model")
    own = shutil.copytree(base, tmp_path / "own")
    nft_jax.save(policy, tmp_path / "adapter")
    for path, merge in ((tmp_path / "adapter", True), (own, False)):
        before = {file.name: file.read_bytes() for file in path.iterdir()}
        with refused("path", path):
            nft_jax.save(policy, path, merge=merge)
        assert {file.name: file.read_bytes() for file in path.iterdir()} == before
        # One of its kind takes its place.
        nft_jax.save(policy, path, merge=not merge)
        nft_jax.load(path)


def test_another_base_is_refused(folders, base, settings, tmp_path):
    folder, other = shutil.copytree(folders[0], tmp_path / "run"), shutil.copytree(base, tmp_path / "other")
    weights = base / "model.safetensors"
    kept = weights.read_bytes()
    try:
        # One bit of the last tensor.
        weights.write_bytes(kept[:-4] + bytes([kept[-4] ^ 1]) + kept[-3:])
        with refused("policy.path"):
            train(replace(settings(folder), steps=3), quiet=True)
        with refused("policy.path", base):
            train(replace(settings(tmp_path / "fork"), steps=3), fork=folder, quiet=True)
        with refused("policy.path", base):
            nft_jax.load(folder)
        with refused("base", base):
            nft_jax.load(folder / "model")
        with refused("policy.path", base, folder / "model"):
            train(going_on(settings, tmp_path / "second", folder / "model"), quiet=True)
        # The same weights elsewhere are the same base.
        assert nft_jax.load(folder / "model", base=other).adapter.base == str(other)
    finally:
        weights.write_bytes(kept)
    with refused("policy.path"):
        train(replace(settings(folder), policy=PolicyConfig(path=str(other))), quiet=True)


@pytest.mark.parametrize(("objective", "adapter"), [
    ("dpo", AdapterConfig(rank=2, targets=("attention",), rslora=True, base_dtype="int8")),
    ("grpo", AdapterConfig(rank=1, targets=("mlp",)))])
def test_other_families_of_objectives_and_an_int8_base(tmp_path, settings, compiled_once, objective, adapter):
    config = settings(tmp_path, objective=objective, adapter=adapter, terms=TermsConfig(), steps=1)
    train(config, verifier=EVERY_OTHER, quiet=True)
    row = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert row["groups/kept"] > 0 and row["grad_norm/mean"] > 0 and row["compiles"] == 0
    assert row["mismatch/p95"] < 1e-5
    run = nft_jax.load(tmp_path)
    assert json.loads((tmp_path / "model" / hf.peft.SETTINGS).read_text())["use_rslora"] == adapter.rslora
    # A run's policy has the rounded base, as the run had it; the folder of its adapter names the base itself.
    plain, rounded = nft_jax.load(tmp_path / "model").params["layers"], run.params["layers"]
    same = np.array_equal(plain["gate"] if adapter.base_dtype == "int8" else plain["query"],
                          rounded["gate"] if adapter.base_dtype == "int8" else rounded["query"])
    assert same == (adapter.base_dtype == "compute")
