"""What is decided when a run is opened."""
from dataclasses import replace

import jax
import pytest

from nft_jax.config import EvaluationConfig, MeshConfig, RolloutConfig
from nft_jax.parallel import make_mesh
from nft_jax.train import run
from nft_jax.train.programs import truncations


def test_automatic_slots_stay_what_they_were_when_the_run_began(small_run, tiny_model, tmp_path, monkeypatch):
    """Whatever memory is free when it goes on; not after --fresh, and not where a number is asked for."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    automatic = small_run(tmp_path, rollout=RolloutConfig(max_new_tokens=32, slots=0))
    free = {"slots": 24}
    monkeypatch.setattr(run, "settle_slots", lambda config, *_: replace(
        config, rollout=replace(config.rollout, slots=free["slots"])))
    first, note = run.choose_slots(automatic, tiny_model, mesh, fresh=False)
    assert first.rollout.slots == 24 and "free memory" in note
    run.claim_folder(run.Path(automatic.folder), first, fresh=False)
    free["slots"] = 16
    again, note = run.choose_slots(automatic, tiny_model, mesh, fresh=False)
    assert again == first and "as the run began" in note
    assert run.choose_slots(automatic, tiny_model, mesh, fresh=True)[0].rollout.slots == 16
    asked = replace(automatic, rollout=replace(automatic.rollout, slots=8))
    assert run.choose_slots(asked, tiny_model, mesh, fresh=False) == (asked, "")


@pytest.mark.parametrize(("changes", "expected"), [({}, [False]), ({"top_p": 0.9}, [False, True]),
                                                   ({"min_p": 0.1}, [False, True])])
def test_evaluation_compiles_the_sampling_that_it_asks_for(small_run, tmp_path, changes, expected):
    config = small_run(tmp_path, evaluation=EvaluationConfig(source="arithmetic", **{"top_p": 1.0, **changes}))
    assert truncations(config) == expected
