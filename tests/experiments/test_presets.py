"""The presets: the paper's arithmetic, sources whose columns are understood, and a dry run without network."""
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import train
from experiments.presets import PRESETS, gsm8k, olmo3_7b, qwen2_5_32b, qwen2_5_math_7b
from nft_jax.config import flat
from nft_jax.data import templates
from nft_jax.data.prompts import load_questions
from nft_jax.model.decoder import count_parameters
from nft_jax.model.hf import config_of
from nft_jax.model.hf.published import PUBLISHED
from nft_jax.objectives.registry import token_weights
from nft_jax.preflight.devices import Topology
from nft_jax.preflight.dry_run import batch_arithmetic, memory_estimate
from nft_jax.preflight.report import estimate_of
from nft_jax.runtime.names import experiment
from nft_jax.train.opening import preview
from nft_jax.train.plan import settle
from refusal import refused

ROOT = Path(__file__).parents[2]
LARGE = [name for name in PRESETS if name.startswith("qwen")]


def test_every_preset_is_found_by_its_name_and_settles():
    assert set(PRESETS) == {"quickstart", "local", "code", "gemma3_270m", "gsm8k", "gsm8k_lora", "qwen2_5_math_7b",
                            "qwen2_5_math_7b_official", "olmo3_7b", "qwen2_5_32b", "qwen2_5_32b_official"}
    for name, config in PRESETS.items():
        assert config.name == name and settle(config).loss.prompt_weight == "1-r"


@pytest.mark.parametrize("name", LARGE)
def test_the_arithmetic_is_the_papers(name):
    config = PRESETS[name]
    arithmetic = dict(batch_arithmetic(config))
    assert arithmetic["answers trained on per step"] == "512 prompts x 16 answers = 8192"
    assert arithmetic["updates per step"] == "16 of at most 32 prompts = 512 answers each"
    assert arithmetic["updates in all"] == "320 x 16 = 5,120"
    assert config.optimizer.warmup_updates == 10 * config.batch.updates_per_step
    tokens = config.data.max_prompt_tokens, config.rollout.max_new_tokens
    assert tokens == ((2048, 14_336) if "32b" in name else (512, 3584))
    assert sum(tokens) <= PUBLISHED[config.policy.path].max_positions
    assert config.evaluation.temperature == (0.6 if "32b" in name else 1.0) and config.evaluation.top_p == 0.7
    assert config.rollout.max_generation_batches * config.rollout.prompts_per_step == 10 * 3 * 512


@pytest.mark.parametrize("module", [qwen2_5_math_7b, qwen2_5_32b])
def test_recommended_differs_from_official_where_the_docstring_says(module):
    official, recommended = (flat(c.to_dict()) for c in (module.OFFICIAL, module.RECOMMENDED))
    different = {key for key in official if official[key] != recommended[key]} - {"name"}
    assert different == {"loss.loss_agg", "loss.constant_length", "verifier.mode", "evaluation.every",
                         "checkpoint.every", "checkpoint.keep"}
    for field in different:
        assert field in qwen2_5_math_7b.__doc__


def test_the_control_differs_from_the_papers_model_where_its_docstring_says():
    ours, papers = (flat(c.to_dict()) for c in (olmo3_7b.PRESET, qwen2_5_math_7b.RECOMMENDED))
    different = {key for key in ours if ours[key] != papers[key]} - {"name"}
    assert different == {"policy.path", "data.template", "data.chat_template", "rollout.stop", "rollout.slots",
                         "rollout.kv_dtype"}
    assert all(field in olmo3_7b.__doc__ for field in different)
    tokens = olmo3_7b.PRESET.data.max_prompt_tokens + olmo3_7b.PRESET.rollout.max_new_tokens
    assert tokens == PUBLISHED["allenai/OLMo-2-1124-7B"].max_positions
    assert tokens < PUBLISHED[olmo3_7b.PRESET.policy.path].max_positions


