"""Tokens of a normalised answer, and the grammar of its expressions: every token is read, or nothing is.

`Node(op, args)` is an expression: `num` (Fraction), `sym` (name), `add`, `mul`, `pow` (base, exponent), `call` (name,
arguments), `inf`. Arithmetic on numbers is done at once, exactly; there are no floats.
"""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_BITS = 200_000
"""Bits of numerator and denominator together; anything larger is not written out."""
MAX_FACTORIAL = 5_000
MAX_DIGITS = 4_000
"""Longer runs of digits are compared as strings (`plain_integer`): converting them takes quadratic time."""
MAX_DEPTH = 40

OPEN_FORM = re.compile(r"\\(?:i*int|oint|sum|prod|lim|limsup|liminf|Gamma|bigcup|bigcap|det|gcd|lcm|zeta)(?![a-zA-Z])")
"""What only math-verify's parser reads, for golds that have it."""
_INTEGER = re.compile(r"\s*([+-]?)\s*([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)\s*")
_TOKEN = re.compile(r"""\s*(?:\\text\{(?P<text>[^{}]*)\}
  | (?P<recurring>[0-9]*\.[0-9]*(?:\\dot\s*\{?[0-9]\}?[0-9]*\\dot\s*\{?[0-9]\}?
        |\\(?:overline|bar|dot)\s*\{[0-9]+\}|\([0-9]+\)|\\dot\s*[0-9]))
  | (?P<dotted>[0-9]*\.[0-9]+)\s*\\ldots(?![a-zA-Z])
  | (?P<scientific>[0-9]+(?:\.[0-9]*)?[eE][+-]?[0-9]+(?![0-9a-zA-Z]))
  | (?P<grouped>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?)
  | (?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)
  | (?P<command>\\[a-zA-Z]+|\\[{}|%$&\\])
  | (?P<letters>[a-zA-Z]+)
  | (?P<word>[^\W\d_]+)
  | (?P<sign>\S))""", re.VERBOSE)
_IN_TEXT = re.compile(r"""\s*(?:(?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)
  | (?P<word>[ap]\.\s?m\b\.?|[^\W\d_]+(?:['’][^\W\d_]+)*)|(?P<command>\\[a-zA-Z]+|\\[{}|%$&\\])|(?P<sign>\S))""",
                      re.VERBOSE)


def word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


GREEK = word_set("""alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar
    odot""")
TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc")
HYPERBOLIC = ("sinh", "cosh", "tanh", "coth")
FUNCTIONS = frozenset((*TRIGONOMETRIC, *HYPERBOLIC, *("arc" + name for name in TRIGONOMETRIC + HYPERBOLIC[:3]), "ln",
                       "log", "exp", "cis", "sgn"))
