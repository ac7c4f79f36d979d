"""Objectives of one's own: found by name, in files and modules; their source kept, and told from another."""
import linecache
import runpy
import textwrap
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from nft_jax.config import Config, ObjectiveConfig, TermsConfig
from nft_jax.objectives.custom import adopt, find, settings_of
from nft_jax.objectives.registry import (
    METRICS,
    OBJECTIVES,
    Objective,
    coefficients,
    find_objective,
    resolve,
    token_loss,
    try_objective,
)
from nft_jax.objectives.source import FILE, digest_of, record_of
from nft_jax.record.claim import claimed
from nft_jax.record.folder import MARKER, OBJECTIVE_SOURCE
from nft_jax.train.plan import settle
from refusal import refused

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
    with refused("reads", "epsilom", "epsilon"):
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
        with refused("objective", repr(nothing)):
            adopt(nothing)


def test_files_and_modules(write):
    path = write(LOSS)
    values, _ = token_loss(f"{path}:loss", *ARGUMENTS)
    np.testing.assert_allclose(values, [[3.0, 6.0]])
    assert find(f"{path}:loss") is find(f"{path}:loss")
    assert find("nft_jax.objectives.registry:nft") is find_objective("nft").function
    for name in (f"{path}:nothing", f"{path}:unused", "missing.py:loss", "missing.module:loss", "mine"):
        with refused("objective", name.rpartition(":")[0]):
            settle(Config(objective=name))


def test_of_a_module_the_whole_source_is_kept(write):
    changed = LOSS.replace("SHARPNESS = 3", "SHARPNESS = 4")
    records = [record_of(f"{write(text)}:loss") for text in (LOSS, LOSS, changed)]
    assert records[0] == records[1] != records[2] and "unused = 7" in records[0] and record_of("nft") == ""


@pytest.mark.parametrize(("old", "new", "same"), [
    ("-rewards", "rewards", False), ("SHARPNESS = 3.0", "SHARPNESS = 4.0", False), ("SHARPNESS * x", "x", False),
    ("DECAY = 1", "DECAY = 2", False), ("TABLE[1]", "TABLE[0]", False),
    ("TABLE = np.arange(3)", "TABLE = np.ones(3)", False),
    ("unused = 7", "unused = 8", True), ("    unused", "    def other():\n        return 1\n\n    unused", True)])
def test_of_a_script_all_that_the_function_uses_is_kept(write, old, new, same):
    """A helper's body and the values that they read, not what the script does beside: it starts the run."""
    script = LOSS.replace("unused = 7", """
    DECAY = 1
    TABLE = np.arange(3)

    def outer(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras, decay=DECAY):
        return (lambda x: loss(x * TABLE[1], None, None, rewards, None, None, None))(logprobs)

    unused = 7
""")
    records = []
    for text in (script, script.replace(old, new)):
        names = runpy.run_path(write("import numpy as np\n" + textwrap.dedent(text)), run_name="__main__")
        linecache.checkcache()
        records.append(record_of(adopt(names["outer"])))
    assert (records[0] == records[1]) == same
    assert "def helper" in records[0] and "SHARPNESS = 3.0" in records[0] and "unused" not in records[0]


@pytest.mark.parametrize("other", [Objective(likelihood, clip_low=0.1), partial(likelihood, extras=(5,)),
                                   partial(likelihood, extras=np.ones(1))])
def test_the_settings_of_an_objective_count(other):
    assert len({record_of(adopt(each)) for each in (other, other, likelihood, Objective(likelihood))}) == 3


