"""Random expressions rewritten by identities stay right, random other values stay wrong; look-alikes are no digits."""
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("math_verify")

from corpus import is_right
from nft_jax.verify.maths.algebra import warm_up

small = st.integers(1, 30)
primes = st.sampled_from((2, 3, 5, 7, 11, 13))
settled = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(scope="module", autouse=True)
def loaded():
    warm_up()


@settled
@given(small, primes, small)
def test_radicals(a, b, c):
    assert is_right(rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}")
    assert is_right(rf"\frac{{{a}}}{{\sqrt{{{b}}}}}", rf"\frac{{{a}\sqrt{{{b}}}}}{{{b}}}")
    assert is_right(rf"{c}+{a}\sqrt{{{b}}}", rf"{a}\sqrt{{{b}}}+{c}")
    assert not is_right(rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b + c}}}")
    assert not is_right(rf"{c}+{a}\sqrt{{{b}}}", rf"{c}-{a}\sqrt{{{b}}}")


@settled
@given(small, small, small)
def test_polynomials(a, b, c):
    assert is_right(rf"(x+{a})(x-{b})", rf"x^2+{a}x-{b}x-{a * b}")
    assert is_right(rf"{c}(x+{a})", rf"{c}x+{c * a}")
    assert is_right(rf"x^2-{a * a}", rf"(x-{a})(x+{a})")
    assert not is_right(rf"(x+{a})(x-{b})", rf"x^2+{a}x-{b}x+{a * b}")
    assert not is_right(rf"{c}(x+{a})", rf"{c}x+{c * a + 1}")
    assert not is_right(rf"{c}x+{a}", rf"{c}y+{a}")


@settled
@given(st.integers(-10**6, 10**6), st.integers(1, 10**4), st.integers(2, 50))
def test_fractions(p, q, k):
    assert is_right(rf"\frac{{{p}}}{{{q}}}", f"{p * k}/{q * k}")
    assert is_right(rf"\frac{{{p}}}{{{q}}}", rf"\frac{{{-p}}}{{{-q}}}")
    assert is_right(str(p), rf"\frac{{{p * k}}}{{{k}}}")
    assert not is_right(rf"\frac{{{p}}}{{{q}}}", rf"\frac{{{p + 1}}}{{{q}}}")
    assume(p != 0)
    assert not is_right(rf"\frac{{{p}}}{{{q}}}", rf"\frac{{{-p}}}{{{q}}}")


@settled
@given(st.lists(st.integers(-99, 99), min_size=2, max_size=5, unique=True), st.randoms(use_true_random=False))
def test_lists_and_tuples(values, rng):
    shuffled = rng.sample(values, len(values))
    assert is_right(", ".join(map(str, values)), ",".join(map(str, shuffled)))
    as_tuple, other = f"({','.join(map(str, values))})", f"({', '.join(map(str, shuffled))})"
    assert is_right(as_tuple, other) == (values == shuffled)
    assert not is_right(", ".join(map(str, values)), ", ".join(map(str, values[1:])))


@settled
@given(st.integers(-50, 50), st.integers(1, 60))
def test_intervals(low, width):
    high = low + width
    assert is_right(f"({low},{high}]", rf"{low}<x\le {high}") and is_right(f"[{low},{high})", rf"{high}>x\ge{low}")
    assert not is_right(f"({low},{high}]", f"[{low},{high}]") and not is_right(f"({low},{high})", f"({high},{low})")


@settled
@given(small, small, primes)
def test_constants_and_exponents(a, b, c):
    assert is_right(rf"{a}\pi+{b}", rf"{b}+{a}\pi") and is_right(rf"2\ln {c}", rf"\ln {c ** 2}")
    assert is_right(f"{c}^{{{a}}} \\cdot {c}^{{{b}}}", f"{c}^{{{a + b}}}")
    assert not is_right(f"{c}^{{{a}}}", f"{c}^{{{a + 1}}}") and not is_right(rf"{a}\pi", rf"{a + 1}\pi")


LOOK_ALIKES = {"2": ("２", "𝟚", "²", "٢"), "a": ("а", "ɑ"), "e": ("е",), "x": ("х", "×"), "0": ("о", "O", "ο"),
               "1": ("l", "I", "ı")}


@pytest.mark.parametrize(("character", "other"), [(a, b) for a, others in LOOK_ALIKES.items() for b in others])
def test_look_alikes_are_not_the_character(character, other):
    """Only other fonts of the very digit (full-width, double-struck) are read as what they are."""
    for gold in (character, f"1{character}" if character.isdigit() else f"{character}+1"):
        assert is_right(gold, gold.replace(character, other)) == (other in "２𝟚"), (gold, other)


@pytest.mark.parametrize("answer", [
    r"\newcommand{\x}{5}\x", r"\def\x{5}\x", r"\let\x=5 \x", r"\renewcommand{\frac}[2]{5}\frac{1}{2}",
    r"\def\six{5}6", r"\input{answer}", r"\csname 5\endcsname", r"\expandafter5", r"\catcode`\6=13 \def6{5}6",
])
def test_macros_are_not_expanded(answer):
    assert not is_right("5", answer)
