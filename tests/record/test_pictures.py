"""Figures: one look for an objective wherever it stands, readable in grey, with axes that do not mislead."""
import colorsys
import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image

from nft_jax.objectives import registry
from nft_jax.record import pictures
from nft_jax.record.pictures import (
    Look,
    canvas,
    contrast,
    curve,
    describe,
    draw_curves,
    label_ends,
    looks,
    scale,
    widen_covered,
)
from nft_jax.types import OUTCOMES


def test_every_objective_and_outcome_has_colours_that_stand_out():
    assert list(pictures.OBJECTIVES) == list(registry.OBJECTIVES) and tuple(pictures.OUTCOMES) == OUTCOMES
    found = looks(pictures.OBJECTIVES)
    assert len({(look.light, look.dash) for look in found}) == len(found)
    for light, dark in (*(look[:2] for look in found), *pictures.OUTCOMES.values(), pictures.OWN):
        assert contrast(light, "#ffffff") >= 4.5 and contrast(dark, "#14171a") >= 4.5
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(
        4.478, abs=1e-3)


def test_an_objective_looks_the_same_in_every_figure():
    alone = dict(zip(pictures.OBJECTIVES, looks(pictures.OBJECTIVES), strict=True))
    assert looks(["grpo", "mine.py:forks", "nft"]) == [alone["grpo"], Look(*pictures.OWN, 0, 6), alone["nft"]]
    assert looks(["a.py:forks"]) == looks(["b.py:other"])


@given(st.integers(2, 9), st.sampled_from(["nft", "dpo", "a.py:forks"]))
def test_experiments_of_one_objective_are_shades_of_it(count, objective):
    """In grey too: each is darker on white, and lighter on black, than the one before."""
    found = looks([objective] * count + ["rft"])
    for place, back in ((0, "#ffffff"), (1, "#14171a")):
        contrasts = [contrast(look[place], back) for look in found[:count]]
        assert contrasts == sorted(contrasts) and len(set(contrasts)) == count and contrasts[0] >= 4.5
        # Of one hue, on the colour wheel.
        hues = {colorsys.rgb_to_hsv(*to_rgb(look[place]))[0] for look in found[:count]}
        assert max(hues) - min(hues) < 0.04
    assert all(a.dash != b.dash and a.marker != b.marker for a, b in pairwise(found[:count]))


@given(st.lists(st.floats(0, 300), min_size=1, max_size=9), st.floats(1, 20))
def test_names_move_apart_and_no_more_than_they_must(places, gap):
    places = np.sort(places)
    found = pictures.apart(places, gap)
    assert (np.diff(found) >= gap - 1e-6).all() and found.mean() == pytest.approx(places.mean(), abs=1e-6)
    if (np.diff(places) >= gap).all():
        np.testing.assert_allclose(found, places, atol=1e-9)


def test_a_small_change_looks_small():
    _, (share, entropy, loss) = canvas(1, 3, (9, 3))
    for axes, values in ((share, [1.0, 0.97, 1.0]), (entropy, [0.2, 0.19, 0.2]), (loss, [-0.1, 0.1, 0.0])):
        curve(axes, [1, 2, 3], np.array(values), looks(["nft"])[0], "nft", half=np.full(3, 0.3))
        scale(axes, share=axes is share)
    assert share.get_ylim()[0] == entropy.get_ylim()[0] == 0 and loss.get_ylim()[0] < -0.1
    assert share.yaxis.get_major_formatter()(0.5) == "50%"
    assert all(float(tick).is_integer() for tick in share.get_xticks())
    _, (rare,) = canvas(1, 1, (3, 3))
    curve(rare, [1, 2], np.array([0, 0.001]), looks(["nft"])[0], "nft")
    scale(rare, share=True)
    assert rare.get_ylim()[1] >= 0.1                       # one answer of a thousand is no peak


@pytest.mark.parametrize("high", [0.08, 0.13, 0.2, 0.27, 0.6, 1.0])
def test_the_labels_of_shares_are_their_values(high):
    figure, (axes,) = canvas(1, 1, (5, 3), "")
    curve(axes, [0, 10], [0, high], looks(["nft"])[0], "nft")
    scale(axes, share=True)
    figure.canvas.draw()
    told = {tick: label.get_text() for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    assert len(told) > 3 and all(float(text.rstrip("%")) == pytest.approx(100 * tick) for tick, text in told.items())


def test_curves_carry_their_names_and_no_legend_hides_them():
    figure, (axes,) = canvas(1, 1, (4, 3), "title")
    for index, look in enumerate(looks(["nft", "rft", "grpo"])):
        curve(axes, range(40), np.full(40, 0.5 + index / 1000), look, f"name {index}")
    describe(axes, "Accuracy", "unit", "step")
    scale(axes, share=True)
    label_ends(axes)
    names = {text.get_text(): text for text in axes.texts if text.get_text().startswith("name")}
    assert list(names) == ["name 0", "name 1", "name 2"] and axes.get_legend() is None
    heights = [text.get_position()[1] for text in names.values()]
    assert heights == sorted(heights) and min(np.diff(heights)) > 0.02
    assert [text.get_color() for text in names.values()] == [look.light for look in looks(["nft", "rft", "grpo"])]
    image = Image.open(io.BytesIO(figure._repr_png_()))
    assert image.size == (800, 600)                        # 4 by 3 inches at twice a page's 100 pixels
    figure.draw_without_rendering()
    ends = [text.get_window_extent().x1 for text in names.values()]
    assert max(ends) <= figure.bbox.x1


def test_an_early_end_has_its_name_beside_it_unless_another_curve_is_there():
    looks_of_three = looks(["nft", "rft", "grpo"])

    def named(short):
        _, (axes,) = canvas(1, 1, (6, 3))
        curve(axes, range(40), np.linspace(0, 1, 40), looks_of_three[0], "long")
        curve(axes, range(10), short, looks_of_three[1], "short")
        label_ends(axes)
        return {text.get_text(): (text.get_position()[0], text.arrow_patch) for text in axes.texts}

    # A run that broke off: the end is its last finite point.
    broken = named(np.array([0.9] * 9 + [np.nan]))
    assert broken["short"][0] < 0.3 and named(np.full(10, np.nan)) == {}
    free, crossed = named(np.full(10, 0.9)), named(np.linspace(0, 0.27, 10))
    assert 0.2 < free["short"][0] < 0.3 and free["short"][1] is None and free["long"][0] == 1
    assert crossed["short"][0] == 1 and crossed["short"][1] is not None        # a leader, thin and grey


def test_curves_that_lie_on_one_another_are_all_seen():
    _, (axes,) = canvas(1, 1, (6, 3))
    for look, height in zip(looks(["nft", "nft", "nft", "grpo"]), (0.5, 0.501, 0.5, 0.9), strict=True):
        curve(axes, range(9), np.full(9, height), look, str(height))
    scale(axes, share=True)
    widen_covered(axes)
    widths = [line.get_linewidth() for line in axes.get_lines()]
    assert widths[0] > widths[1] > widths[2] == widths[3]


def test_curves_of_a_run_are_drawn(tmp_path):
    rows = [{"step": s, "accuracy/all": s / 9, "entropy/all": None} for s in range(9)]
    draw_curves(rows, tmp_path / "curves.tmp", "run", "my_losses.py:forks")
    image = Image.open(tmp_path / "curves.tmp")
    assert image.format == "PNG" and image.size == (1800, 1200)
    draw_curves([], tmp_path / "none.png", "run", "nft")