@pytest.mark.parametrize(("module", "ranks", "shared"), [(qwen2_5_math_7b, 4 * 8, 1), (qwen2_5_32b, 16 * 8, 8)])
def test_official_loss_is_that_of_the_published_number_of_gpus(module, ranks, shared):
    """The official reduction, rank by rank (dp_actor.py; verl's FSDP and its sequence parallelism): a rank sums the
    losses of its answers' tokens, divided by 1,000. Where `shared` ranks hold a piece each of the same answers, the
    gradient of a rank's piece is multiplied by `shared`. FSDP averages over all ranks."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 512)
    gradients = [rng.normal(size=length) for length in lengths]          # a token's, with respect to some parameter
    groups = np.array_split(np.arange(512), ranks // shared)             # of answers
    of_ranks = [shared * sum(np.array_split(gradients[i], shared)[piece].sum() for i in group) / 1000
                for group in groups for piece in range(shared)]
    assert len(of_ranks) == ranks
    loss = module.OFFICIAL.loss
    ours = token_weights(loss.loss_agg, lengths, loss.constant_length)
    assert np.mean(of_ranks) == pytest.approx(sum(w * g.sum() for w, g in zip(ours, gradients, strict=True)), rel=1e-12)


def test_the_preset_of_the_page_on_prompts(tmp_path):
    page = (ROOT / "nft_jax" / "data" / "README.md").read_text()
    (tmp_path / "zero.py").write_text(re.search(r"```python\n(from dataclasses.*?)```", page, re.DOTALL).group(1))
    config = settle(experiment(f"{tmp_path / 'zero.py'}:CONFIG"))
    assert config.data.template == templates.R1_ZERO and config.data.chat_template == "none"
    assert config.rollout.stop == ("</answer>",)


def tokenizer_of(data_folder):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(data_folder / "tokenizers" / "qwen3")


def test_columns_of_dapo_math_are_understood(data_folder):
    """Each question once, with its gold, and its own words: these prompts ask for a box themselves."""
    source = str(data_folder / "data" / "dapo_schema_sample.parquet")
    questions, report = load_questions(replace(qwen2_5_math_7b.OFFICIAL.data, source=source), tokenizer_of(data_folder))
    assert (report.rows, report.used, report.repeats, report.conflicting_repeats) == (80, 64, 16, 0)
    assert all(question.gold and question.text.count("\\boxed") == 1 for question in questions)


@pytest.mark.parametrize(("preset", "file"), [("gsm8k", "gsm8k_train.jsonl"), ("qwen2_5_math_7b", "math500.jsonl")])
def test_plain_questions_are_asked_for_a_box(preset, file, data_folder):
    data = replace(PRESETS[preset].data, source=str(data_folder / "data" / file), limit=20)
    questions, report = load_questions(data, tokenizer_of(data_folder))
    assert report.used == 20 and not report.skipped
    assert all("put your final answer within \\boxed{}" in question.text for question in questions)


def test_rows_of_gsm8k_are_understood(tmp_path, data_folder):
    """The hub's columns: the answer is a worked solution that ends in #### and the number."""
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps({"question": "What is 6 x 7?", "answer": "6 x 7 = <<6*7=42>>42\n#### 42"}) + "\n")
    questions, _ = load_questions(replace(gsm8k.PRESET.data, source=str(path)), tokenizer_of(data_folder))
    assert questions[0].gold == "42"


@pytest.fixture
def no_hub(monkeypatch):
    import datasets
    import huggingface_hub

    def unreachable(*arguments, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not name.startswith(("Qwen/Qwen2.5", "Qwen/Qwen3-"))])
def test_every_published_shape_can_be_planned(name, no_hub):
    """The arithmetic of a dry run and of preflight, on devices that are not there."""
    preset = replace(gsm8k.PRESET, policy=replace(gsm8k.PRESET.policy, path=name))
    topology = Topology.parse("gpu:1xH100")
    sketch = estimate_of(preset, config_of(name), topology)
    assert sketch.memory.parameters == 4 * count_parameters(PUBLISHED[name])
    assert 0 < sketch.estimate.step < sketch.estimate.device_hours * 3600


@pytest.mark.parametrize("name", [*LARGE, "gsm8k", "gsm8k_lora", "olmo3_7b"])
def test_a_dry_run_needs_no_network(name, no_hub, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train.main([name, "--dry-run"])
    output = capsys.readouterr().out
    config = PRESETS[name]
    for text in (f'"name": "{name}"', f"{config.policy.path} was not read", "nft_jax.model.hf.published",
                 "Tokenizer and data were not read", "no network", "updates in all", "memory over all devices"):
        assert text in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("given", "missing"), [
    ([], ["policy.path", "data.source"]), (["--policy.path", "nano"], ["data.source"]),
    (["--data.source", "arithmetic"], ["policy.path"])])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_local_trains_nothing_that_was_not_named(given, missing, dry, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        train.main(["local", "--workdir", str(tmp_path / "run"), *given, *dry])
    told = capsys.readouterr()
    assert stopped.value.code == 2 and not told.out and not (tmp_path / "run").exists()
    for name in ("policy.path", "data.source"):
        assert (f"{name} is ''" in told.err) == (f"--{name}" in told.err) == (name in missing)


def test_a_run_needs_the_model(no_hub, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        train.main(["gsm8k", "--workdir", str(tmp_path / "run")])
    assert stopped.value.code == 2 and "policy.path is 'Qwen/Qwen2.5-0.5B-Instruct'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_with_the_model_and_without_the_data(no_hub, tmp_path):
    nano = ROOT / "nft_jax" / "assets" / "nano"
    config = replace(gsm8k.PRESET, policy=replace(gsm8k.PRESET.policy, path=str(nano)))
    model, lines = preview(config)
    assert model == config_of(str(nano)) and "data.source is 'openai/gsm8k:main'" in lines[0]


def test_a_dry_run_still_refuses_what_is_wrong_here(no_hub, tmp_path):
    preset = gsm8k.PRESET
    for policy, told in ((replace(preset.policy, path="Qwen/none"), ("policy.path", "'Qwen/none'")),
                         (replace(preset.policy, path=str(tmp_path)), (tmp_path / "config.json",))):
        with refused(*told):
            preview(replace(preset, policy=policy))
    with refused(33268, 32768):
        memory_estimate(replace(preset, rollout=replace(preset.rollout, max_new_tokens=32_948)), preview(preset)[0])
    shutil.copytree(ROOT / "nft_jax" / "assets" / "nano", tmp_path / "nano")
    (tmp_path / "nano" / "model.safetensors").write_bytes(b"cut")
    with refused("model.safetensors"):
        preview(replace(preset, policy=replace(preset.policy, path=str(tmp_path / "nano"))))
