"""The parts of a table: stops at any part, sizes that are chosen once, tables that are refused."""
import shutil

import numpy as np
import pytest

from nft_jax.record.parts import Parts
from nft_jax.record.rollouts import table_to_groups
from tests.support.made import make_group
from tests.support.refusal import refused

SETTINGS = {"seed": 0, "stop": ("!",)}
GROUPS = [make_group(i, (1, 0), rng=np.random.default_rng(i), old=False) for i in range(5)]
PROMPTS = [group.prompt for group in GROUPS]


class Stopped(Exception):
    """Stands for a kill."""


def answer(prompts):
    return [GROUPS[prompt.index] for prompt in prompts]


def begin(out, **changes):
    """A table of parts of two questions, claimed."""
    parts = Parts(out, SETTINGS | changes, judged=True)
    assert not parts.finished
    assert parts.claim(lambda: {"part_prompts": 2}) == {"part_prompts": 2}
    return parts


@pytest.fixture
def whole(tmp_path):
    """A table that nothing happened to."""
    parts = begin(tmp_path / "whole.parquet")
    parts.fill(PROMPTS, 2, answer, lambda part, count: None)
    return parts


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_after_a_stop_only_the_missing_parts_are_made_and_the_bytes_are_the_same(whole, tmp_path, stop):
    out, made, told = tmp_path / "out.parquet", [], []

    def until_the_stop(prompts):
        if len(made) == stop:
            raise Stopped
        made.append(prompts)
        return answer(prompts)

    parts = begin(out)
    with pytest.raises(Stopped):
        parts.fill(PROMPTS, 2, until_the_stop, lambda part, count: None)
    assert parts.done(PROMPTS, 2) == 2 * stop and not out.exists()
    again = begin(out)
    again.fill(PROMPTS, 2, answer, lambda *part: told.append(part))
    assert told == [(part, 3) for part in range(stop, 3)]
    assert out.read_bytes() == whole.out.read_bytes() and not again.folder.exists()


def test_the_table_holds_the_groups_in_the_order_of_the_prompts(whole):
    import pyarrow.parquet as pq
    found = table_to_groups(pq.read_table(whole.out))
    assert [group.prompt.index for group in found] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(found[3].rollouts[1].tokens, GROUPS[3].rollouts[1].tokens)


def test_a_finished_table_is_known_again_and_parts_that_a_kill_left_beside_it_go(whole):
    whole.folder.mkdir()
    (whole.folder / "part_000000.parquet").write_bytes(b"")
    assert Parts(whole.out, SETTINGS, judged=True).finished and not whole.folder.exists()


def test_what_was_chosen_at_the_first_start_is_not_chosen_again(tmp_path):
    parts = Parts(tmp_path / "answers.parquet", SETTINGS)
    assert parts.claim(lambda: {"slots": 7}) == {"slots": 7}
    assert parts.claim(lambda: pytest.fail("asked again")) == {"slots": 7}


def test_other_settings_are_refused_by_name_in_the_table_and_in_its_parts(whole, tmp_path):
    with refused("whole.parquet", "seed: 0 there, 3 now"):
        _ = Parts(whole.out, SETTINGS | {"seed": 3}).finished
    parts = begin(tmp_path / "out.parquet")
    with refused("out.parquet.parts", "stop", "'!'"):
        Parts(parts.out, SETTINGS | {"stop": ()}).claim(lambda: pytest.fail("chosen"))


def test_a_table_of_another_command_and_a_place_that_cannot_be_written_are_refused(whole, tmp_path):
    import pyarrow.parquet as pq
    other = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(whole.out).replace_schema_metadata(None), other)
    (tmp_path / "text.parquet").write_text("mine")
    for out in (other, tmp_path / "text.parquet"):
        with refused("--out", out):
            _ = Parts(out, SETTINGS).finished
        with refused("--out", out):
            Parts.begun(out)
    file = tmp_path / "file"
    shutil.copy(other, file)
    with refused("--out", "answers.parquet"):
        Parts(file / "answers.parquet", SETTINGS).claim(dict)
