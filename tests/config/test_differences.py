"""In which settings runs differ, whoever asks."""
from nft_jax.config import Config
from nft_jax.config.differences import MAY_CHANGE, MISSING, described, differences, experiments_of, flat, without


def test_nested_and_flat_settings_in_their_order():
    a = {"seed": 0, "loss": {"epsilon": 1.0, "beta": 0.1}, "writers": ("x",)}
    b = {"seed": 1, "loss.epsilon": 0.5, "loss.beta": 0.1, "writers": ["x"], "new": None}
    assert differences(a, b) == {"seed": (0, 1), "loss.epsilon": (1.0, 0.5), "new": (MISSING, None)}
    assert list(differences(b, a, a)) == ["seed", "loss.epsilon", "new"]
    assert differences(a, a) == differences(a) == differences() == {} and repr(MISSING) == "(not known)"


def test_rooms_and_fields_are_ignored_by_their_whole_names():
    settings = {"mesh": {"data": 1}, "mesher": 1, "rollout": {"slots": 1, "slots_more": 1}}
    assert without(settings, ("mesh", "rollout.slots")) == {"mesher": 1, "rollout.slots_more": 1}
    assert differences(settings, {}, ignore=("mesh", "rollout", "mesher")) == {}


def test_what_may_change_is_in_the_configuration():
    names = flat(Config().to_dict())
    assert all(any(name == one or name.startswith(f"{one}.") for name in names) for one in MAY_CHANGE)


def test_settings_that_differ_in_seeds_and_speed_only_are_one_experiment():
    nft = flat(Config().to_dict())
    grpo = nft | {"objective": "grpo"}
    assert experiments_of([nft, nft | {"seed": 1, "data.seed": 1, "name": "other", "rollout.slots": 8}, grpo,
                           grpo | {"optimizer.learning_rate": 3e-5}]) == [
        ("nft", [0, 1]), ("grpo, learning_rate 1e-06", [2]), ("grpo, learning_rate 3e-05", [3])]
    assert experiments_of([nft]) == [("run", [0])]


def test_names_say_what_differs_and_nothing_else():
    nft = flat(Config().to_dict())
    own = nft | {"objective": "my_losses.py:forks"}
    grpo = {name: value for name, value in nft.items() if name != "loss.epsilon"} | {"objective": "grpo"}
    names = [name for name, _ in experiments_of([nft, nft | {"loss.epsilon": 0.1}, grpo, own])]
    assert names == ["nft, epsilon 1", "nft, epsilon 0.1", "grpo", "forks"]
    assert [name for name, _ in experiments_of([own, own | {"objective": "other.py:forks"}, own | {"steps": 9}])] == [
        "my_losses.py:forks, steps 320", "other.py:forks", "my_losses.py:forks, steps 9"]
    assert described({"data.limit": 5, "evaluation.limit": None, "loss.neg_weight": 0.5}) == (
        "data.limit 5, evaluation.limit None, neg_weight 0.5")
    assert described({"loss.epsilon": 1.0000001}) == "epsilon 1.0000001"
