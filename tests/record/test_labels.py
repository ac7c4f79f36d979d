"""What runs are called beside each other: by a label, their folder, or what tells experiments apart."""
import pytest

from made import make_run
from nft_jax.record.folder import read_run
from nft_jax.record.labels import experiments_named, folder_names, split_label
from refusal import refused


def test_a_label_stands_before_a_folder_and_a_folder_may_have_its_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "epsilon=0.1,seed=0").mkdir()
    assert split_label("no clamp=runs/a=b") == ("no clamp", "runs/a=b")
    for path in ("epsilon=0.1,seed=0", "epsilon=*", "runs/epsilon=0.5", "runs/a", "=a", "a=", str(tmp_path / "a=b")):
        assert split_label(path) == ("", path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of NFT, NFT with another epsilon, GRPO."""
    folder = tmp_path_factory.mktemp("runs")
    return [read_run(make_run(folder / name, steps=0, **fields)) for name, fields in
            {"a": {}, "b": {"seed": 1}, "c": {"loss__epsilon": 0.1}, "d": {"objective": "grpo"}}.items()]


def test_experiments_are_called_by_labels_folders_or_what_differs(runs):
    assert experiments_named(runs) == [("nft, epsilon 1", [0, 1]), ("nft, epsilon 0.1", [2]), ("grpo", [3])]
    assert experiments_named(runs[1:]) == [("b", [0]), ("c", [1]), ("d", [2])]
    assert experiments_named(runs, ["x", "x", "", "y"]) == [("x", [0, 1]), ("c", [2]), ("y", [3])]
    assert experiments_named(runs, ["", "x", "", ""]) == [("a", [0]), ("x", [1]), ("c", [2]), ("d", [3])]
    assert experiments_named(runs[:2], ["first", "second"]) == [("first", [0]), ("second", [1])]
    assert experiments_named(runs[:1]) == [("a", [0])] and experiments_named(runs[:2]) == [("run", [0, 1])]


def test_a_label_means_one_experiment(runs):
    with refused("label", "x", "loss.epsilon"):
        experiments_named(runs, ["x", "", "x", ""])
    with refused("label", "d", str(runs[3].folder)):
        experiments_named(runs, ["d", "", "", ""])


def test_folders_are_told_apart_by_as_little_of_their_paths_as_possible(tmp_path):
    runs = [read_run(make_run(tmp_path / name, steps=0)) for name in ("x/a", "y/a", "y/b")]
    assert folder_names(runs) == ["x/a", "y/a", "y/b"] and folder_names(runs[1:]) == ["a", "b"]