def test_a_changed_function_is_refused_and_fresh_starts_over(tmp_path, write):
    path = write(LOSS)
    config = settle(Config(workdir=str(tmp_path / "run"), objective=f"{path}:loss"))

    def claim(config=config, **options):
        with claimed(config, source_of(config), **options):
            pass

    def source_of(config):
        digest = digest_of(record_of(config.objective))[:16]
        return {OBJECTIVE_SOURCE: digest} if digest else {}

    for _ in range(2):
        claim()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    kept = (tmp_path / "run" / FILE).read_text()
    assert kept.startswith(f"# objective {path}:loss, sha256") and "def loss" in kept
    write(LOSS.replace("3.0", "3.5"))
    with refused(OBJECTIVE_SOURCE, digest_of(kept)[:16], "--fresh"):
        claim()
    assert (tmp_path / "run" / FILE).read_text() == kept
    # Runs of older versions have no marker. They kept the source, or some functions of it, or nothing.
    (tmp_path / "run" / MARKER).unlink()
    for older in (kept, f"# objective {path}:loss, sha256 of what follows 0\n", None):
        (tmp_path / "run" / FILE).unlink() if older is None else (tmp_path / "run" / FILE).write_text(older)
        with refused(OBJECTIVE_SOURCE, "--fresh"):
            claim()
    (tmp_path / "run" / FILE).write_text(kept)
    write(LOSS)
    claim()
    write(LOSS.replace("3.0", "3.5"))
    claim(fresh=True)
    assert "3.5" in (tmp_path / "run" / FILE).read_text()
    claim(replace(config, objective="nft"), fresh=True)
    assert not (tmp_path / "run" / FILE).exists()


def test_a_function_without_source_is_refused(tmp_path):
    names: dict = {"__name__": "nowhere"}
    exec("def lost(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras): return logprobs, {}", names)
    config = Config(workdir=str(tmp_path / "run"), objective=adopt(names["lost"]))
    with refused("objective", "lost", "source"), claimed(config, {}):
        pass
    assert not (tmp_path / "run").exists()


# ---- settings of its own, its own metrics, and mistakes in it ----------------------------------------------------


def tuned(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras, scale=1.0, *, flip: bool = False,
          power=2, kind="a"):
    loss = -rewards * scale * logprobs ** power
    return (-loss if flip else loss), {"scaled": loss, "deep/name of any kind": 3 * mask, "ratio": 0 * loss + 2}


def test_parameters_after_the_seven_are_settings():
    assert settings_of(tuned, "tuned") == {"scale": 1.0, "flip": False, "power": 2, "kind": "a"}
    assert settings_of(partial(tuned, scale=3.0), "tuned")["scale"] == 3.0
    assert all(settings_of(each.function, name) == {} for name, each in OBJECTIVES.items())
    resolved = resolve(tuned, ObjectiveConfig(own={"scale": 2, "flip": True}))
    assert len({ObjectiveConfig(own={"scale": 2, "flip": True}), ObjectiveConfig(own={"flip": True, "scale": 2})}) == 1
    assert resolved.own == {"scale": 2.0, "flip": True, "power": 2, "kind": "a"} and hash(resolved)
    assert type(resolved.own["scale"]) is float and resolve(tuned, resolved) == resolved
    plain, doubled = (token_loss(tuned, *ARGUMENTS, ObjectiveConfig(own=own))[0] for own in ({}, {"scale": 2.0}))
    np.testing.assert_allclose(plain, [[-1.0, -4.0]])
    np.testing.assert_allclose(doubled, 2 * plain)
    np.testing.assert_allclose(coefficients(tuned, *ARGUMENTS, ObjectiveConfig(own={"power": 1})), [[1.0, 1.0]])


@pytest.mark.parametrize(("objective", "own", "named"), [
    (tuned, {"scala": 1.0}, ("objective.scala", "1.0", "scale")), (tuned, {"power": 2.5}, ("objective.power", 2.5)),
    (tuned, {"flip": 1}, ("objective.flip", 1)), (tuned, {"scale": "x"}, ("objective.scale", "'x'")),
    (tuned, {"kind": True}, ("objective.kind", True)), ("nft", {"scale": 1.0}, ("objective.scale", "nft"))])
def test_settings_that_the_function_does_not_have_are_refused(objective, own, named):
    with refused(*named):
        resolve(objective, ObjectiveConfig(own=own))


