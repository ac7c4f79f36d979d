"""Our scorers of n_queens, polynomial_multiplication and the two integration tasks: exact, and nothing is evaluated."""
import random
import re
from fractions import Fraction

import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nft_jax.config import DataConfig
from nft_jax.data.sources import read_rows
from nft_jax.types import InputError
from nft_jax.verify.rewards.gym import SCORERS, read_gold, score
from nft_jax.verify.rewards.gym_algebra import LENGTH, is_antiderivative, parse, polynomial

BOARD = ["_Q__", "___Q", "Q___", "__Q_"]
TASKS = ["n_queens", "polynomial_multiplication", "simple_integration", "intermediate_integration"]
HOSTILE = [
    "__import__('os').system('touch {canary}')", "open('{canary}','w')", "[open('{canary}','w') for _ in 'Q']",
    "exec(chr(111))", "lambda: x", "9**9**9**9", "x**9**9**9**9", "exp(exp(exp(exp(exp(99*x)))))",
    "((x**1000)**1000)**1000",
    "2**99**99", "(x+y+z+1)**100", "(" * 10 ** 5 + "x" + ")" * 10 ** 5, "(" * 900 + "x" + ")" * 900,
    "-" * 1999 + "x", "2**" * 600 + "x", "|" * 1500, "x+" * 500_000 + "x", "9" * 1_000_000, "Q _ " * 300_000,
    "\n" * 1_000_000 + "x", "1/0", "0**-1", "log(0)", "sqrt(-1)", "x.y", "x\u0662", "inf", "nan", "()", "x x", "",
]
BY_HAND = {
    "n_queens": {"metadata": {"puzzle": [list(row) for row in ["____", "___Q", "Q___", "____"]]}},
    "polynomial_multiplication": {"answer": "2*x**3*y - 3*x/2 + 7", "metadata": {}},
    "simple_integration": {"metadata": {"integrand": "5*X**4/7 - 3/2", "variable": "X"}},
    "intermediate_integration": {"metadata": {"integrand": "2*exp(x)*sin(x)", "variable": "x"}},
}


def board(rows):
    return "\n".join(" ".join(row) for row in rows)


@pytest.mark.parametrize(("answer", "expected"), [
    (board(BOARD), 1), ("\n".join(BOARD), 1), (board(BOARD) + "\n", 1), (board(BOARD[::-1]), 0),
    (board([row[::-1] for row in BOARD]), 0), (board(["_Q__", "___Q", "Q___", "____"]), 0),
    (board(["_Q__", "___Q", "Q___", "_Q__"]), 0), (board(["_Q__", "___Q", "Q___", "___Q"]), 0),
    (board(["__Q_", "___Q", "Q___", "_Q__"]), 0), (board(["_Q__", "___Q", "Q___", "_QQ_"]), 0),
    (board(BOARD[:3]), 0), (board([*BOARD, "____"]), 0), (board([*BOARD[:3], "__Q"]), 0), (str(BOARD), 0),
    (board(BOARD).replace("_", "."), 0), (" ".join(BOARD), 0),
])
def test_queens(answer, expected):
    assert SCORERS["n_queens"](answer, BY_HAND["n_queens"]) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("3*x**2 - x/2 + 1", {"xx": 3, "x": Fraction(-1, 2), "": 1}),
    ("1 - 0.5*x + x^2*3", {"xx": 3, "x": Fraction(-1, 2), "": 1}),
    ("y*x*2 - x*y", {"xy": 1}), ("x - x", {}),
    ("-x**2", {"xx": -1}), ("(-x)**2", {"xx": 1}), ("2**3**2", {"": 512}),
    ("-2*(x + 1)", {"x": -2, "": -2}), ("(2*x - 4)/2", {"x": 1, "": -2}), ("x - (y - -3)", {"x": 1, "y": -1, "": -3}),
    ("x**(6/2)", {"xxx": 1}), ("x*(x + 1)", None), ("(x + 1)*(x - 1)", None), ("(x+1)**2", None), ("1/x", None),
    ("x**-1", None), ("x**y", None), ("x**(1/2)", None), ("sin(x)", None), ("2x", None), ("x2", None), ("x +", None),
    ("x)", None), ("x = 1", None), ("x, y", None), ("1e3", None), ("x**101", None),
])
def test_polynomials(text, expected):
    found = polynomial(text)
    spelled = found if found is None else {"".join(n * e for n, e in monomial): v for monomial, v in found.items()}
    assert spelled == expected


