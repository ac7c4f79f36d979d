"""Countdown: its reward against hostile text, its solutions against sympy and a published count, its worked answers."""
import itertools
import random
import re
from fractions import Fraction
from itertools import islice

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import nft_jax
from experiments.nano import countdown, countdown_base
from nft_jax.config import VerifierConfig
from nft_jax.types import Halted
from nft_jax.verify import Verifier

PROBLEM = "2,3,5,7=24"


def boxed(text: str) -> str:
    return f"5-2=3;\\boxed{{{text}}}"


@pytest.mark.parametrize(("response", "reward"), [
    (boxed("(5+7)*(3-2+1)"), 0), (boxed("3*(7-2)+5"), 0), (boxed("(5-3)*(7*2-2)"), 0),
    (boxed("2*7+3*5"), 0), (boxed("(2+7)*3-5"), 0), (boxed("7*3+5-2"), 1), (boxed("5 - 2 + 7*3"), 1),
    (boxed("-(2-5)+(3*7)"), 1), ("\\boxed{1}; \\boxed{7*3+5-2}", 1), ("\\boxed{7*3+5-2}; \\boxed{1}", 0),
    # No box, an empty one, one that stays open, and one in a thought.
    ("7*3+5-2", 0), ("\\boxed{}", 0), ("\\boxed{7*3+5-2", 0), ("<think>\\boxed{7*3+5-2}", 0), ("", 0),
    # Numbers may be left out.
    (boxed("3*7"), 0), (boxed("3*7+5-2"), 1), (boxed("7*2+5*2"), 0), (boxed("2+7+3*5"), 1), (boxed("3*5+7"), 0),
    # The target itself, numbers that were not given, used twice or joined.
    (boxed("24"), 0), (boxed("8*3"), 0), (boxed("7*3+5-2+0"), 0), (boxed("7*3+5-2*1"), 0), (boxed("7*3+3"), 0),
    (boxed("7*3+5-2+7-7"), 0), (boxed("27-3"), 0), (boxed("7*3=21;21+5-2"), 0), (boxed("7*3+5-2=24"), 0),
    # What Python would read and we do not.
    (boxed("7*3+5-2**1"), 0), (boxed("7*3+5-2 if 1 else 0"), 0), (boxed("7*3+5--2"), 0), (boxed("7//2*3*5"), 0),
    (boxed("__import__('os')"), 0), (boxed("9**9**9**9"), 0), (boxed("1/0"), 0), (boxed("7*3+5-2.0"), 0),
    (boxed("٧*3+5-2"), 0), (boxed("07*3+5-2"), 0), (boxed("7*3+(5-2"), 0),
    (boxed("(" * 200 + "7*3+5-2" + ")" * 200), 0),
    (boxed("7*3+5-2" + " " * 100), 1), (boxed("7 *" + " " * 100 + "3+5-2"), 0), (boxed("7*3+5-2," * 10), 0),
])
def test_the_reward_is_exact_arithmetic_on_every_number_at_most_once(response, reward):
    assert countdown.reaches(PROBLEM, response, "") == reward


def test_values_are_fractions_and_not_floating_point():
    assert countdown.reaches("1,3,3=1", boxed("1/3*3"), "") == 1
    assert countdown.reaches("3,3,8,8=24", boxed("8/(3-8/3)"), "") == 1           # 23.999... in floating point
    assert countdown.reaches("3,3,8,8=24", boxed("8/(3-8/3)*1"), "") == 0
    assert countdown.reaches("3,4,8,8=32", boxed("4*8"), "") == countdown.reaches("3,4,8,8=64", boxed("8*8"), "") == 1
    assert countdown.reaches("3,4,7,8=64", boxed("8*8"), "") == 0


# ---- solutions -----------------------------------------------------------------------------------------------------

NUMBERS = {1: (11,), 2: (11, 23), 3: (11, 23, 57), 4: (11, 23, 57, 101)}


@pytest.mark.parametrize(("operands", "count"), [(1, 1), (2, 6), (3, 68), (4, 1170)])
def test_there_are_as_many_expressions_as_are_known(operands, count):
    """OEIS A140606: inequivalent expressions of n operands, each used once, with + - * /."""
    assert len(countdown.expressions(NUMBERS[operands])) == count


