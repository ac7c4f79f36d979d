"""Which answers repeat an expression of their question, and which only look like it."""
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus import CORPUS
from nft_jax.data.arithmetic import SOURCES, SPLITS, questions
from nft_jax.verify.maths.copied import copies
from nft_jax.verify.maths.extract import last_box
from nft_jax.verify.maths.judge import alternatives

ASKED = ("17+25-8", "17+25-8=", "17 + 25 - 8 = ?", "What is 17+25-8?", "Compute $17 + 25 - 8$.",
         r"Find \(17+25-8\), in cm.", r"\[x = 17 + 25 - 8\]", "Tom has 17+25-8 apples.")
TRIVIAL = ("17+25-8", "(17+25-8)", "((17+25))-8", "17+(25-8)", "(17)+(25)-(8)", "17+25+-8", "17+25--(-8)", "+17+25-8",
           "-(-17-25+8)", "17+25-8+0", "0+17+25-8", "1*17+25-8", r"1\cdot(17+25-8)", "(17+25-8)/1", "(17+25-8)^1",
           r"\frac{17+25-8}{1}", "17.0+025-8", "17+25-8+5-5", "17+25-8+0x", r"\frac{2(17+25-8)}{2}", "17+25−8",
           r"17\,+\,25-8", "17{+}25{-}8", "x = 17+25-8", "17+25-8 = 17+25-8", "17+25-8=", "17+25-8 cm", "17+25-8cm",
           r"17+25-8\text{ cm}", r"17+25-8\%", r"\$17+25-8", r"17+25-8^\circ", r"\{17+25-8\}", "|17+25-8|",
           r"\{17+25-8, 17+25-8\}", r"17+25-8\pmod{100}", "m+n = 17+25-8", "|z| = 17+25-8", "f(2) = 17+25-8",
           "17.+25.-8.", r"17+\text{25}-8", r"17\text{ + }25-8", r"17+25-8\text{ or }17+25-8",
           r"\lfloor 17+25-8\rfloor", r"\max(17+25-8)", r"\text{The answer is }17+25-8", r"\text{17+25-8}",
           r"\begin{pmatrix}17+25-8\end{pmatrix}", "34, 17+25-8", r"\left(17+25-8\right)", "$17+25-8$")
WORKED = ("34", "34.0", "-34", "17+25-8=34", "34 = 17+25-8", "25+17-8", "42-8", "17+17", "2*17", "17+25-9", "17+5*5-8",
          "17", "25", "8", "x", r"34\text{ cm}", "(17, 25, 8)", "17, 25", r"\frac{17}{25}", "")


@pytest.mark.parametrize("question", ASKED)
def test_a_trivial_edit_is_still_a_copy_and_a_step_of_work_is_not(question):
    assert [answer for answer in TRIVIAL if not copies(question, ["34"], answer)] == []
    assert [answer for answer in WORKED if copies(question, ["34"], answer)] == []
    assert not any(copies("What is 17+25-9 or 7+25-8?", ["34"], answer) for answer in TRIVIAL)


@pytest.mark.parametrize(("question", "gold", "answer"), [
    (r"How many is $\binom{8}{3}$?", "56", r"\dbinom83"),
    (r"Compute $\sin 60^\circ$.", r"\frac{\sqrt3}{2}", r"\sin(60°)"), ("4! = ?", "24", "4!"),
    ("Expand $(x+1)(x-1)$.", "x^2-1", r"(x+1)\cdot(x-1)"), ("What is $2^{10}$?", "1024", "2**10"),
    (r"Find $\frac{100 \cdot 101}{2}$.", "5050", r"100\times 101/2"), (r"Simplify $\sqrt{12}$.", r"2\sqrt{3}", "√12"),
    ("What is $|-7|$?", "7", r"\left|-7\right|"),
    ("Find 84/12.", "7", r"\frac{84}{12}"), ("17 x 25?", "425", r"17\times 25"),
    (r"Add $\begin{pmatrix} 1 \\ 2 \end{pmatrix} + \begin{pmatrix} 3 \\ 4 \end{pmatrix}$.",
     r"\begin{pmatrix}4\\6\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}+\begin{pmatrix}3\\4\end{pmatrix}"),
    ("What is $2^{-1}$?", "0.5", "2^{-1}"),
    (r"Compute $0.\overline{7}-0.\overline{4}$.", r"\frac13", r"0.\overline{7}-0.\overline{4}"),
    ("Solve 3x+5=20.", "5", "3x+5=20"),
    ("Solve $2x+3<7$.", "x<2", "2x+3<7"), ("(45+13)%7=", "2", r"(45+13)\%7"), ("Reduce the ratio 4:6.", "2:3", "4:6"),
    (r"Compute $\sqrt[3]{8} + \log_2 8$.", "5", r"\sqrt[3]{8}+\log_{2}(8)"), ("3+4 and 5*6?", "7, 30", r"7, 5\cdot 6"),
    (r"Find $\sum_{k=1}^{4} k^2$.", "30", r"\sum_{k=1}^4 k^2"),
    ("Find |z| for $z = (3+4i)/(1+2i)$.", r"\sqrt5", "|(3+4i)/(1+2i)|"),
    (r"Write $\cos t + \sin t$ as one cosine.", r"\sqrt2\cos(t-\frac{\pi}{4})", r"f(t) = \cos t+\sin t"),
])
def test_every_kind_of_operation(question, gold, answer):
    assert copies(question, [gold], answer)
    assert not copies(question, [gold], gold) and not copies("How many are there?", [gold], answer)