@given(st.lists(st.tuples(st.integers(-99, 99), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8),
       st.randoms())
def test_polynomials_against_sympy_in_any_order(terms, order):
    x, y = sympy.symbols("x y")
    truth = sympy.Poly(sum(c * x ** a * y ** b for c, a, b in terms), x, y)
    order.shuffle(terms)
    found = polynomial(" + ".join(f"{c}*y**{b}*x**{a}" for c, a, b in terms))
    assert {tuple(dict(m).get(n, 0) for n in "xy"): v for m, v in found.items()} == {
        m: int(c) for m, c in truth.terms() if c}


@pytest.mark.parametrize(("answer", "integrand", "right"), [
    ("x**3", "3*x**2", True), ("C + x^3", "3*x**2", True), ("x**3 - 17/3", "3*x**2", True),
    ("x*x*x + c", "3*x**2", True),
    ("((x**5 + x**3)/(x**2 + 1))", "3*x**2", True), ("x**3 + C*x", "3*x**2", False), ("X**3", "3*x**2", False),
    ("x**3 + 1e-9*x", "3*x**2", False), ("x**3 + x/10**20", "3*x**2", False), ("0.333333333333*x**3", "x**2", False),
    ("x**2/2", "x", True), ("0.5*x^2", "x", True), ("x", "0", False), ("C", "0", True), ("7 - 7", "0", True),
    ("x*log(x) - x", "log(x)", True), ("x*ln(abs(x)) - x", "log(x)", True), ("x*ln|x| - x", "log(x)", True),
    ("2*x*log(x) - 2*x", "log(x**2)", False), ("x*log(x**2) - 2*x", "log(x**2)", True),
    ("x*arctan(x) - ln(1 + x^2)/2 + K", "atan(x)", True), ("x*asin(3*x) + sqrt(1 - 9*x**2)/3", "asin(3*x)", True),
    ("-x*acos(3*x) + pi*x/2 + sqrt(1 - 9*x**2)/3", "asin(3*x)", True), ("E**(2*x)/2", "exp(2*x)", True),
    ("(sinh(2*x) + cosh(2*x))/2", "exp(2*x)", True), ("-(8 - 4*x)**(3/2)/6", "sqrt(8 - 4*x)", True),
    ("sin(x)**2/2", "sin(x)*cos(x)", True), ("-cos(2*x)/4", "sin(x)*cos(x)", True),
    ("sin(x)^2", "sin(x)*cos(x)", False),
    ("tan(x) - x", "tan(x)**2", True), ("log(cosh(x))", "tanh(x)", True), ("x**x", "x**x*(log(x) + 1)", True),
    ("Integral(x**2, x)", "x**2", False), ("integrate(x)", "x", False), ("x**3*y/y", "3*x**2", False),
    ("sin x", "cos(x)", False),
])
def test_antiderivatives(answer, integrand, right):
    assert is_antiderivative(answer, integrand, "x") is right


@settings(derandomize=True)
@given(st.recursive(st.sampled_from(["x", "2", "C", "1/3", "-x", "exp(x/9)"]), lambda inner: st.one_of(
    st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({' '.join(t)})"),
    st.tuples(st.sampled_from(["sin", "cos", "atan"]), inner).map(lambda t: f"{t[0]}({t[1]})"),
    inner.map(lambda t: f"({t})**2")), max_leaves=6))
def test_derivatives_against_sympy(text):
    x, c = sympy.symbols("x C")
    slope = sympy.diff(sympy.sympify(text, locals={"x": x, "C": c}), x)
    assume(slope != 0 and not slope.has(c) and len(str(slope)) <= LENGTH)
    assert is_antiderivative(text, str(slope), "x")
    assert not is_antiderivative(f"{text} + x/1000000007", str(slope), "x")


@pytest.mark.parametrize("integrand", ["sqrt(-1 - x**2)", "Integral(x, x)", "gamma(x)", "x" * 3000])
def test_integrands_that_cannot_be_judged_are_told(integrand):
    with pytest.raises(InputError, match="cannot be judged"):
        is_antiderivative("x", integrand, "x")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: f"{text[:12]!r}-{len(text)}")
