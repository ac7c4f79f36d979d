"""Objectives of one's own: found by name, in files and modules; their source kept, and told from another."""
import textwrap
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from nft_jax.config import Config, TermsConfig
from nft_jax.objectives.custom import FILE, adopt, find, source_of
from nft_jax.objectives.registry import Objective, find_objective, token_loss
from nft_jax.record.folder import claimed
from nft_jax.train.plan import settle
from nft_jax.types import InputError

SCALE = 2.0
ARGUMENTS = (np.float32([[-1.0, -2.0]]), np.float32([[-1.5, -2.0]]), np.ones((1, 2)), np.ones(1), np.float32([0.5]))


def scaled(logprobs):
    return SCALE * logprobs


def likelihood(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    return -rewards * scaled(logprobs), {}


@pytest.fixture
def write(tmp_path):
    """`write(text)`: mine.py with it; its path."""
    def make(text: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(textwrap.dedent(text))
        return str(path)

    return make


LOSS = """
    SHARPNESS = 3.0

    def helper(x):
        return SHARPNESS * x

    def loss(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
        return -rewards * helper(logprobs), {}

    unused = 7
"""


def test_an_objective_reads_fields_that_there_are():
    with pytest.raises(InputError, match=r"reads has 'epsilom', which is no field of ObjectiveConfig: .*epsilon"):
        Objective(likelihood, reads=("beta", "epsilom"))


def test_a_function_is_found_by_the_name_that_it_got():
    name = adopt(likelihood)
    assert name == f"{__name__}:likelihood" and find(name) is likelihood
    values, _ = token_loss(name, *ARGUMENTS)
    np.testing.assert_allclose(values, [[2.0, 4.0]])
    objective = Objective(likelihood, whole_groups=True)
    assert adopt(objective) == name and find_objective(name) is objective        # the cell was run again
    for other in (jax.jit(likelihood), partial(likelihood)):
        assert adopt(other) == name and find(name) is other
    assert settle(Config(objective=name)).loss.prompt_weight == "1-r"
    for nothing in ("nft", 3, np.sum.__class__):
        with pytest.raises(InputError, match=r"objective is .*give a function"):
            adopt(nothing)


def test_files_and_modules(write):
    path = write(LOSS)
    values, _ = token_loss(f"{path}:loss", *ARGUMENTS)
    np.testing.assert_allclose(values, [[3.0, 6.0]])
    assert find(f"{path}:loss") is find(f"{path}:loss")
    assert find("nft_jax.objectives.registry:nft") is find_objective("nft").function
    for name, told in ((f"{path}:nothing", "has no function"), (f"{path}:unused", "has no function"),
                       ("missing.py:loss", "no file 'missing.py'"), ("missing.module:loss", "cannot be imported"),
                       ("mine", "there is none of this name")):
        with pytest.raises(InputError, match=told) as error:
            settle(Config(objective=name))
        assert str(error.value).startswith("objective")


@pytest.mark.parametrize(("old", "new", "same"), [
    ("-rewards", "rewards", False), ("SHARPNESS = 3.0", "SHARPNESS = 4.0", False), ("SHARPNESS * x", "x", False),
    ("unused = 7", "unused = 8", True), ("    unused", "    def other():\n        return 1\n\n    unused", True)])
def test_the_source_is_all_that_decides(write, old, new, same):
    """A helper's body and a number that it reads, not what the objective never looks at."""
    sources = [source_of(f"{write(text)}:loss") for text in (LOSS, LOSS.replace(old, new))]
    assert (sources[0] == sources[1]) == same
    assert "def helper" in sources[0] and "# SHARPNESS = 3.0" in sources[0] and "unused" not in sources[0]


def test_what_a_function_closes_over_counts():
    def make(weight, table=(1, 2), *, power=1):
        def inner(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras, table=table):
            return -weight * (lambda x: SCALE * x ** power)(logprobs), {}
        return inner

    def source(objective):
        return source_of(adopt(objective))

    assert source(make(1.0)) == source(make(1.0)) and "# SCALE = 2.0" in source(make(1.0))
    others = [make(2.0), make(1.0, (1, 3)), make(1.0, power=2), make(np.float32([1.0])), make(np.float32([2.0])),
              Objective(make(1.0), clip_low=0.1), partial(make(1.0), table=(5,))]
    assert len({source(each) for each in [make(1.0), *others]}) == len(others) + 1


def test_a_changed_function_is_refused_and_fresh_starts_over(tmp_path, write):
    path = write(LOSS)
    config = settle(Config(workdir=str(tmp_path / "run"), objective=f"{path}:loss"))
    for _ in range(2):
        with claimed(config, fresh=False):
            pass
    kept = (tmp_path / "run" / FILE).read_text()
    assert kept.startswith(f"# objective {path}:loss, sha256") and "def loss" in kept
    write(LOSS.replace("3.0", "3.5"))
    with pytest.raises(InputError, match=r"whose source is not that of the run .*objective.py.*--fresh"), \
            claimed(config, fresh=False):
        pass
    assert (tmp_path / "run" / FILE).read_text() == kept
    with claimed(config, fresh=True):
        assert "3.5" in (tmp_path / "run" / FILE).read_text()
    with claimed(replace(config, objective="nft"), fresh=True):
        assert not (tmp_path / "run" / FILE).exists()


def test_a_function_without_source_is_refused(tmp_path):
    names: dict = {"__name__": "nowhere"}
    exec("def lost(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras): return logprobs, {}", names)
    config = Config(workdir=str(tmp_path / "run"), objective=adopt(names["lost"]))
    with pytest.raises(InputError, match="Python has no source of the function 'lost'"), claimed(config, fresh=False):
        pass
    assert not (tmp_path / "run").exists()


def test_one_loss_for_a_whole_group_takes_no_mismatch_weights():
    with pytest.raises(InputError, match=r"terms.mismatch is 'token': dpo is one loss for a whole group"):
        settle(Config(objective="dpo", terms=TermsConfig(mismatch="token")))
