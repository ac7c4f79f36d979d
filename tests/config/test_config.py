"""The settings: contradictions are refused, and every field is read by the code it steers."""
import dataclasses
import sys

import numpy as np
import pytest

from nft_jax import config as config_module
from nft_jax.config import (
    AdapterConfig,
    BatchConfig,
    Config,
    DataConfig,
    MeshConfig,
    ObjectiveConfig,
    RolloutConfig,
    TermsConfig,
)
from refusal import refused
from runs import use_devices

CLASSES = [value for value in vars(config_module).values() if dataclasses.is_dataclass(value)]


@pytest.mark.parametrize(("room", "field", "value"), [
    ("rollout", "top_p", 0), ("rollout", "min_p", 1), ("rollout", "stop", ("",)), ("rollout", "slots", -1),
    ("rollout", "samples_per_prompt", 1), ("rollout", "temperature", 0), ("data", "template", "no place"),
    ("loss", "epsilon", -1), ("loss", "epsilon", float("inf")), ("loss", "constant_length", 0),
    ("loss", "neg_weight", -1), ("loss", "neg_weight", float("nan")), ("loss", "clip_high", -1), ("loss", "beta", 0),
    ("rollout", "tokens_per_step", -1), ("rollout", "ema", 1.0), ("rollout", "ema", -0.1),
    ("loss", "all_wrong", float("inf")),
    ("loss", "tau_negative", 0), ("loss", "nll_weight", -1), ("loss", "psr_weight", -1),
    ("checkpoint", "best", "loss"), ("checkpoint", "keep_every", 25), ("terms", "kl_weight", -1),
    ("terms", "kl_weight", float("inf")), ("terms", "entropy_weight", -1), ("terms", "mismatch_cap", 0.5),
])
def test_values_are_refused(room, field, value):
    with refused(f"{room}.{field} is {value!r}"):
        type(getattr(Config(), room))(**{field: value})


@pytest.mark.parametrize(("fields", "told"), [
    ({"rollout": RolloutConfig(answers="a.jsonl"), "loss": ObjectiveConfig(all_wrong=0.5)}, "loss.all_wrong is 0.5"),
    ({"rollout": RolloutConfig(answers="a.jsonl"), "data": DataConfig(order="accuracy")}, "data.order is 'accuracy'"),
    ({"mesh": MeshConfig(context=7)}, "mesh.context is 7"), ({"steps": 0}, "steps is 0"),
    ({"writers": ("paper",)}, "writers is ('paper',)"), ({"writers": ("wandb", "wandb")}, "writers is ('wandb',"),
    ({"batch": BatchConfig(row_length=100)}, "batch.row_length is 100"),
    ({"terms": TermsConfig(mismatch="token"), "rollout": RolloutConfig(old_logprobs="sampler")},
     "terms.mismatch is 'token'"),
])
def test_contradictions_are_refused(fields, told):
    with refused(told):
        Config(**fields)


def test_one_axis_takes_the_devices_that_are_left():
    with refused("mesh is (-1, -1, 1, 1)"):
        MeshConfig(data=-1, fsdp=-1)


def test_a_budget_is_for_sampled_answers_that_may_be_longer():
    with refused("rollout.tokens_per_step", 8):
        RolloutConfig(answers="a.jsonl", tokens_per_step=8)
    for tokens, budget, begun in ((0, 0, 0), (1, 1, 47), (47, 47, 47), (48, 0, 0), (99, 0, 0)):
        rollout = RolloutConfig(max_new_tokens=48, tokens_per_step=tokens)
        assert (rollout.budget, rollout.begun_tokens) == (budget, begun)


def test_choices():
    assert RolloutConfig(top_p=0.9, old_logprobs="truncated").truncates
    assert Config(data=DataConfig(max_prompt_tokens=10), rollout=RolloutConfig(max_new_tokens=60)).row_length == 128
    assert Config(name="x").folder == "runs/x" and Config(workdir="y").folder == "y"


def test_every_field_has_help():
    """The string under a field."""
    import ast
    import inspect
    for node in (ast.parse(inspect.getsource(each)).body[0] for each in CLASSES):
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and "Config" not in ast.unparse(field.annotation):
                told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert told, f"{node.name}.{field.target.id}"


@pytest.fixture
def reads(monkeypatch):
    """(class, field) pairs that code of the package reads, traced at run time. Reading all fields of a class in
    a loop (to write, compare or complete a configuration) does not count."""
    seen = set()
    for each in CLASSES:
        names = {field.name for field in dataclasses.fields(each)}

        def trace(self, name, each=each, names=names):
            if name in names:
                frame = sys._getframe(1)
                module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
                if module.startswith("nft_jax") and function not in ("__post_init__", "require", "require_least"):
                    seen.add((each.__name__, name))
            return object.__getattribute__(self, name)

        monkeypatch.setattr(each, "__getattribute__", trace)
    return seen


def test_every_field_is_read(reads, tmp_path, small_run, monkeypatch):
    from nft_jax.objectives.registry import token_loss
    from nft_jax.train.loop import train
    use_devices(monkeypatch)
    nft = small_run(tmp_path / "nft")
    train(nft, quiet=True)
    train(dataclasses.replace(
        nft, workdir=str(tmp_path / "dapo"), objective="dapo", steps=1,
        loss=ObjectiveConfig(overlong_buffer=8, std_ddof=1), terms=TermsConfig(0.1, mismatch="token")), quiet=True)
    one = np.ones((1, 1), np.float32)
    for name in ("dpo", "sapo", "w_reinforce"):
        token_loss(name, -one, -one, one, one[0], one[0] / 2, extras={"group_ids": np.zeros(1, int)})
    monkeypatch.chdir(tmp_path)
    train(dataclasses.replace(nft, workdir="", name="named", steps=1, adapter=AdapterConfig(2)), quiet=True)
    rooms = [Config] + [type(room) for room in vars(Config()).values() if dataclasses.is_dataclass(room)]
    fields = {(room.__name__, field.name) for room in rooms for field in dataclasses.fields(room)}
    assert fields - reads == set()