trees = st.permutations(("2", "3", "5", "7")).flatmap(lambda leaves: st.sampled_from([0, 1, 2, 3, 4]).flatmap(
    lambda shape: st.tuples(*[st.sampled_from("+-*/")] * 3).map(lambda s: (
        (s[0], (s[1], (s[2], leaves[0], leaves[1]), leaves[2]), leaves[3]),
        (s[0], (s[1], leaves[0], (s[2], leaves[1], leaves[2])), leaves[3]),
        (s[0], (s[1], leaves[0], leaves[1]), (s[2], leaves[2], leaves[3])),
        (s[0], leaves[0], (s[1], (s[2], leaves[1], leaves[2]), leaves[3])),
        (s[0], leaves[0], (s[1], leaves[1], (s[2], leaves[2], leaves[3]))))[shape])))


def exact(tree) -> Fraction | None:
    """Value of a tree; None where it divides by zero."""
    if isinstance(tree, str):
        return Fraction(tree)
    left, right = exact(tree[1]), exact(tree[2])
    if left is None or right is None or (tree[0] == "/" and right == 0):
        return None
    return countdown.OPERATIONS[tree[0]](left, right)


def symbolic(tree):
    if isinstance(tree, str):
        return sympy.Symbol(f"n{tree}")
    return countdown.OPERATIONS[tree[0]](symbolic(tree[1]), symbolic(tree[2]))


@given(trees)
def test_an_expression_is_written_as_its_tree_and_read_exactly(tree):
    text, value = countdown.infix(tree), exact(tree)
    found = countdown._boxed(boxed(text))
    assert (found and found[0]) == value
    if value is not None and value.denominator == 1 and value > 0:
        assert countdown.reaches(f"2,3,5,7={value}", boxed(text), "") == 1
        assert countdown.reaches(f"2,3,5,7={value + 1}", boxed(text), "") == 0
        assert int(countdown.solution("", boxed(text))) in countdown.expressions((2, 3, 5, 7))


@given(trees, trees)
@settings(max_examples=60)
def test_solutions_are_the_same_where_algebra_says_so(one, other):
    if exact(one) is None or exact(other) is None:
        return
    same = sympy.cancel(symbolic(one) - symbolic(other)) == 0
    assert (countdown.solution("", boxed(countdown.infix(one)))
            == countdown.solution("", boxed(countdown.infix(other)))) == same


@given(trees, st.integers(0, 99))
def test_order_makes_no_new_solution(tree, seed):
    if exact(tree) is not None:
        turned = countdown.turned(tree, random.Random(seed))
        assert exact(turned) == exact(tree)
        assert countdown.solution("", boxed(countdown.infix(turned))) == countdown.solution(
            "", boxed(countdown.infix(tree)))


@pytest.mark.parametrize(("one", "other", "same"), [
    ("7*3+5-2", "5-2+3*7", True), ("7*3+5-2", "7*3-(2-5)", True), ("(5-2)*(7-3)", "(2-5)*(3-7)", True),
    ("7*3/(5-2)", "7/((5-2)/3)", True), ("7*3+5-2", "7*3-5+2", False), ("2*(3+5)+7", "2*3+5+7", False)])
def test_what_counts_as_new(one, other, same):
    assert (countdown.solution("", boxed(one)) == countdown.solution("", boxed(other))) == same


def test_right_expressions_are_all_that_there_are():
    """Of one question, against every order, sign and bracket of two, three and four numbers."""
    found = set()
    for count in (2, 3):
        for leaves in itertools.permutations(map(str, (2, 3, 5, 7)), count):
            for a, b in itertools.product("+-*/", repeat=2):
                w, x, *y = leaves
                for tree in ((a, (b, w, x), y[0]), (a, w, (b, x, y[0]))) if y else ((a, w, x),):
                    if exact(tree) == 10:
                        found.add(countdown.solution("", boxed(countdown.infix(tree))))
    for leaves in itertools.permutations(map(str, (2, 3, 5, 7))):
        for a, b, c in itertools.product("+-*/", repeat=3):
            w, x, y, z = leaves
            for tree in ((a, (b, (c, w, x), y), z), (a, (b, w, (c, x, y)), z), (a, (b, w, x), (c, y, z)),
                         (a, w, (b, (c, x, y), z)), (a, w, (b, x, (c, y, z)))):
                if exact(tree) == 10:
                    found.add(countdown.solution("", boxed(countdown.infix(tree))))
    assert len(found) == len(countdown.right((2, 3, 5, 7), 10)) > 8