def test_hostile_text_is_wrong_and_runs_nothing(task, text, tmp_path):
    canary = tmp_path / "canary"
    assert SCORERS[task](text.replace("{canary}", str(canary)), BY_HAND[task]) == 0
    assert not canary.exists()


@given(st.text(alphabet="0123456789xyCE.+-*/^()| sincoexplgqrt", max_size=60))
def test_any_text_is_read_or_refused(text):
    found, right = polynomial(text), is_antiderivative(text, "x", "x")
    assert parse(text) is not None or (found is None and not right)


def rows(task: str, count: int = 30) -> list[dict]:
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    data = DataConfig(source=f"reasoning-gym:{task}", limit=count)
    return [row for _, row in read_rows(data, reward="reasoning-gym")]


def reordered(text: str, order: random.Random) -> str:
    """The terms of a sum that is written out, in another order, with ^ for **."""
    terms = re.findall(r"[+-]?(?:[^+\-(]|\([^()]*(?:\([^()]*\)[^()]*)*\))+", text.replace(" ", ""))
    assert "".join(terms) == text.replace(" ", "")
    order.shuffle(terms)
    return "".join(term if term[0] in "+-" else f"+{term}" for term in terms).replace("**", "^")


@pytest.mark.parametrize("task", ["polynomial_multiplication", "simple_integration", "intermediate_integration"])
def test_generated_algebra(task):
    order, judged = random.Random(0), 0
    for row in rows(task):
        gold, answer = read_gold(row), row["answer"]
        if "Integral(" in answer:                       # the generator's integrator gave up; to copy it is no answer
            assert score(answer, gold) == 0
            continue
        judged += 1
        variable = "X" if "X" in row["question"].split("dx")[0] else "x"
        for right in (answer, f"so \\boxed{{{answer}}}", reordered(answer, order), f"0 - (-({answer}))",
                      f"({answer})/1", f"2*({answer})/2"):
            assert score(right, gold) == 1, right
        for wrong in (f"{answer} + {variable}", f"-({answer}) + {variable}/9", f"{answer} + 1/{variable}",
                      f"2*({answer}) + {variable}", f"{answer} or so", answer[:-5] + "*", f"{answer}; {answer}",
                      f"{answer} + q*{variable}"):
            assert score(wrong, gold) == 0, wrong
        assert (score(f"{answer} - C + 3/7 + C", gold) == 1) == ("integration" in task)
    assert judged >= 20


def test_the_question_is_no_answer_to_a_multiplication():
    products = [(row, found[1]) for row in rows("polynomial_multiplication")
                if (found := re.search(r": (.*\).*)\n", row["question"]))]
    assert len(products) >= 15
    for row, brackets in products:
        assert score(brackets, read_gold(row)) == 0 and score(row["answer"], read_gold(row)) == 1


def test_generated_queens():
    for row in rows("n_queens"):
        gold, lines = read_gold(row), row["answer"].split("\n")
        assert score(row["answer"], gold) == score(row["answer"].replace(" ", ""), gold) == 1
        puzzle = re.search(r"attack each other\.\n((?:[Q_ ]+\n){8})", row["question"])[1]
        for wrong in (puzzle, "\n".join(lines[1:] + lines[:1]), "\n".join(lines[:-1]),
                      row["answer"].replace("Q", "_", 1), row["answer"].replace("_", "Q", 1),
                      str([line.split() for line in lines])):
            assert score(wrong, gold) == 0
