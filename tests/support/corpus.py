"""Labelled answers: `CORPUS`, category -> (gold, answer in the box, whether it is right), and `cases`.

The rule behind every label: the boxed answer is right iff it is mathematically equal to the gold in the form asked.
Units, currency and degree marks may be dropped or added when consistent; a bare list of solutions is unordered, a
tuple is ordered; unreduced fractions and unsimplified radicals are equal; a decimal approximation of a recurring or
irrational number is not equal; a = b = c must be a true chain; alternatives beyond the gold are wrong. The conventions
are in nft_jax/verify/maths/README.md.
"""
import json
from pathlib import Path
from typing import NamedTuple

from nft_jax.verify.maths.extract import extract
from nft_jax.verify.maths.judge import judge, quick_verdict

CASES = Path(__file__).parents[1] / "verify" / "maths" / "cases"


class Case(NamedTuple):
    """One row of `cases`; `unread` says why a right spelling is refused by convention."""
    family: str
    gold: str
    response: str
    unread: str = ""


def box(answer: str) -> str:
    """A response that ends with the answer in a box."""
    return f"So the answer is $\\boxed{{{answer}}}$."


def cases(name: str) -> list[Case]:
    """The rows of cases/`name`.jsonl: `right` spellings, or `hostile` answers. None was written by who wrote the
    verifier. A row has an `answer`, or a whole `response` where extraction is what it tries."""
    rows = map(json.loads, (CASES / f"{name}.jsonl").read_text().splitlines())
    return [Case(row["family"], row["gold"], row.get("response") or box(row["answer"]), row.get("unread", ""))
            for row in rows]


def is_right(gold: str, answer: str) -> bool:
    """What the pool says, without its processes."""
    answer = extract(box(answer))
    quick = quick_verdict(gold, answer)
    return (quick.outcome if quick else judge(gold, answer)[0]) == "right"