def test_metrics_of_any_name_are_kept_and_are_0_outside_the_mask():
    logprobs, old, _, *rest = ARGUMENTS
    _, found = token_loss(tuned, logprobs, old, np.array([[1, 0]]), *rest)
    assert list(found) == [*METRICS, "scaled", "deep/name of any kind"]
    np.testing.assert_allclose(found["scaled"], [[-1.0, 0.0]])
    np.testing.assert_allclose(found["deep/name of any kind"], [[3.0, 0.0]])
    np.testing.assert_allclose(found["ratio"], [[2.0, 0.0]])


BROKEN = """
    def no_dict(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
        return -logprobs

    def too_much(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
        return -logprobs, {}, 0

    def two(logprobs, rewards):
        return -logprobs, {}

    def bare(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras, scale):
        return -logprobs, {}

    def listed(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras, scales=(1, 2)):
        return -logprobs, {}

    def absent(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
        return -logprobs * extras["reference_logprobs"], {}

    def numbered(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
        return -logprobs, {3: logprobs}

    def nowhere(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
        return logprobs / 0, {}

    def somewhere(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
        return logprobs / rewards, {}

    def untraced(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
        return -logprobs if float(rewards[0, 0]) else logprobs, {}
"""


@pytest.mark.parametrize(("function", "named"), [
    ("no_dict", ("returned an array (2, 8)", "{}")), ("too_much", ("a tuple of", "dict, int")),
    ("two", ("(logprobs, rewards)", "group_accuracy")), ("bare", ("scale", "no default")),
    ("listed", ("scales", "(1, 2)")), ("absent", ("line 18", "reference_logprobs", "entropies")),
    ("numbered", ("metrics", 3)), ("nowhere", ("finite", "nft_jax.token_loss")), ("untraced", ("line 30",))])
def test_a_mistake_in_it_is_told_before_anything_heavy(function, named, write):
    with refused("objective", *named):
        try_objective(f"{write(BROKEN)}:{function}", ObjectiveConfig(), reference=False)


def test_what_training_gives_is_what_it_is_tried_with(write):
    name = f"{write(BROKEN)}:absent"
    try_objective(name, ObjectiveConfig(), reference=True)
    try_objective(name.replace("absent", "somewhere"), ObjectiveConfig(), reference=False)
    try_objective("nft", ObjectiveConfig(own={"never": 1}), reference=False)       # of this package: not called


SCRIPT = """
    import math
    import numpy as np
    import jax.numpy as jnp
    from functools import partial as bound
    from jax.nn import sigmoid
    from nft_jax.objectives.registry import Objective

    TABLE = np.arange(3.0) + 1
    NAME, RATE = "x", math.pi
    print("the script starts a run")

    class Gate:
        height = RATE
        def __call__(self, x):
            return self.height * sigmoid(x)

    def times(x, factor):
        return factor * x

    double = bound(times, factor=2.0)

    def closure(power):
        def inner(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras, *, scale=RATE):
            return -rewards * scale * double(Gate()(logprobs)) ** power * TABLE[1], {"ratio": jnp.exp(logprobs)}
        return inner

    plain = closure(3)
    wrapped = Objective(plain, reads=("beta",), clip_low=0.1)
    held = bound(plain, scale=5.0)
"""


@pytest.mark.parametrize("name", ["plain", "wrapped", "held"])
def test_what_is_kept_of_a_script_runs_by_itself(name, write, tmp_path, capsys):
    path = write(SCRIPT)
    given = runpy.run_path(path, run_name="__main__")[name]
    capsys.readouterr()
    kept = tmp_path / "objective.py"
    kept.write_text(record_of(adopt(given)))
    again = find(f"{kept}:inner")
    assert capsys.readouterr().out == "" and "starts a run" not in kept.read_text()
    assert find_objective(again).reads == find_objective(given).reads
    for mine, theirs in zip(token_loss(given, *ARGUMENTS), token_loss(again, *ARGUMENTS), strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_one_loss_for_a_whole_group_takes_no_mismatch_weights():
    with refused("terms.mismatch", "token", "dpo"):
        settle(Config(objective="dpo", terms=TermsConfig(mismatch="token")))