ACCENTS = word_set("overline bar vec hat tilde widehat overrightarrow dot ddot mathcal mathbb")
_GROUPS = {"(": ")", "{": "}", "[": "]", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_NESTS = {"(": 1, "[": 1, "{": 1, r"\{": 1, ")": -1, "]": -1, "}": -1, r"\}": -1}


class Unreadable(Exception):
    """The grammar does not know the text, or its value is undefined or too large to write out."""


class Node(NamedTuple):
    op: str
    args: tuple

    @property
    def value(self) -> Fraction | None:
        """The exact value of a number; None for everything else."""
        return self.args[0] if self.op == "num" else None


class Token(NamedTuple):
    """`kind` is number, letters, word (from \\text), command or sign; a number has its exact value."""
    kind: str
    text: str
    value: Fraction | None = None
    spaced: bool = False                # whether a space stands before it


def num(value: Fraction | int) -> Node:
    return Node("num", (Fraction(value),))


def sym(name: str) -> Node:
    return Node("sym", (name,))


ZERO, ONE, MINUS_ONE = num(0), num(1), num(-1)
PI, E, I = sym(r"\pi"), sym("e"), sym("i")
INFINITY = Node("inf", (1,))


def _checked(value: Fraction) -> Node:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise Unreadable
    return Node("num", (value,))


def add(*terms: Node) -> Node:
    """The sum, with its numbers added up. Infinities have no arithmetic."""
    total, rest = Fraction(0), []
    for term in terms:
        if term.op == "num":
            total += term.args[0]
        elif term.op == "add":
            total += sum((part.args[0] for part in term.args if part.op == "num"), Fraction(0))
            rest += [part for part in term.args if part.op != "num"]
        else:
            rest.append(term)
    if any(term.op == "inf" for term in rest) and (len(rest) > 1 or total):
        raise Unreadable
    number = _checked(total)
    if not rest:
        return number
    rest += [number] if total else []
    return rest[0] if len(rest) == 1 else Node("add", tuple(rest))


def mul(*factors: Node) -> Node:
    """The product, with its numbers multiplied."""
    total, rest = Fraction(1), []
    for factor in factors:
        parts = factor.args if factor.op == "mul" else (factor,)
        for part in parts:
            if part.op == "num":
                total *= part.args[0]
            else:
                rest.append(part)
    if any(factor.op == "inf" for factor in rest):
        if len(rest) > 1 or abs(total) != 1:
            raise Unreadable
        return Node("inf", (int(total) * rest[0].args[0],))
    number = _checked(total)
    if not rest or (not total and all(defined(factor) for factor in rest)):
        return number
    rest = rest if total == 1 else [number, *rest]
    return rest[0] if len(rest) == 1 else Node("mul", tuple(rest))


def defined(node: Node) -> bool:
    """Whether an expression surely has a value: zero times an undefined one is not zero."""
    if node.op in ("num", "sym"):
        return True
    return node.op in ("add", "mul") and all(map(defined, node.args))


def negative(node: Node) -> Node:
    return mul(MINUS_ONE, node)


def divide(top: Node, bottom: Node) -> Node:
    return mul(top, power(bottom, MINUS_ONE))


def power(base: Node, exponent: Node) -> Node:
    """base ** exponent; numbers at once where the result is rational. Roots of odd order of negative numbers are
    real: (-8)^{1/3} is -2."""
    if "inf" in (base.op, exponent.op):
        raise Unreadable
    if exponent.op != "num":
        if base == ZERO:
            raise Unreadable
        return Node("pow", (base, exponent))
    n = exponent.args[0]
    if n == 1:
        return base
    if base.op == "pow" and base.args[1].op == "num" and n.denominator == base.args[1].args[0].denominator == 1:
        return power(base.args[0], num(n * base.args[1].args[0]))
    if base.op != "num":
        return ONE if n == 0 and defined(base) else Node("pow", (base, exponent))
    b = base.args[0]
    if b == 0 and n <= 0:
        raise Unreadable
    if b in (0, 1):
        return base
    if n.denominator > 1:
        roots = _root(b, n.denominator)
        return Node("pow", (base, exponent)) if roots is None else power(num(roots), num(n.numerator))
    if abs(b) == 1:
        return num(b ** (int(n) % 2))
    if max(b.numerator.bit_length(), b.denominator.bit_length()) * abs(n) > MAX_BITS:
        return Node("pow", (base, exponent))
    return num(b ** int(n))


def _root(value: Fraction, order: int) -> Fraction | None:
    """The rational root of an order, or None. Long numbers keep their roots of higher order."""
    def whole(n: int) -> int:
        return math.isqrt(n) if order == 2 else round(n ** (1 / order)) if n.bit_length() < 1000 else 0

    if order > 60 or (value < 0 and order % 2 == 0):
        return None
    root = Fraction(whole(abs(value.numerator)), whole(value.denominator) or 1) * (-1 if value < 0 else 1)
    return root if root ** order == value else None


_EXACT = {"abs": abs, "floor": math.floor, "ceil": math.ceil, "sgn": lambda value: (value > 0) - (value < 0),
          "max": lambda *each: max(each), "min": lambda *each: min(each), "gcd": math.gcd, "lcm": math.lcm,
          "fact": math.factorial}


def call(name: str, *args: Node) -> Node:
    """A function's value, at once where it is a small exact one."""
    if name in ("exp", "cis"):
        return power(E, args[0] if name == "exp" else mul(I, args[0]))
    values = [arg.value for arg in args]
    if None in values:
        return Node("call", (name, *args))
    if (name == "ln" and values[0] == 0) or (name == "fact" and not (
            values[0].denominator == 1 and 0 <= values[0] <= MAX_FACTORIAL)):
        raise Unreadable
    if name in ("gcd", "lcm", "fact"):
        values = [int(value) if value.denominator == 1 else None for value in values]
    return num(_EXACT[name](*values)) if name in _EXACT and None not in values else Node("call", (name, *args))


def binomial(n: Node, k: Node) -> Node:
    if n.value is not None and k.value is not None:
        if n.value.denominator != 1 or k.value.denominator != 1 or not 0 <= k.value <= n.value <= MAX_FACTORIAL:
            raise Unreadable
        return num(math.comb(int(n.value), int(k.value)))
    return divide(call("fact", n), mul(call("fact", k), call("fact", add(n, negative(k)))))


# Tokens.

def plain_integer(text: str) -> str | None:
    """A literal integer in canonical digits, of any length, without converting it."""
    match = _INTEGER.fullmatch(text)
    if not match:
        return None
    digits = match.group(2).replace(",", "").lstrip("0")
    return ("-" if match.group(1) == "-" and digits else "") + (digits or "0")


def recurring(head: str, block: str) -> Fraction:
    """0.1 and 6 give 0.1666... as a fraction."""
    whole, _, digits = head.partition(".")
    start = Fraction(int(whole + digits or "0"), 10 ** len(digits))
    return start + Fraction(int(block), 10 ** len(digits) * (10 ** len(block) - 1))


def _number(kind: str, text: str) -> Fraction:
    """The value of a literal. Raises Unreadable for one too long or without an exact value."""
    if len(text) > MAX_DIGITS:
        raise Unreadable
    if kind == "recurring":
        head, block = re.fullmatch(r"([0-9]*\.[0-9]*?)(\D.*)", text).groups()
        return recurring(head, "".join(re.findall("[0-9]", block)))
    if kind == "dotted":
        digits = text.partition(".")[2]
        # Two full periods at the end recur, or three of a single digit.
        for period in range(1, min(len(digits) // 2, 60) + 1):
            if digits.endswith(digits[-period:] * (3 if period == 1 else 2)):
                return recurring(text, digits[-period:])
        raise Unreadable
    if kind == "scientific":
        mantissa, exponent = re.split("[eE]", text)
        if len(exponent) > 6:
            raise Unreadable
        value = mul(num(Fraction(mantissa.rstrip("."))), power(num(10), num(int(exponent)))).value
        if value is None:
            raise Unreadable
        return value
    return Fraction(text.replace(",", "").rstrip("."))


@lru_cache(maxsize=8192)
def tokens(text: str, grouped: bool = True) -> tuple[Token, ...]:
    """The tokens of a normalised answer. `grouped`: 1,234 is one number, not two. Raises Unreadable."""
    found, end, text = [], 0, text.strip()
    while end < len(text):
        match = _TOKEN.match(text, end)
        kind = match.lastgroup
        if kind == "grouped" and not grouped:
            match = re.compile(r"\s*(?P<number>[0-9]+)").match(text, end)
            kind = "number"
        spaced, end = text[end].isspace(), match.end()
        if kind == "text":
            found += _text_tokens(match.group("text"), spaced)
        elif kind in ("recurring", "dotted", "scientific", "grouped", "number"):
            found.append(Token("number", match.group(kind), _number(kind, match.group(kind)), spaced))
        else:
            found.append(Token(kind, match.group(kind), None, spaced))
    return tuple(found)


def _text_tokens(text: str, spaced: bool) -> list[Token]:
    found, end = [], 0
    text = text.strip()
    while end < len(text):
        match = _IN_TEXT.match(text, end)
        kind = match.lastgroup
        value = _number("number", match.group(kind)) if kind == "number" else None
        found.append(Token(kind, match.group(kind), value, spaced or text[end].isspace()))
        spaced, end = False, match.end()
    return found


def nests(token: Token) -> int:
    """1 for a bracket that opens, -1 for one that closes, whatever its kind; else 0."""
    return _NESTS.get(token.text, 0)


def matching(found: Sequence[Token], start: int) -> int:
    """Index of the token that closes the bracket at `start`. Raises Unreadable."""
    depth = 0
    for at in range(start, len(found)):
        depth += nests(found[at])
        if depth == 0:
            return at
    raise Unreadable


def spelled(found: Sequence[Token]) -> str:
    """The tokens of a name as one string: braces stay only around a subscript of several tokens."""
    out, kept = [], []
    for i, token in enumerate(found):
        if token.text == "{":
            kept.append(i > 0 and found[i - 1].text == "_" and found[i + 2:i + 3] != () and found[i + 2].text != "}")
        keep = kept[-1] if token.text == "{" else (kept.pop() if kept else False) if token.text == "}" else True
        out.append(token.text if keep else "")
    return "".join(out)


def raw(found: Sequence[Token]) -> str:
    """The tokens as one string without spaces and braces: what makes two names the same."""
    return "".join(token.text for token in found if token.text not in ("{", "}"))


# The grammar: sum > product > signed > power > atom.

class Parser:
    """Recursive descent over tokens. `natural`: a \\log without base is natural, else to base 10."""

    def __init__(self, found: Sequence[Token], natural: bool = False):
        self.tokens, self.natural = found, natural
        self.at = self.depth = self.bars = 0

    def peek(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at].text if at < len(self.tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at].kind if at < len(self.tokens) else ""

    def take(self, *wanted: str) -> bool:
        if self.peek() in wanted and self.kind() != "word":
            self.at += 1
            return True
        return False

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            raise Unreadable

    def whole(self) -> Node:
        """The one expression that all tokens make."""
        node = self.sum()
        if self.at < len(self.tokens):
            raise Unreadable
        return node

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable
        terms = [self.product()]
        while self.peek() in ("+", "-") and self.kind() == "sign":
            minus = self.peek() == "-"
            self.at += 1
            term = self._constant() or self.product()
            terms.append(negative(term) if minus else term)
        self.depth -= 1
        return add(*terms)

    def _constant(self) -> Node | None:
        """\\text{C} after a sign: a letter that was written upright."""
        if self.kind() == "word" and len(self.peek()) == 1 and self.kind(1) != "word":
            self.at += 1
            return sym(self.peek(-1))
        return None

    def product(self) -> Node:
        factors = [self.signed()]
        while True:
            if self.take(r"\cdot", r"\times"):
                factors.append(self.signed())
            elif self.take("/", r"\div"):
                factors.append(power(self.signed(), MINUS_ONE))
            elif self._starts_factor():
                # 5{7} and 2 3 are no products: nobody can tell them from 57 and 23.
                if self._literal_end() and self.peek() == "{" and self.kind(1) == "number":
                    raise Unreadable
                factors.append(self.power())
            else:
                return mul(*factors)

    def _literal_end(self) -> bool:
        """Whether the last token read is a number, or a brace around one."""
        before = self.tokens[self.at - 1]
        return before.kind == "number" or (before.text == "}" and self.tokens[self.at - 2].kind == "number")

    def _starts_factor(self) -> bool:
        kind, text = self.kind(), self.peek()
        if kind == "letters":
            return True
        if kind == "number":
            # 3!7! is a product; no other number follows what it is multiplied with.
            return self.tokens[self.at - 1].text == "!" and self.peek(1) == "!"
        if kind == "sign":
            return (text in ("(", "{", "[") and self.kind(1) != "word") or (text == "|" and not self.bars)
        if text == r"\frac" and self.kind(2) == "word":
            return False
        return kind == "command" and (text[1:] in GREEK or text[1:] in FUNCTIONS or text[1:] in ACCENTS or text in (
            r"\frac", r"\sqrt", r"\binom", r"\pi", r"\infty", r"\lfloor", r"\lceil", r"\max", r"\min", r"\gcd",
            r"\lcm", r"\unitvector"))

    def signed(self) -> Node:
        sign = 1
        while self.kind() == "sign" and self.peek() in ("+", "-"):
            sign = -sign if self.peek() == "-" else sign
            self.at += 1
        node = self.power()
        return negative(node) if sign < 0 else node

    def power(self) -> Node:
        return self._postfix(self.atom())

    def _postfix(self, node: Node) -> Node:
        while self.kind() == "sign" and self.peek() == "!":
            self.at += 1
            node = call("fact", node)
            if self.peek() == "!":
                raise Unreadable
        if self.kind() == "sign" and self.peek() == "^":
            self.at += 1
            exponent = self.atom()
            if self.peek() in ("^", "!"):
                raise Unreadable
            node = power(node, exponent)
        if self.kind() == "word" and self.peek() == "degrees" and self.peek(1).lower() not in (
                "c", "f", "celsius", "fahrenheit"):
            self.at += 1
            node = call("degrees", node)
        return node

    def group(self) -> Node:
        """The expression between a bracket and its partner. Brackets within | | may hold others."""
        closing = _GROUPS[self.peek()]
        self.at += 1
        bars, self.bars = self.bars, 0
        node = self.sum()
        self.expect(closing)
        self.bars = bars
        return node

    def atom(self) -> Node:
        if self.at >= len(self.tokens):
            raise Unreadable
        kind, text, value, _ = self.tokens[self.at]
        if kind == "number":
            self.at += 1
            return self._mixed(value) if value.denominator == 1 and "." not in text else num(value)
        if kind == "letters":
            return self._letters()
        if kind == "sign" and text in ("(", "{", "["):
            return self.group()
        if kind == "sign" and text == "|":
            self.at += 1
            self.bars += 1
            node = self.sum()
            self.bars -= 1
            self.expect("|")
            return call("abs", node)
        if kind == "command":
            return self._command(text)
        raise Unreadable

    def _mixed(self, whole: Fraction) -> Node:
        """A proper fraction of literals right after an integer makes a mixed number: 1\\frac{4}{5}, 1 4/5."""
        rest = [token.text for token in self.tokens[self.at:self.at + 8]]
        if rest[:2] == [r"\frac", "{"] and len(rest) > 6 and rest[3:5] == ["}", "{"] and rest[6] == "}":
            parts, length = (self.tokens[self.at + 2], self.tokens[self.at + 5]), 7
        elif rest[1:2] == ["/"] and len(rest) > 2 and self.tokens[self.at].spaced:
            parts, length = (self.tokens[self.at], self.tokens[self.at + 2]), 3
        else:
            return num(whole)
        values = [part.value for part in parts]
        if None in values or any(value.denominator != 1 for value in values) or self.peek(length) in ("^", "!"):
            return num(whole)
        if not 0 < values[0] < values[1]:
            if length == 3:
                raise Unreadable
            return num(whole)
        self.at += length
        return num(whole + values[0] / values[1])

    def _letters(self) -> Node:
        """A run of letters: a function's name, or letters to be multiplied, the last with what belongs to it."""
        text = self.peek()
        if text in FUNCTIONS or text in ("max", "min", "gcd", "lcm"):
            return self._command("\\" + text)
        *first, last = text
        self.at += 1
        following = self._named(last)
        # In ba^2 the power belongs to a alone.
        return mul(*map(self._letter, first), self._postfix(following)) if first else following

    def _letter(self, letter: str) -> Node:
        return {"e": E, "i": I}.get(letter) or sym(letter)

    def _named(self, name: str) -> Node:
        """A name with its subscript and primes, applied where an argument follows."""
        plain = name
        if self.peek() == "_" and self.kind() == "sign":
            self.at += 1
            end = matching(self.tokens, self.at) + 1 if self.peek() == "{" else self.at + 1
            if end > len(self.tokens):
                raise Unreadable
            name += "_" + raw(self.tokens[self.at:end])
            self.at = end
        while self.kind() == "sign" and self.peek() == "'":
            self.at += 1
            name += "'"
        inverse = [token.text for token in self.tokens[self.at:self.at + 5]] == ["^", "{", "-", "1", "}"]
        is_function = plain in ("f", "g", "h", "F", "G", "H")
        if is_function and inverse and self.peek(5) == "(":
            self.at += 5
            name += "^-1"
        # x(t), I(0): one letter or number in brackets is an argument; f, g and h take any.
        takes_any = is_function or plain in (r"\delta", "O") or name.endswith("'")
        one = self.peek(2) == ")" and (self.kind(1) in ("number", "command") or len(self.peek(1)) == 1)
        if self.peek() == "(" and self.kind() == "sign" and (takes_any or one):
            return Node("call", ("." + name, *self._arguments()))
        return self._letter(name)

    def _arguments(self) -> list[Node]:
        """The arguments in brackets, separated by commas."""
        end = matching(self.tokens, self.at)
        inner, self.at = self.tokens[self.at + 1:end], end + 1
        out, start, depth = [], 0, 0
        for i, token in enumerate([*inner, Token("sign", ",")]):
            depth += (token.text in ("(", "{", "[")) - (token.text in (")", "}", "]"))
            if token.text == "," and depth == 0:
                parser = Parser(inner[start:i], self.natural)
                parser.depth, start = self.depth, i + 1
                out.append(parser.whole())
        return out

    def _command(self, text: str) -> Node:
        name = text[1:]
        self.at += 1
        if name in FUNCTIONS:
            return self._function(name)
        if name in GREEK:
            return self._named(text)
        if name == "pi":
            return PI
        if name == "infty":
            return INFINITY
        if name == "frac":
            derivative = self._derivative()
            if derivative:
                return derivative
            return divide(self.group_of("{"), self.group_of("{"))
        if name == "binom":
            return binomial(self.group_of("{"), self.group_of("{"))
        if name == "sqrt":
            order = self.group_of("[") if self.peek() == "[" else num(2)
            if not order.value or order.value.denominator != 1:
                raise Unreadable
            return power(self.group_of("{"), num(1 / order.value))
        if name in ("lfloor", "lceil"):
            self.at -= 1
            return call({"lfloor": "floor", "lceil": "ceil"}[name], self.group())
        if name in ("max", "min", "gcd", "lcm"):
            if self.peek() not in ("(", r"\{"):
                raise Unreadable
            return call(name, *self._arguments())
        if name in ACCENTS:
            return self._accented(name)
        if name == "unitvector":
            self.at += 3
            return sym(r"\unitvector " + self.peek(-2))
        raise Unreadable

    def group_of(self, bracket: str) -> Node:
        if self.peek() != bracket:
            raise Unreadable
        return self.group()

    def _accented(self, name: str) -> Node:
        """\\bar{x}, \\overline{AB}: letters under an accent are one name; a dot is a derivative by time."""
        end = matching(self.tokens, self.at) + 1 if self.peek() == "{" else self.at + 1
        inner = [token for token in self.tokens[self.at:end] if token.text not in ("{", "}")]
        if not inner or any(token.kind not in ("letters", "word") and token.text[1:] not in GREEK and token.text != "_"
                            and i == 0 for i, token in enumerate(inner)):
            raise Unreadable
        self.at = end
        base = raw(inner)
        return self._named(base + {"dot": "'", "ddot": "''"}[name] if name in ("dot", "ddot") else f"\\{name} {base}")

    def _derivative(self) -> Node | None:
        """\\frac{dy}{dx} is one name; `compare` knows that it may be y'. None for other fractions."""
        try:
            middle = matching(self.tokens, self.at)
            end = matching(self.tokens, middle + 1)
        except (Unreadable, IndexError):
            return None
        top, bottom = raw(self.tokens[self.at:middle + 1]), raw(self.tokens[middle + 1:end + 1])
        found = re.fullmatch(r"(?:d|\\partial)(?:\^([2-4]))?(\\?[a-zA-Z]+(?:_.+)?)\|(?:d|\\partial)"
                             r"(\\?[a-zA-Z]+?)(?:\^([2-4]))?", f"{top}|{bottom}")
        if not found or found[1] != found[4] or (found[2] in ("x", "y") and found[2] == found[3]):
            return None
        self.at = end + 1
        order = int(found[1] or 1)
        return sym(f"d{order} {found[2]}/{found[3]}")

    def _function(self, name: str) -> Node:
        base = exponent = None
        if name == "log" and self.peek() == "_":
            self.at += 1
            base = self.atom()
        if self.peek() == "^" and self.kind() == "sign":
            self.at += 1
            exponent = self.atom()
        if exponent == MINUS_ONE and name in TRIGONOMETRIC:
            name, exponent = "arc" + name, None
        argument = self._argument()
        if name == "log":
            node = call("ln", argument)
            if base is not None or not self.natural:
                node = divide(node, call("ln", base or num(10)))
        else:
            is_angle = name in TRIGONOMETRIC or name == "cis"
            node = call(name, _degrees_as(in_radians, argument) if is_angle else argument)
        return power(node, exponent) if exponent is not None else node

    def _argument(self) -> Node:
        """What a function is taken of: what stands in brackets, else the factors up to the next function."""
        if self.peek() in ("(", "|", "{"):
            node = self.atom()
            return self._postfix(node) if self.kind() == "word" else node
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable
        factors = [self.signed()]
        while self._starts_factor() and self.peek() != "|" and self.peek()[1:] not in FUNCTIONS and (
                self.peek() not in FUNCTIONS) and self.peek() not in ("(", "["):
            factors.append(self.power())
        # \sin \pi/4 is the sine of a quarter.
        if self.peek() == "/" and self.kind(1) == "number":
            self.at += 1
            factors.append(power(self.atom(), MINUS_ONE))
        self.depth -= 1
        return mul(*factors)


def in_radians(degrees: Node) -> Node:
    return mul(degrees, PI, num(Fraction(1, 180)))


def without_degrees(node: Node) -> Node:
    """The expression with its degree marks dropped."""
    return _degrees_as(without_degrees, node)


def _degrees_as(other: Callable[[Node], Node], node: Node) -> Node:
    """The expression with something else for what has a degree mark."""
    if node.op == "call" and node.args[0] == "degrees":
        return other(node.args[1])
    if node.op in ("add", "mul"):
        parts = [_degrees_as(other, arg) for arg in node.args]
        return add(*parts) if node.op == "add" else mul(*parts)
    return node


def symbols(node: Node) -> frozenset[str]:
    """The names in an expression, without e, i and pi."""
    if node.op == "sym":
        return frozenset() if node in (E, I, PI) else frozenset(node.args)
    if node.op in ("num", "inf"):
        return frozenset()
    return frozenset().union(*(symbols(arg) for arg in node.args if isinstance(arg, Node)))