CORPUS: dict[str, list[tuple[str, str, bool]]] = {
    "integers": [
        ("42", "42", True), ("42", "42.0", True), ("42", "+42", True), ("42", "042", True), ("42", "24", False),
        ("-7", "-7", True), ("-7", "7", False), ("9007199254740993", "9007199254740992", False),
        ("9007199254740993", "9007199254740993", True), ("10", "2+8", True), ("1024", "2^{10}", True),
        ("3628800", "10!", True), ("10", r"\binom{5}{2}", True), ("12", r"3 \times 4", True), ("0", "-0", True),
        ("2^{1009}", "2^{1009}", True), ("2^{1009}", "2^{1008}", False), ("2^{1009}", r"2 \cdot 2^{1008}", True),
        (r"\frac{100!}{2^{50}}", r"\frac{100!}{2^{50}}", True), (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", False), ("5", "5 5", False), ("12", "1 2", False),
        ("1" + "0" * 60, "10^{60}", True), ("1" + "0" * 60, "10^{61}", False), ("2^3", "8", True), ("8", "2**3", True),
    ],
    "fractions": [
        (r"\frac{1}{2}", r"\frac12", True), (r"\frac{1}{2}", r"\frac{2}{4}", True), (r"\frac{1}{2}", "0.5", True),
        (r"\frac{1}{2}", "1/2", True), (r"\frac{1}{2}", r"\dfrac{1}{2}", True),
        (r"-\frac{1}{2}", r"\frac{-1}{2}", True), (r"\frac{1}{3}", "0.333", False),
        (r"\frac{1}{3}", "0.33333333333333", False), (r"\frac43", r"\tfrac{4}{3}", True),
        (r"\frac{1}{2}", r"\frac{2}{1}", False), (r"\frac59", "5/9", True), (r"\frac{14}{3}", "4.6667", False),
        (r"\frac{1}{2}", r"\frac{1}{3}+\frac{1}{6}", True), ("0.15", r"\frac{3}{20}", True),
        (".35625", "0.35625", True), (".35625", "35.625", False), (r"\frac{1}{2}", r"\left(\frac{1}{2}\right)", True),
        ("1.25", "1.250", True), (r"\frac{1}{10^{12}}", "0.000000000001", True), ("0.0000001", "0.0000002", False),
        ("3/1", "3", True), (r"\frac{\frac{1}{2}}{3}", r"\frac16", True), (r"\frac{1}{0}", r"\frac{2}{0}", False),
    ],
    "mixed numbers": [
        (r"1\frac{4}{5}", r"\frac{9}{5}", True), (r"1\frac{4}{5}", "1.8", True), (r"1\frac{4}{5}", "1 4/5", True),
        (r"137 \frac{1}{2}", "137.5", True), (r"1\frac{4}{5}", r"\frac{4}{5}", False), (r"-1\frac12", "-1.5", True),
        ("1 4/5", "14/5", False), ("1½", "1.5", True), (r"\frac{14}{5}", r"1\frac45", False),
    ],
    "recurring decimals": [
        (r"\frac13", r"0.\overline{3}", True), (r"0.\overline{3}", r"\frac{1}{3}", True),
        (r"\frac16", r"0.1\overline{6}", True), (r"\frac13", r"0.\bar{3}", True), (r"\frac13", r"0.\dot{3}", True),
        ("1", r"0.\overline{9}", True), (r"0.\overline{3}", "0.33", False), (r"0.\overline{12}", r"\frac{4}{33}", True),
        (r"0.\overline{12}", r"0.1\overline{2}", False), (r"0.\overline{428571}", r"\frac37", True),
        (r"16.\overline{6}", "16.6", False), (r"16.\overline{6}", "16.7", False), (r"\frac13", r"0.333\ldots", True),
        (r"\frac23", "0.666...", True), (r"\frac27", "0.285...", False),
        (r"0.2\overline{3}", r"0.\overline{23}", False),
    ],
    "scientific": [
        (r"8.7 \times 10^{8}", "870000000", True), ("4.5e33", r"4.5 \times 10^{33}", True), ("10^{-3}", "0.001", True),
        (r"8.224 \times 10^{-19}", r"1.6 \times 10^{-19}", False), ("1.70e4", "17000", True),
        (r"3 \times 10^8", "3e8", True), (r"3 \times 10^8", "3.0×10⁸", True), (r"3 \times 10^8", r"3 \cdot 10^8", True),
        (r"3 \times 10^8", r"3 \times 10^9", False), ("1e-5", "0.00001", True), ("1e-5", "10^{-5}", True),
        (r"7 \times 10^{37}", "7*10^37", True), ("6e13", r"6 \cdot 10^{12}", False),
        (r"5.47 \times 10^5", "547{,}000", True), ("4.5e33", "4.5E33", True),
        (r"2.88 \times 10^{16}", r"28.8 \times 10^{15}", True),
    ],
    "big numbers": [
        ("10{,}000", "10000", True), (r"10,\!080", "10080", True), (r"11,\! 111,\! 111,\! 100", "11111111100", True),
        ("58,500", "58500", True), ("58500", "58,500", True), ("1000000", r"1\,000\,000", True),
        ("1000000", "1 000 000", True), ("10{,}000", "9999", False), ("10{,}000", "9999.857", False),
        ("123456789012345678901234567890", "123456789012345678901234567891", False), ("1234567", "1,234,567", True),
        ("1234567", "1,234,568", False), ("1,234", "1234.0", True), ("2500", "2.5 thousand", True),
        (r"3 \text{ million}", "3000000", True), ("3000000", r"3 \text{ million}", True),
        ("3", r"3 \text{ million}", False),
    ],
    "percent": [
        (r"50\%", "50", True), ("50", r"50\%", True), (r"50\%", r"\frac{1}{2}", True), ("0.5", r"50\%", True),
        (r"50\%", "5", False), ("0.5", r"0.5\%", False), (r"12.5\%", "12.5%", True), (r"12.5\%", "12.5 percent", True),
        ("36", r"36 \text{ percent}", True), (r"50\%", "0.05", False),
    ],
    "units": [
        ("5", r"5 \text{ cm}", True), (r"864 \mbox{ inches}^2", "864", True),
        (r"864 \mbox{ inches}^2", r"864 \text{ square inches}", True), (r"15\mbox{ cm}^2", r"15 \text{ cm}^2", True),
        (r"15\mbox{ cm}^2", r"15 \text{ m}^2", False), (r"15 \text{ m}", r"15 \text{ cm}", False),
        (r"15 \text{ cm}", r"15\,\mathrm{cm}", True), ("15", "15 cm", True), ("15", "15cm", True),
        (r"15\mbox{ cm}^2", r"15 \text{ cm}^3", False), ("18", "18 eggs", True), ("18", r"18 \text{ eggs}", True),
        (r"5.4 \text{ cents}", "5.4", True), (r"5.4 \text{ cents}", r"\$5.4", False), ("60", r"60 \text{ km/h}", True),
        (r"60 \text{ km/h}", r"60 \text{ mph}", False), ("15", "15m", True), (r"12 \text{ feet}", "12 ft", True),
        (r"12\pi", r"12\pi \text{ cm}^2", True), (r"12\pi", r"12\pi \text{ square units}", True),
        ("3", r"3 \text{ hours}", True), (r"3 \text{ hours}", r"3 \text{ minutes}", False),
        (r"15000 \text{ kcal m}^{-2} \text{yr}^{-1}", "15000", True), ("5", r"5 \text{ or } 6", False),
        ("5", r"5 \text{ is not the answer}", False), (r"4.4677 \times 10^{14} Hz", r"4.4677 \times 10^{14}", True),
        ("6", r"6 \text{ units}", True), ("2k", "2", False), (r"\sqrt{2}", r"\sqrt{2}\text{ m}", True),
    ],
    "currency": [
        (r"\$32,\!348", "32348", True), (r"\$18.90", "18.9", True), ("36", r"\$36", True),
        (r"\$36", r"36 \text{ dollars}", True), (r"\$36", "€36", False), (r"\$36", r"\$36.00", True),
        (r"\$36", r"\$35", False), ("36", "$36", True), (r"\$0.50", r"\$\frac12", True),
    ],
    "degrees": [
        (r"90^\circ", "90", True), ("90", r"90^{\circ}", True), ("90", "90°", True),
        (r"90^\circ", r"90 \text{ degrees}", True), (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}^\circ", True),
        (r"90^\circ", r"80^\circ", False), (r"30^\circ", "30 degrees", True),
    ],
    "radicals": [
        (r"2\sqrt{2}", r"\sqrt{8}", True), (r"11\sqrt2", r"11 \sqrt{2}", True),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", True), (r"\sqrt{2}", "1.41421356", False),
        (r"3\sqrt{13}", r"\sqrt{117}", True), (r"\sqrt{2}", "2^{1/2}", True), (r"\sqrt{5}", "√5", True),
        (r"\sqrt{2}", r"\sqrt{3}", False), (r"\sqrt[3]{2}", r"2^{\frac{1}{3}}", True),
        (r"\frac{\sqrt2}{2^{99}}", r"\frac{\sqrt2}{2^{98}}", False), (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}", True),
        ("3", r"\sqrt{9}", True), (r"11 \sqrt{5} + 11", r"11(\sqrt5+1)", True),
    ],
    "constants": [
        (r"288 \pi", r"288\pi", True), (r"288 \pi", "904.78", False), (r"\pi", "3.1416", False),
        (r"\frac{\pi}{2}", r"\frac\pi2", True), (r"\frac{20000}{\pi}", r"20000/\pi", True), (r"\pi", "π", True),
        (r"1-\frac{1}{e}", "1-e^{-1}", True), (r"1-\frac{1}{e}", r"1+\frac{1}{e}", False),
        (r"1-\frac1{\mathrm{e}}", r"1+\frac1{\mathrm{e}}", False), (r"1-\frac1{\mathrm{e}}", r"1-\frac1e", True),
        (r"3\ln 2", r"\ln 8", True), (r"3\ln2", r"\ln6", False), (r"18+2\pi", r"2(\pi+9)", True),
        (r"\cos\frac{\pi}{3}", r"\frac12", True), (r"\log_2 8", "3", True),
        (r"\arcsin{\frac{1}{1.3}}", r"\arcsin{\frac{10}{13}}", True), (r"\infty", "∞", True),
    ],
    "algebra": [
        ("2k+2", "2(k+1)", True), ("5r^5", "(5r)^5", False), ("(a+5)(b+2)", "ab+2a+5b+10", True),
        ("p - q", "-q+p", True), ("p - q", "q - p", False), ("x^3+3x-6", "x^3+3x-6", True),
        ("x^3+3x-6", "3x+x^3-6", True), ("x^3+3x-6", "x^3+3x+6", False),
        (r"\frac{11+9a}{20}", r"\frac{9a}{20}+\frac{11}{20}", True), ("6r^2-4r-24", "2(3r^2-2r-12)", True),
        (r"\cot x", r"\frac{\cos x}{\sin x}", True), (r"\cot x", r"\tan x", False),
        (r"\sin 2x", r"2\sin x\cos x", True), ("8n^2 + 4n + 1", "(2n+1)^2+4n^2", True), ("x", "y", False),
        ("x", "X", False), (r"\frac{x^2-1}{x-1}", "x+1", True), ("|x|", "x", False), (r"\sqrt{x^2}", "|x|", True),
        ("3R^2", "3r^2", False), ("e^{-2t}", r"\frac{1}{e^{2t}}", True),
        (r"\frac{e^{at}-e^{-at}}{2a}", r"\frac{\sinh(at)}{a}", True), ("0.5x", r"\frac{x}{2}", True),
        ("x^{0.5}", r"\sqrt{x}", True), ("x+y", "x", False), ("-13x+3", "3-13x", True), ("x²+1", "x^2+1", True),
        (r"\frac{1}{L C s^{2}+R C s+1}", r"\frac{1}{LCs^2 + RCs + 1}", True), ("7.6Z", r"\frac{38}{5}Z", True),
        (r"\alpha", "α", True), (r"\sqrt{2} \cos (2 t-\pi / 4)", r"\cos(2t)+\sin(2t)", True),
        ("n(n+1)/2", r"\frac{n^2+n}{2}", True), ("x'", "x", False),
    ],
    "complex": [
        ("6-5i", "-5i+6", True), ("6-5i", "6+5i", False), (r"1+\sqrt{3}i", r"1+i\sqrt{3}", True), ("-1", "i^2", True),
        (r"\frac{5}{1-2i}", "1+2i", True), ("1+2i", r"1+2\mathrm{i}", True),
        (r"\ln 2 + i\frac{\pi}{3}", r"\ln 2 + \frac{i\pi}{3}", True), ("2i", "2", False), ("1+274i", "1 + 274i", True),
    ],
    "equations": [
        ("x=5", "5", True), ("5", "x=5", True), ("x=5", "x = 5", True), ("x=5", "y=5", False),
        ("y = 2x + 3", "2x+3", True), ("y = 2x + 3", "y=3+2x", True), ("y = 2x + 3", "2x-y+3=0", True),
        ("5x - 7y + 11z + 4 = 0", "-5x+7y-11z-4=0", True), ("5x - 7y + 11z + 4 = 0", "10x-14y+22z+8=0", True),
        ("5x - 7y + 11z + 4 = 0", "5x-7y+11z=4", False), ("2x+3", "y=2x+3", True), ("2x+3", "f(x)=2x+3", True),
        ("y=-2x", "y=2x", False), ("5", "4=5", False), ("5", "3=4=5", False), ("5", "x^2+y=5", False),
        ("5", "x^{x^x}=5", False), ("5", "2+3=5", True), ("5", "x=2+3=5", True), ("5", "x=2+4=5", False),
        (r"\frac12", r"P(A)=\frac{3}{6}=\frac12", True), (r"x=\frac12", "0.5", True), ("xy=1", r"y=\frac{1}{x}", True),
        ("12", "AB=12", True), ("12", r"\text{Area}=12", True), ("X_{d}=125-1.25 P", "125-1.25P", True),
        ("SRAC=LRAC", "SRAC=LRAC", True), (r"30^\circ", r"\angle ABC = 30^\circ", True), ("7", "a=7, b=8", False),
        (r"y^{\prime}+ry-rx(t)=0", "y'+ry-rx(t)=0", True), ("4", "x=4.0", True), ("5", "guess=5", False),
        ("x=x+1", "y=y+2", False), ("SRAC=LRAC", "-SRAC=LRAC", False), ("ab=ac", "ab=-ac", False),
        (r"\frac{dx}{dt}=kx-a", r"-\frac{dx}{dt}=kx-a", False), (r"\frac{dx}{dt}=kx-a", r"kx-a=\frac{dx}{dt}", True),
    ],
    "tuples": [
        ("(-2,1)", "(-2, 1)", True), ("(-2,1)", "(1,-2)", False),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", True), ("(3,4)", "[3,4]", False), ("(3,4]", "(3,4]", True),
        ("(3,4)", "(3,4]", False), ("(6,31,-1)", "(6,31,-1)", True), ("(6,31,-1)", "(31,6,-1)", False),
        (r"\left( \frac{3}{2}, -13 \right)", "(1.5,-13)", True), ("(1,2)", "(1,2,3)", False),
        ("(2,4)", "x=2, y=4", True), ("(1,2)", r"\langle 1, 2\rangle", True), ("(2,4)", "P=(2,4)", True),
        ("(1,2),(3,4)", "(3,4),(1,2)", True), ("(1,2),(3,4)", "(2,1),(3,4)", False),
    ],
    "sets and lists": [
        ("1,-2", "-2,1", True), ("3, 5, 7", "7,5,3", True), ("3, 5, 7", r"\{3,5,7\}", True), ("3, 5, 7", "3,5", False),
        ("3", "3, 5", False), ("3", "3 or 5", False), ("3,5", "3 and 5", True), ("3,5", r"3 \text{ and } 5", True),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", True), (r"1 \pm \sqrt{19}", r"1-\sqrt{19},1+\sqrt{19}", True),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}", False), (r"\{1\pm\sqrt{5},-2\}", r"-2, 1+\sqrt5, 1-\sqrt5", True),
        (r"3 \pm 2 \sqrt{2}", r"3 \mp 2\sqrt2", True), ("-2,1", r"x=1 \text{ or } x=-2", True),
        ("-2,1", "x=-2,1", True), (r"\{1,2\}", "(1,2)", False), ("1,-2", r"1,-2,\ldots", False),
        (r"\emptyset", r"\varnothing", True), (r"\emptyset", r"\{\}", True), (r"\{5\}", "5", True),
        ("E_{1},E_{2}", "E_1, E_2", True), ("1,2,3", r"x \in \{1,2,3\}", True), (r"\pm 3", "3,-3", True),
        (r"\pm 3", "3", False), ("4", r"\pm 4", False), (r"\frac12, \frac13", "1/3, 0.5", True),
        (r"\sqrt{2}, 2", r"2,\sqrt2", True), ("x=1, y=2", "1,2", True), ("x=1, y=2", "2,1", False),
        ("x=1,y=2", "y=2,x=1", True), ("x=1,y=2", "x=2,y=1", False),
    ],
    "intervals": [
        (r"(2,\infty)", "x>2", True), (r"(2,\infty)", r"x\ge 2", False), (r"(-\infty, 0]", r"x \le 0", True),
        (r"x \in [-2,7]", r"-x \in [-2,7]", False), (r"x \in [-2,7]", r"2x \in [-2,7]", False),
        (r"x \in [-2,7]", r"-2\le x\le7", True), (r"x \in [-2,7]", "[-2,7]", True),
        ("[-2,7]", r"-2 \leq x \leq 7", True), ("[-2,7]", "(-2,7)", False),
        (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)", True),
        (r"(-\infty, 2) \cup (3, \infty)", r"x<2 \text{ or } x>3", True),
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty,2]\cup(3,\infty)", False), ("-793<a<10", "10>a>-793", True),
        ("-793<a<10", r"10\ge a>-793", False), (r"\left(\frac{3}{5},\frac{8}{3}\right]", "(0.6,8/3]", True),
        (r"(-\sqrt{3}, \sqrt{3})", r"-\sqrt3<x<\sqrt3", True), ("x>5", r"x\ge5", False), ("x>5", "5<x", True),
        ("x>5", r"x\neq5", False), ("x>5", "y>5", False), (r"\mathbb{R}", r"(-\infty,\infty)", True),
        ("[0,1]", "0≤x≤1", True), (r"(0,9)\cup (9,36)", "(0,36)", False), ("(5,∞)", r"(5,\infty)", True),
    ],
    "matrices": [
        (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{pmatrix} -\frac13 \\ \frac23 \end{pmatrix}", True),
        (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", r"\begin{bmatrix} -1 & 0 \\ 0 & -1 \end{bmatrix}", True),
        (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", r"\begin{pmatrix} 1 & 0 \\ 0 & -1 \end{pmatrix}", False),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}", False),
        (r"\begin{pmatrix} \sqrt2 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2^{1/2} \\ 2 \end{pmatrix}", True),
        (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix} 0.2 \\[4pt] -3.6 \end{pmatrix}", True),
        (r"\begin{pmatrix} 1 & 2 \\ 300 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\ 300&4\end{pmatrix}", True),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}", False),
    ],
    "choices and words": [
        (r"\text{(C)}", "C", True), (r"\text{(C)}", "(C)", True), (r"\text{(C)}", r"\textbf{(C)}", True),
        (r"\text{(C)}", r"\textbf{(C) } 12", True), (r"\text{(C)}", "D", False), (r"\text{(C)}", "(A) or (C)", False),
        ("C", r"\text{C}", True), ("C", "C.", True), (r"\text{Evelyn}", "Evelyn", True),
        (r"\text{Evelyn}", "evelyn", True), (r"\text{Evelyn}", r"\text{Carla}", False),
        (r"\text{even}", r"\textbf{even}", True), (r"\text{even}", r"\text{odd}", False),
        (r"\text{ellipse}", r"\mathrm{ellipse}", True), (r"\text{ellipse}", r"\text{an ellipse}", True),
        (r"\text{east}", r"\text{west}", False), (r"\text{even}", r"\text{even or odd}", False),
        (r"\text{True}", "true", True), (r"\text{Yes}", r"\text{No}", False), (r"\text{east}", "5", False),
        (r"\text{Alice, Bob}", r"\text{Bob and Alice}", True), (r"\text{(B)}", "(b)", True),
    ],
    "times, ratios, bases": [
        (r"4:30 \text{ p.m.}", r"\text{4:30 p.m.}", True), (r"4:30 \text{ p.m.}", "4:30 PM", True),
        (r"4:30 \text{ p.m.}", "4:30 a.m.", False), ("3:20 p.m.", "3:25 p.m.", False), ("16:30", "16:30", True),
        ("3:4", "6:8", True), ("3:4", "4:3", False), ("3:4", r"\frac34", True), ("1:2:3", "1:3:2", False),
        ("1:2:3", "2:4:6", True), ("52_8", "52_{8}", True), ("52_8", "52_9", False),
        ("52_8", r"52_{\text{eight}}", True), ("52_8", "42", False), ("4210_{5}", "4210_5", True),
        ("2516_8", "2516", False), ("52_8", "(52)_8", True), ("4343_6", r"4343_{\text{six}}", True),
        ("4343_6", r"4343 \text{ base } 6", True),
    ],
    "styling": [
        ("42", r"\color{red}{42}", True), ("42", r"\textcolor{blue}{42}", True), ("42", r"\large 42", True),
        ("42", r"\underline{42}", True), ("42", r"\boldsymbol{42}", True), ("42", "~42~", True), ("42", r"42\ ", True),
        ("42", "$42$", True), ("42", r"\(42\)", True), ("42", "**42**", True), ("42", "42.", True),
        ("42", r"\mathbf{42}", True), ("42", r"\text{42}", True), ("42", "{42}", True),
        ("42", r"\displaystyle 42", True), ("42", r"\quad 42 \quad", True), ("42", r"42\,", True),
        (r"\frac{1}{2}", r"\displaystyle\frac{1}{2}", True), ("(1,2)", r"\left(1,\,2\right)", True),
        ("(1,2)", r"\bigl(1, 2\bigr)", True), ("42", r"\mathrm{42}", True), ("42", r"\color{red}{43}", False),
        ("42", r"\fbox{42}", True), ("x=5", "$x=5$", True), ("42", r"\\42", True), (r"\sqrt{2}", r"\\sqrt{2}", True),
        ("42", r"\Large\textbf{42}", True), ("42", r"\text{ 42 }", True), ("42", "４２", True), ("-3", "−3", True),
        ("-3", r"\text{-3}", True), ("42", "42!", False), ("42", "42;", True), (r"\frac{3}{2}", r"\cfrac{3}{2}", True),
    ],
    "unicode": [
        (r"\sqrt{2}", "√2", True), ("x^2", "x²", True), (r"\frac{1}{2}", "½", True), (r"\infty", "∞", True),
        (r"2\pi", "2π", True), (r"3 \times 10^8", "3 × 10^8", True), ("-5", "–5", True),
        (r"1 \pm \sqrt{2}", "1 ± √2", True), ("6", "2·3", True), (r"x \le 3", "x ≤ 3", True),
        (r"3\sqrt{5}", "3√5", True), (r"\frac{3}{4}", "¾", True), ("2^{10}", "2¹⁰", True),
        (r"\sqrt{x+1}", "√(x+1)", True), ("5", "٥", False), ("5", "⑥", False), (r"\theta", "θ", True),
        ("8", "2³", True), ("9", "2³", False),
    ],
    "hedging": [
        ("5", "5 or 6", False), ("5", "5, 6", False), ("5", r"4 \text{ or } 5", False), ("5", "1,2,3,4,5", False),
        ("5", r"\{5, 6\}", False), ("5", r"5 \text{ (maybe)}", False), ("5", r"5 \pm 1", False),
        ("5", r"x \ge 5", False), ("5", "[5,6]", False), ("5", r"\approx 5", False), ("5", "5?", False),
        ("5", r"5 \text{ approximately}", False), ("5", "5 to 6", False), ("5", "5/6", False),
        ("5", r"\text{not } 5", False), (r"\frac12", r"\frac12 \text{ or } \frac13", False), ("5", "x", False),
        (r"\sqrt{2}", r"\sqrt{2} \approx 1.5", False), ("5", "5x", False), ("5", "5=6", False),
        ("5", r"\mathbb{R}", False), (r"2\sqrt{2}", r"2\sqrt{2}, 3", False), ("5", "5=x=y", False),
        ("x^2", "x^2=4", False), ("5", "0*x+5=5=5=7", False),
    ],
    "assorted": [
        (r"\frac{3}{4}", r"\frac{3}{4}\text{ of the cake}", True), ("10", r"\text{The answer is } 10", True),
        ("10", r"n = 10 \text{ cm}", True), ("10", "$10$ cm", True), ("10", r"10\text{cm}", True),
        ("10", r"10\%", True), ("10", r"\mathbf{10}.", True), ("10", r"\textbf{10 meters}", True),
        ("10", r"\text{10 meters}", True), ("10", r"{10}\,\text{m/s}", True), ("10", r"10\;\mathrm{m\,s^{-1}}", True),
        ("10", "10^{1}", True), ("10", "|{-10}|", True), ("10", r"\left|-10\right|", True),
        ("10", r"\lfloor 10.5 \rfloor", True), ("10", r"\lceil 10.5 \rceil", False), ("10", r"\sqrt{100}", True),
        ("10", "-(-10)", True), ("10", r"\frac{100}{10}", True), ("10", r"\frac{1}{0.1}", True), ("10", "1e1", True),
        ("10", "ten", True), ("10", "10x^0", True), ("10", r"\log_{10} 10^{10}", True), ("0.1", r"\frac{1}{10}", True),
        ("0.1", ".1", True), ("0.1", "0,1", False), ("1,000", "1000", True), (r"-\frac{35}{9}", "-35/9", True),
        (r"-\frac{35}{9}", "35/-9", True), (r"-\frac{35}{9}", r"\frac{35}{-9}", True),
        (r"-\frac{35}{9}", r"-3\frac{8}{9}", True), (r"-\frac{35}{9}", r"-3.\overline{8}", True),
        (r"-\frac{35}{9}", "-3.89", False), (r"\frac{2}{1005}", r"\dfrac{2}{1005} \approx 0.002", True),
        (r"4\sqrt{3}", r"4 \cdot \sqrt{3}", True), (r"4\sqrt{3}", "4*sqrt(3)", True),
        (r"4\sqrt{3}", r"\sqrt{48}\text{ cm}", True), (r"4\sqrt{3}", r"4 \sqrt 3", True),
        (r"4\sqrt{3}", r"4^{\sqrt 3}", False), (r"4\sqrt{3}", "6.93", False), ("(3,4)", "(3, 4]", False),
        ("(3,4)", "3,4", True), ("(3,4)", r"\{3,4\}", False), ("(3,4)", r"x=3,\ y=4", True), ("(3,4)", "(4,3)", False),
        ("(3,4)", r"\begin{pmatrix}3\\4\end{pmatrix}", True), (r"[0, \infty)", r"x \geq 0", True),
        (r"[0, \infty)", r"\{x \mid x \ge 0\}", True), (r"[0, \infty)", r"\{x \in \mathbb{R} : x \ge 0\}", True),
        (r"[0, \infty)", r"0 \le x < \infty", True), (r"[0, \infty)", r"(0,\infty)", False),
        (r"[0, \infty)", r"[0, +\infty)", True), (r"[0, \infty)", r"[0, \infty]", False),
        (r"(-\infty,-1)\cup(-1,\infty)", r"x \ne -1", True),
        (r"(-\infty,-1)\cup(-1,\infty)", r"\mathbb{R} \setminus \{-1\}", True),
        (r"(-\infty,-1)\cup(-1,\infty)", r"(-\infty,-1)\cup(-1,+\infty)", True),
        (r"(-\infty,-1)\cup(-1,\infty)", r"(-\infty,\infty)", False), ("2,3", "x = 2, x = 3", True),
        ("2,3", "x=2 and x=3", True), ("2,3", "x_1=2, x_2=3", True), ("2,3", r"x \in \{2,3\}", True),
        ("2,3", "2;3", True), ("2,3", "2 3", False), ("2,3", "[2,3]", False), ("2,3", "2,3,4", False),
        ("2,3", "2,2", False), ("x=2, x=3", "2,3", True), (r"x = 2 \text{ or } x = 3", "3, 2", True),
        ("x^2+y^2=25", "y^2+x^2=25", True), ("x^2+y^2=25", "x^2+y^2=5^2", True), ("x^2+y^2=25", "x^2+y^2-25=0", True),
        ("x^2+y^2=25", "x^2+y^2=5", False), ("x^2+y^2=25", "25", False), (r"y=\frac{1}{2}x-3", "x-2y=6", True),
        (r"y=\frac{1}{2}x-3", "y=0.5x-3", True), (r"y=\frac{1}{2}x-3", "y-3=0.5x", False), ("f(x)=x^2", "x^2", True),
        ("f(x)=x^2", r"f(x)=x\cdot x", True), ("f(x)=x^2", "g(x)=x^2", True), ("x^2-2x+1", "(x-1)^2", True),
        ("x^2-2x+1", "(1-x)^2", True), ("x^2-2x+1", "(x+1)^2", False), ("x^2-2x+1", "x^2 - 2x", False),
        (r"\frac{x+1}{x-1}", r"1+\frac{2}{x-1}", True), ("a^2b", "ba^2", True), ("a^2b", "a^{2b}", False),
        ("ab", "ba", True), ("abc", "a b c", True), ("2^{n}", "2n", False), ("2^{n+1}-2", "2(2^n-1)", True),
        (r"\ln(x)", r"\log x", False), (r"\sin^2 x", r"1-\cos^2 x", True), (r"\sin^2 x", r"\sin x^2", False),
        (r"\tan^{-1}(2)", r"\arctan 2", True), (r"\frac{\ln 3}{\ln 2}", r"\log_2 3", True),
        ("e^{x+1}", r"e\cdot e^x", True), (r"\frac{1}{2}\sin 2x", r"\sin x\cos x", True), ("n!", "n(n-1)!", True),
        (r"\binom{n}{2}", r"\frac{n(n-1)}{2}", True), (r"\binom{10}{3}", "120", True), ("120", r"\binom{10}{3}", True),
        ("120", "5!", True), ("120", r"\frac{10!}{3!7!}", True), ("120", "{}_{10}C_3", True), ("3+4i", "4i+3", True),
        ("3+4i", "3+4j", False), ("3+4i", "(3,4)", False), ("3+4i", "-3-4i", False), ("5i", r"\sqrt{-25}", True),
        (r"e^{i\pi/3}", r"\frac12+\frac{\sqrt3}{2}i", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\left(\begin{array}{cc}1&2\\3&4\end{array}\right)", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\left[\begin{matrix}1&2\\3&4\end{matrix}\right]", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", False),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1.0&2\\3&\frac{8}{2}\end{pmatrix}", True),
        (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\frac15\begin{pmatrix} 1 \\ -18 \end{pmatrix}", True),
        (r"\text{No solution}", "no solution", True), (r"\text{no solutions}", r"\emptyset", True),
        (r"\text{Tuesday}", "Tuesday", True), (r"\text{Tuesday}", r"\text{tuesday}", True),
        (r"\text{Tuesday}", "Thursday", False), (r"\text{red}", r"\text{Red.}", True), ("A", r"\text{A}", True),
        ("A", "(A)", True), ("A", "B", False), ("A", "A, B", False), ("A", r"\mathbf{A}", True), ("A", "A)", True),
        ("A", r"\textbf{A}", True), ("A", r"\text{A. 12}", True), ("A", "Option A", True), ("A,C", "C, A", True),
        ("A,C", "AC", False), ("12:30", "12:30", True), ("12:30", r"12:30 \text{ PM}", False),
        (r"7:00 \text{ a.m.}", r"7 \text{ a.m.}", True), (r"25\%", "0.25", True), (r"25\%", "25", True),
        (r"25\%", r"25\text{ percent}", True), (r"25\%", "1/4", True), ("0.25", r"25\%", True), ("25", "0.25", False),
        (r"33\frac{1}{3}\%", r"33.\overline{3}\%", True), (r"33\frac{1}{3}\%", r"33.3\%", False),
        (r"\$5", r"5 \text{ cents}", False), (r"\$5", r"\$5.00", True), (r"\$1{,}000", r"\$1000", True),
        ("5", "5 dollars", True), (r"\$5", "5", True), (r"\$5", "USD 5", True), (r"30^\circ", r"30^{\circ}", True),
        (r"30^\circ", r"\frac{\pi}{6}", True), ("30", r"30^\circ C", True), ("1011_2", "1011_2", True),
        ("1011_2", "1011_{2}", True), ("1011_2", "1011", False), ("1011_2", "11", False), ("11", "1011_2", False),
        ("1011_2", r"1011_{\text{two}}", True), ("1011_2", "1011_{(2)}", True), ("1011_2", "01011_2", True),
        ("2^{100}", "1267650600228229401496703205376", True), ("2^{100}", r"2^{99}\cdot 2", True),
        ("2^{100}", "4^{50}", True), ("2^{100}", "2^{101}", False), ("10^{100}", "10^{100}", True),
        ("10^{100}", "1 googol", False), (r"\frac{1}{3}", r"\frac{1}{3} \approx 0.333", True),
        (r"\frac{1}{3}", r"0.3\ldots", False), ("7", r"7\text{ (seven)}", True), ("7", "7, but maybe 8", False),
        ("7", r"7\neq 8", False), ("7", r"\{7\}", True), ("7", "(7)", True), ("7", "[7]", False), ("7", "7.000", True),
        ("7", r"7\ \text{days}", True), ("7", "x+7", False), ("7", "x=7, y=3", False), ("7", r"x \approx 7", False),
        ("7", "6<x<8", False), ("7", "7=7", True), ("7", "7=8", False), ("7", "2x=14", False), ("7", "x: 7", False),
        ("7", "14/2", True), ("7", "7^1", True), ("7", "07", True),
        (r"\frac{\sqrt{6}-\sqrt{2}}{4}", r"\sin 15^\circ", True), (r"\frac{1}{2}", r"\sin 30^\circ", True),
        (r"\frac{1}{2}", r"\cos 60°", True), (r"\sin 30", r"\frac{1}{2}", False), ("3x^2y", "3yx^2", True),
        ("3x^2y", "3x^2y^1", True), (r"\frac{a}{b}", "a/b", True), (r"\frac{a}{b}", "ab^{-1}", True),
        (r"\frac{a}{b}", r"\frac{b}{a}", False), (r"x \geq 3", r"[3, \infty)", True), (r"x \geq 3", r"3 \leq x", True),
        (r"x \geq 3", "x > 3", False), ("2 < x < 3", r"x \in (2,3)", True),
        (r"k \le -1 \text{ or } k \ge 1", r"|k| \ge 1", True),
        (r"k \le -1 \text{ or } k \ge 1", r"(-\infty,-1]\cup[1,\infty)", True), ("C", "c", False), ("m", "m", True),
        ("2m", "2m", True), ("2m", "2n", False), (r"\frac{\pi}{4}", r"45^\circ", True),
        (r"\frac{\pi}{4}", r"\arctan 1", True), (r"\frac{\pi}{4}", "0.785", False),
        (r"\frac{\pi}{4}", r"\pi/4 \text{ radians}", True), ("1", "e^0", True),
        ("1", r"\sin^2\theta+\cos^2\theta", True), ("0", r"\log 1", True), ("2", r"\log 100", True),
        ("2", "1.9999999999", False), ("2", r"\lim_{x\to 0} 2", False),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", True), ("5", r"5\sqrt{1}", True), ("-5", "-5", True),
        ("-5", "(-5)", True), ("-5", "- 5", True), ("5", "--5", True),
    ],
}
