"""What a notebook shows of a replay, from a step of 16 answers to a question, most of them right."""
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet as pq
import pytest

import nft_jax
from made import make_run
from nft_jax.record.rollouts import groups_to_table, table_to_groups
from nft_jax.report.views import both_kinds
from refusal import refused


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """NFT at ratios made by hand. Without a policy they would be 1, so the tokens are moved afterwards."""
    folder = make_run(tmp_path_factory.mktemp("made") / "run", rewards=((1,) * 13 + (0,) * 3, (1, 0, 0, 0)), steps=1)
    path = folder / "rollouts" / "step_000001.parquet"
    groups = [replace(group, old_logprobs=tuple(r.logprobs for r in group.rollouts))
              for group in table_to_groups(pq.read_table(path))]
    pq.write_table(groups_to_table(groups, frozenset({10, 11})), path)
    made = nft_jax.replay(path)
    rng = np.random.default_rng(0)

    def moved(answer):
        ratio = np.exp(rng.normal(0, 0.5 if answer.prompt_index == 10 else 0.01, len(answer.ids)))
        r = answer.group_accuracy
        x = (1 - r * ratio) / (1 - r)
        return replace(answer, logprobs=answer.old_logprobs + np.log(ratio), ratio=ratio, x=x, clamped=x < 1)

    return replace(made, answers=tuple(map(moved, made.answers)))


class Cells(HTMLParser):
    """The texts of table cells, the titles of tokens."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.titles = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "td":
            self.cells.append("")
        if tag == "span":
            self.titles.append(dict(attributes)["title"])

    def handle_data(self, text):
        if self.cells:
            self.cells[-1] += text


@pytest.mark.parametrize(("right", "wrong", "most", "shown"), [
    (13, 3, 8, (5, 3)), (8, 8, 8, (4, 4)), (1, 15, 8, (1, 7)), (15, 1, 8, (7, 1)), (2, 2, 8, (2, 2)),
    (9, 9, 5, (3, 2))])
def test_right_and_wrong_answers_are_shown_whatever_k_is(found, right, wrong, most, shown):
    one = found.answers[0]
    group = [replace(one, sample=i, reward=float(i >= wrong)) for i in range(right + wrong)]
    chosen = both_kinds(group, most)
    assert [answer.reward for answer in chosen] == [1.0] * shown[0] + [0.0] * shown[1]


def test_a_group_is_a_table_of_its_answers_with_every_token_s_numbers(found):
    """The group that moved most is the default; hostile tokens stay text."""
    view = found.group(colour="x")
    assert view.answers[0].prompt_index == 10 and view.count == 16 and "8 of 16 answers" in repr(view)
    cells = Cells(view._repr_html_())
    assert cells.cells[0::2] == ["1"] * 5 + ["0"] * 3
    for answer, text in zip(view.answers, cells.cells[1::2], strict=True):
        assert text.startswith("".join(answer.tokens))
    first = view.answers[0]
    assert len(cells.titles) == sum(len(answer.tokens) for answer in view.answers)
    assert cells.titles[0].startswith(f"R {first.ratio[0]:.3f}, x {first.x[0]:.3f}, coefficient")
    bad = replace(first, tokens=("<img src=x onerror=1>", *first.tokens[1:]))
    assert "<img" not in replace(view, answers=(bad,))._repr_html_()
    assert found.group(11).answers[0].prompt_index == 11 and len(found.group(11, "entropy").answers) == 4
    with refused("prompt_index", 5):
        found.group(5)
    with refused("colour", "blue"):
        found.group(colour="blue")
    with refused("most", 1):
        found.group(most=1)


def test_x_is_drawn_for_the_wrong_answer_whose_x_falls_lowest(found):
    figure = found.draw_x()
    lowest = min((answer for answer in found.answers if answer.reward == 0), key=lambda answer: answer.x.min())
    (axes,) = figure.axes
    drawn = {int(x): y for line in axes.get_lines() if line.get_marker() in ("o", "s")
             for x, y in zip(*line.get_data(), strict=True)}
    np.testing.assert_allclose([drawn[i] for i in range(len(lowest.x))], lowest.x)
    assert figure._repr_png_()[:4] == b"\x89PNG"
    with refused("prompt_index", 11):
        replace(found, answers=tuple(a for a in found.answers if a.reward == 1)).draw_x(11)


def test_x_and_entropies_are_columns_of_the_table(found):
    """x is what the implicit negative policy says: pi_minus = x pi_old."""
    table = found.table()
    expected = nft_jax.implicit_negative(table.logprobs.to_numpy(float), table.old_logprobs.to_numpy(float),
                                         table.group_accuracy.to_numpy(float))
    np.testing.assert_allclose(table.x * np.exp(table.old_logprobs), np.asarray(expected), rtol=1e-4, atol=1e-6)
    groups = table_to_groups(pq.read_table(found.path))
    entropies = {(r.prompt.index, r.sample): r.entropies for group in groups for r in group.rollouts}
    for answer in found.answers:
        np.testing.assert_array_equal(answer.entropies, entropies[answer.prompt_index, answer.sample])