# ---- questions and worked answers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _small_universe():
    """Numbers up to 6: the whole universe takes ten seconds."""
    before, countdown.LARGEST = countdown.LARGEST, 6
    countdown.universe.cache_clear()
    yield
    countdown.LARGEST = before
    countdown.universe.cache_clear()


def test_questions_have_several_solutions_and_their_splits_are_disjoint():
    rows = {split: countdown.questions(split, 50) for split in ("base", "train", "heldout")}
    problems = {split: {row["problem"] for row in found} for split, found in rows.items()}
    assert all(len(found) == 50 for found in problems.values())
    assert not problems["train"] & problems["heldout"] and not problems["base"] & (
        problems["train"] | problems["heldout"])
    assert rows["train"] == countdown.questions("train", 50)
    assert all(len(countdown.right(*countdown.read(problem))) >= countdown.FEWEST for problem in problems["train"])


def test_worked_answers_are_right_true_in_every_step_and_of_every_style():
    made = list(islice(countdown.attempts(0), 600))
    seen = dict.fromkeys(countdown.STYLES, 0)
    for problem, response in made:
        assert countdown.reaches(problem, response, "") == 1
        assert len(response) <= countdown_base.COUNTDOWN.rollout.max_new_tokens
        working = response.partition("\\boxed")[0]
        for step in re.split("[,;]", working)[:-1]:
            left, right = step.split("=")
            assert eval(left) == eval(right)
        seen[countdown_base.style_of(response)] += 1
    assert all(100 < count < 200 for count in seen.values())
    by_question = {}
    for problem, response in islice(countdown.attempts(1), 4000):
        by_question.setdefault(problem, set()).add(countdown.solution(problem, response))
    assert max(map(len, by_question.values())) > 2


def test_the_reward_runs_in_workers():
    with Verifier(VerifierConfig(reward=countdown_base.COUNTDOWN.verifier.reward)) as pool:
        found = pool.judge([boxed("7*3+5-2"), boxed("24")], ["", ""], [PROBLEM] * 2)
        assert pool.reward.solution is countdown.solution
    assert [each.outcome for each in found] == ["right", "wrong"] and found[0].extracted == "7*3+5-2"


def test_the_study_makes_its_questions_and_its_base_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = []
    monkeypatch.setattr(countdown_base.subprocess, "run", lambda command, check: commands.append(command))
    countdown_base.prepare()
    assert [command[1:] for command in commands] == [["-m", "experiments.nano.countdown_base"]]
    rows = {split: (countdown_base.DATA / f"{split}.jsonl").read_text().splitlines() for split in ("train", "heldout")}
    assert rows["train"] and rows["heldout"] and not {*rows["train"]} & {*rows["heldout"]}
    countdown_base.BASE.mkdir()
    (countdown_base.BASE / countdown_base.LOG).write_text('{"round": 1}\n{"sha256": "0"}\n')
    countdown_base.prepare()
    assert len(commands) == 1


def test_the_base_is_made_in_rounds_and_goes_on(tmp_path, monkeypatch):
    """Tiny: rounds of one update. A base that stays wrong is refused, and its rounds are kept."""
    monkeypatch.setattr(countdown_base, "EXAMPLES", 8)
    monkeypatch.setattr(countdown_base, "ROWS", 8)
    monkeypatch.setattr(countdown_base, "MOST_ROUNDS", 1)
    folder = tmp_path / "base"

    def made() -> list[dict]:
        countdown_base.make(folder, updates=1, questions=4, samples=4)
        return countdown_base.read_log(folder)

    for _ in range(2):                                  # the second makes no round
        with pytest.raises(Halted) as ended:
            made()
        assert "MOST_ROUNDS" in str(ended.value) and "0.0%" in str(ended.value)
        assert not countdown_base.finished(countdown_base.read_log(folder))
    monkeypatch.setattr(countdown_base, "ENOUGH", 0.0)
    first, found = made()
    assert made() == [first, found]
    assert (first["round"], first["split"], found["split"]) == (1, "train", "heldout")
    assert len(found["sha256"]) == 64 and [*found["pass"]] == ["1", "2", "4"]
    assert sum(found["questions by tenths of right answers"]) == 4
    assert sum(share for share, _ in found["styles"].values()) == pytest.approx(1, abs=0.01)
    assert nft_jax.load(folder).config == nft_jax.load("nano").config