@pytest.mark.parametrize(("question", "gold", "answer"), [
    ("Simplify $x + 1$.", "x+1", "x+1"), ("Simplify $x + 1$.", "x + 1", r"\left(x+1\right)"),      # the gold's own text
    (r"Which is larger, $2^{100}$ or $3^{70}$?", "3^{70}", "3^{70}"), ("The line $y=2x+3$?", "y = 2x+3", "2x+3"),
    ("A circle of area $9\\pi$.", r"9\pi\text{ cm}^2", r"9\pi"),
    ("$v = c/\\sqrt2$?", r"\frac{c}{\sqrt 2}", r"v=\frac{c}{\sqrt 2}"),
    (r"Is it $\frac{1}{2}$?", "0.5", r"\frac{1}{2}"), (r"At 12:30", r"12:30\text{ p.m.}", "12:30"),
    ("Choose (A) 3 (B) 4, (C) 5", "4", "(B)"), ("Is $(1, 2)$ it?", "1, 2", "(1,2)"), ("the side $AB$", "x", "AB"),
    ("$f(3)$ of $2x$, $\\frac{x}{2}$, $x_1$", "6", "f(3)"), ("$2x$?", "x", "2x"),
    (r"$1\frac{1}{2}$?", "1.5", r"1\frac{1}{2}"),
    ("$x_1 + x_2$?", "x_1", "x_1"), (r"$\angle ABC$", "60", r"\angle ABC"), ("Is $x \\ge 3$?", "x", r"x \ge 3"),
    ("Write 2*3+4*5 as a number.", "7", "3+4"), ("Find 1-2+3.", "5", "2+3"),
    ("17+25-8", "34", "17+25"), (r"Is it (A) $2\sqrt{2}$ or (B) $4$?", r"\text{(A)}", r"\text{(A) } 2\sqrt{2}"),
    (r"Is it (A) $2\sqrt{2}$ or (B) $4$?", "A", r"A. 2\sqrt{2}"),
    ("Are $2^5$ and $32$ equal?", "Yes", r"\text{Yes, } 2^5 = 32"),
    (r"Let $x \ne \frac{\pi}{2}+k\pi$.", r"\tan x", r"\tan x, x \ne \frac{\pi}{2}+k\pi"),
    ("For $n > k+1$", "3", "3, n > k+1"),
    (r"(A) $x^2$ (B) $x^3$ (C) $2^x$", "A, C", r"\text{A: } x^2, \text{C: } 2^x"),
    ("Simplify $\\frac{(x+1)(x+2)}{x+2}$ and $\\frac{2y+2}{2}$", "1+x", "1+x"), ("", "34", "17+25-8"),
])
def test_what_is_no_copy(question, gold, answer):
    assert not copies(question, [gold], answer)


@pytest.mark.parametrize("source", SOURCES)
def test_questions_of_the_generators_are_copied_by_their_text(source):
    """A question with an equation is not its solution; the gold itself is never a copy."""
    for problem, gold in questions(SPLITS[1], 300, 0, source):
        assert copies(problem, [gold], problem) and copies(problem, [gold], f"({problem.replace('*', '×')})")
        assert not copies(problem, [gold], gold) and not copies(problem, [gold], f"x = {gold}")


def test_golds_of_real_questions_are_no_copies(data_folder):
    """Each also in other spellings. Many real questions have the gold's text in them."""
    for name in ("math500", "minerva", "amc", "aime24"):
        for line in (data_folder / "data" / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            question, forms = row.get("problem") or row["question"], alternatives(str(row["answer"]))
            gold = forms[0].strip()
            spellings = gold, gold.replace(r"\frac", r"\dfrac"), f"x = {gold}", f"({gold})", f"${gold}$.", f"{gold} cm"
            for answer in spellings:
                assert not copies(question, forms, answer), (question, gold, answer)


def test_the_restated_questions_of_the_attacks(data_folder):
    rows = map(json.loads, (data_folder / "cases/attacks/hostile_answers.jsonl").read_text().splitlines())
    restated = [(last_box(row["response"]), row["gold"]) for row in rows if row["family"].startswith("A9")]
    assert len(restated) == 10
    for answer, gold in restated:
        assert copies(f"What is ${answer}$?", [gold], answer) and not copies("What is $3+4$?", [gold], answer)


def test_a_question_may_ask_for_its_own_text():
    for gold, answer, _ in (case for cases in CORPUS.values() for case in cases):
        assert not copies(f"Simplify ${gold}$.", [gold], gold)
        assert not copies(f"Which is it: ${gold}$ or ${answer}$?", [gold, answer], answer)


MARKS = [*"17x+-*/^!()[]{}|,=%_.'& ", r"\frac", r"\sqrt", r"\sin", r"\{", r"\}", r"\text{a}", r"\begin{b}", r"\end{b}"]


@given(st.lists(st.sampled_from(MARKS), max_size=40).map("".join))
def test_any_text_is_read(text):
    """No text is too broken to be read. Nothing is a copy of a question without expressions, or of the gold."""
    copies(f"What is ${text}$? {text}", ["34"], text)
    assert not copies("How many?", ["34"], text) and not copies(text, [text], text)


@pytest.mark.parametrize("piece", ["9", "(", "|", "1+", "(1+", r"\frac", r"\sin ",
                                   "-", "^", "1^", "!", "x_1", "1/", "1="])
def test_long_texts_are_read_or_left_at_once(piece):
    assert copies(piece * 5000, ["34"], piece * 5000) in (True, False)
    assert copies(f"{piece * 5000}/3", ["34"], f"{piece * 500}/3") in (True, False)
