"""Tokens of a normalised answer, and the grammar of its expressions: every token is read, or nothing is.

`Node(op, args)` is an expression: `num` (Fraction), `sym` (name), `add`, `mul`, `pow` (base, exponent), `call` (name,
arguments), `inf`. `Parser` makes it as it is written, and `exact` does its arithmetic; there are no floats.
"""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
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
_FORMS = {
    "text": r"\\text\{(?P<inside>[^{}]*)\}",
    "mixed": r"[0-9]+\s*\\frac\{[0-9]+\}\{[0-9]+\}(?!\s*[\^!])|[0-9]+\s+[0-9]+/[0-9]+(?!\s*[0-9.^!])",
    "recurring": r"[0-9]*\.[0-9]*(?:\\dot\s*\{?[0-9]\}?[0-9]*\\dot\s*\{?[0-9]\}?"
                 r"|\\(?:overline|bar|dot)\s*\{[0-9]+\}|\([0-9]+\)|\\dot\s*[0-9])",
    "dotted": r"[0-9]*\.[0-9]+\s*\\ldots(?![a-zA-Z])",
    "scientific": r"[0-9]+(?:\.[0-9]*)?[eE][+-]?[0-9]+(?![0-9a-zA-Z])",
    "grouped": r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?",
    "number": r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+",
    "command": r"\\[a-zA-Z]+|\\[{}|%$&\\]", "letters": "[a-zA-Z]+", "word": r"[^\W\d_]+", "sign": r"\S"}
"""The kinds of tokens. The first one that fits is taken."""
_FORMS_OF_TEXT = {"grouped": _FORMS["grouped"], "number": r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+",
                  "word": r"[ap]\.\s?m\b\.?|[^\W\d_]+(?:['’][^\W\d_]+)*", "command": _FORMS["command"], "sign": r"\S"}


def _pattern(forms: dict[str, str]) -> re.Pattern:
    return re.compile(r"\s*(?:" + "|".join(f"(?P<{kind}>{form})" for kind, form in forms.items()) + ")")


_TOKEN, _TOKEN_OF_TEXT = _pattern(_FORMS), _pattern(_FORMS_OF_TEXT)
_TOKEN_APART = _pattern({kind: form for kind, form in _FORMS.items() if kind != "grouped"})


def word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


GREEK = word_set("""alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar
    odot""")
TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc")
HYPERBOLIC = ("sinh", "cosh", "tanh", "coth")
REAL_FUNCTIONS = (*TRIGONOMETRIC, *HYPERBOLIC, *("arc" + name for name in TRIGONOMETRIC + HYPERBOLIC[:3]))
FUNCTIONS = frozenset((*REAL_FUNCTIONS, "ln", "log", "exp", "cis", "sgn"))
OF_SEVERAL = ("max", "min", "gcd", "lcm")
ACCENTS = word_set("overline bar vec hat tilde widehat overrightarrow dot ddot mathcal mathbb")
_GROUPS = {"(": ")", "{": "}", "[": "]", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_OTHERS = ("frac", "sqrt", "binom", "pi", "infty", "lfloor", "lceil", "unitvector")
FACTORS = frozenset("\\" + name for name in (*GREEK, *FUNCTIONS, *OF_SEVERAL, *ACCENTS, *_OTHERS))
"""Commands that begin a factor."""
RELATIONS = frozenset(("=", "<", ">", r"\le", r"\ge", r"\ne", r"\approx", r"\in", r"\equiv"))
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
    """`kind` is number, letters, word (from \\text), command or sign. A number has its exact value."""
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


EXACT: dict[str, Callable] = {
    "abs": abs, "floor": math.floor, "ceil": math.ceil, "sgn": lambda value: (value > 0) - (value < 0),
    "max": lambda *each: max(each), "min": lambda *each: min(each), "gcd": math.gcd, "lcm": math.lcm,
    "fact": math.factorial, "binom": math.comb, "mod": lambda n, modulus: n % modulus}
"""Functions whose values are rational."""
_OF_INTEGERS: dict[str, Callable[..., bool]] = {
    "gcd": lambda *each: True, "lcm": lambda *each: True, "fact": lambda n: 0 <= n <= MAX_FACTORIAL,
    "binom": lambda n, k: 0 <= k <= n <= MAX_FACTORIAL, "mod": lambda n, modulus: modulus > 0}
"""Functions of integers, and where they are defined."""


def call(name: str, *args: Node) -> Node:
    """A function's value, at once where it is a small exact one."""
    if name in TRIGONOMETRIC or name == "cis":
        args = (_degrees_as(in_radians, args[0]),)
    if name in ("exp", "cis"):
        return power(E, args[0] if name == "exp" else mul(I, args[0]))
    values = [arg.value for arg in args]
    if name == "binom" and None in values:
        n, k = args
        return divide(call("fact", n), mul(call("fact", k), call("fact", add(n, negative(k)))))
    if (name, values) == ("ln", [0]) or (name == "mod" and None in values):
        raise Unreadable
    if name not in EXACT or None in values:
        return Node("call", (name, *args))
    if name in _OF_INTEGERS:
        if any(value.denominator != 1 for value in values) or not _OF_INTEGERS[name](*values):
            raise Unreadable
        values = list(map(int, values))
    return num(EXACT[name](*values))


_OPERATIONS: dict[str, Callable[..., Node]] = {"add": add, "mul": mul, "pow": power, "call": call}


def exact(node: Node) -> Node:
    """The expression with its arithmetic done. Raises Unreadable where it has no value."""
    if node.op not in _OPERATIONS:
        return node
    return _OPERATIONS[node.op](*(exact(arg) if isinstance(arg, Node) else arg for arg in node.args))


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
    if kind == "mixed":
        whole, top, bottom = map(int, re.findall("[0-9]+", text))
        if 0 < top < bottom:
            return whole + Fraction(top, bottom)
        if "/" in text or not bottom:
            raise Unreadable
        return Fraction(whole * top, bottom)
    if kind == "recurring":
        head, block = re.fullmatch(r"([0-9]*\.[0-9]*?)(\D.*)", text).groups()
        return recurring(head, "".join(re.findall("[0-9]", block)))
    if kind == "dotted":
        # Two full periods at the end recur, or three of a single digit.
        head = re.match(r"[0-9.]+", text)[0]
        if not (period := re.search(r"\.[0-9]*?(?:([0-9])\1\1|([0-9]{2,60})\2)$", head)):
            raise Unreadable
        return recurring(head, period[1] or period[2])
    if kind == "scientific" and abs(int(re.split("[eE]", text)[1])) > MAX_BITS // 4:
        raise Unreadable
    return Fraction(text.replace(",", ""))


@lru_cache(maxsize=8192)
def tokens(text: str, grouped: bool = True) -> tuple[Token, ...]:
    """The tokens of a normalised answer. `grouped`: 1,234 is one number, not two. Raises Unreadable."""
    found, depth = tuple(_tokens(text.strip(), _TOKEN if grouped else _TOKEN_APART)), 0
    for token in found:
        depth += nests(token)
        if depth > MAX_DEPTH:
            raise Unreadable
    return found


def _tokens(text: str, pattern: re.Pattern, spaced: bool = False) -> Iterator[Token]:
    end = 0
    while end < len(text):
        match = pattern.match(text, end)
        kind = match.lastgroup
        said, spaced, end = match.group(kind), spaced or text[end].isspace(), match.end()
        if kind == "text":
            yield from _tokens(match["inside"].strip(), _TOKEN_OF_TEXT, spaced)
        elif kind in ("command", "letters", "word", "sign"):
            yield Token(kind, said, None, spaced)
        else:
            yield Token("number", said, _number(kind, said), spaced)
        spaced = False


def nests(token: Token) -> int:
    """1 for a bracket that opens, -1 for one that closes, whatever its kind; else 0."""
    return _NESTS.get(token.text, 0)


def matching(found: Sequence[Token], start: int) -> int:
    """Index of the token that closes the bracket at `start`; any other token is its own. Raises Unreadable."""
    depth = 0
    for at in range(start, len(found)):
        depth += nests(found[at])
        if depth == 0:
            return at
        if depth < 0:
            break
    raise Unreadable


def split(found: Sequence[Token], wanted) -> tuple[list[tuple[Token, ...]], list[str]]:
    """The tokens cut at those that are wanted and stand outside every bracket, and what stood at the cuts."""
    parts, marks, start, depth = [], [], 0, 0
    for i, token in enumerate(found):
        text = token.text
        depth += nests(token) + (text in (r"\begin", r"\langle")) - (text in (r"\end", r"\rangle"))
        if depth == 0 and text in wanted:
            parts.append(tuple(found[start:i]))
            marks.append(text)
            start = i + 1
    parts.append(tuple(found[start:]))
    return parts, marks


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

def _quotient(top: Node, bottom: Node) -> Node:
    return Node("mul", (top, Node("pow", (bottom, MINUS_ONE))))


def _call(name: str, *args: Node) -> Node:
    return Node("call", (name, *args))


class Parser:
    """Recursive descent over tokens. `natural`: a \\log without base is natural, else to base 10."""

    def __init__(self, found: Sequence[Token], natural: bool = False):
        self.tokens, self.natural = found, natural
        self.at = self.bars = 0

    def peek(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at].text if at < len(self.tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at].kind if at < len(self.tokens) else ""

    def take(self, *wanted: str) -> bool:
        found = self.peek() in wanted
        self.at += found
        return found

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            raise Unreadable

    def whole(self) -> Node:
        """The value of the one expression that all tokens make."""
        node = self.sum()
        if self.at < len(self.tokens):
            raise Unreadable
        return exact(node)

    def sum(self) -> Node:
        terms = [self.product()]
        while self.peek() in ("+", "-"):
            terms.append(self.product())
        return Node("add", tuple(terms)) if len(terms) > 1 else terms[0]

    def product(self) -> Node:
        factors = [self.signed()]
        while True:
            if self.take(r"\cdot", r"\times"):
                factors.append(self.signed())
            elif self.take("/", r"\div"):
                factors.append(Node("pow", (self.signed(), MINUS_ONE)))
            elif self.take(r"\bmod"):
                factors = [_call("mod", Node("mul", tuple(factors)), self.signed())]
            elif self._starts_factor():
                factors.append(self.power())
            else:
                return Node("mul", tuple(factors)) if len(factors) > 1 else factors[0]

    def _starts_factor(self) -> bool:
        kind, text, before = self.kind(), self.peek(), self.tokens[self.at - 1]
        if kind == "number":
            # 3!7! is a product; no other number follows what it is multiplied with.
            return before.text == "!" and self.peek(1) == "!"
        if text == "{" and self.kind(1) == "number" and (before.kind == "number" or (
                before.text == "}" and self.tokens[self.at - 2].kind == "number")):
            # 5{7} and 2 3 are no products: nobody can tell them from 57 and 23.
            raise Unreadable
        if text in ("(", "{", "["):
            return self.kind(1) != "word"
        if text == "|":
            return not self.bars
        return kind == "letters" or (text in FACTORS and (text != r"\frac" or self.kind(2) != "word"))

    def signed(self) -> Node:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.peek() == "-" else sign
            self.at += 1
        node = self.power()
        return Node("mul", (MINUS_ONE, node)) if sign < 0 else node

    def power(self) -> Node:
        return self._postfix(self.atom())

    def _postfix(self, node: Node) -> Node:
        if self.take("!"):
            node = _call("fact", node)
            if self.peek() == "!":
                raise Unreadable
        if self.take("^"):
            node = Node("pow", (node, self.atom()))
            if self.peek() in ("^", "!"):
                raise Unreadable
        if self.kind() == "word" and self.peek() == "degrees" and self.peek(1).lower() not in (
                "c", "f", "celsius", "fahrenheit"):
            self.at += 1
            node = _call("degrees", node)
        return node

    def group(self, *opening: str) -> Node:
        """The expression between a bracket and its partner. Brackets within | | may hold others."""
        if self.peek() not in opening:
            raise Unreadable
        closing, bars = _GROUPS[self.peek()], self.bars
        self.at, self.bars = self.at + 1, 0
        node = self.sum()
        self.expect(closing)
        self.bars = bars
        return node

    def atom(self) -> Node:
        if self.at >= len(self.tokens):
            raise Unreadable
        kind, text, value, _ = self.tokens[self.at]
        if text in _GROUPS:
            node = self.group(text)
            return _call({r"\lfloor": "floor", r"\lceil": "ceil"}[text], node) if text[0] == "\\" else node
        before, self.at = self.tokens[self.at - 1].text, self.at + 1
        if kind == "number":
            return num(value)
        if kind == "letters":
            return self._letters(text)
        if kind == "word" and len(text) == 1 and self.at > 1 and before in ("+", "-") and self.kind() != "word":
            # \text{C} after a sign: a letter that was written upright.
            return sym(text)
        if text == "|":
            self.bars += 1
            node = self.sum()
            self.bars -= 1
            self.expect("|")
            return _call("abs", node)
        if kind == "command":
            return self._command(text[1:])
        raise Unreadable

    def _letters(self, text: str) -> Node:
        """A run of letters: a function's name, or letters to be multiplied, the last with what belongs to it."""
        if text in FUNCTIONS or text in OF_SEVERAL:
            return self._command(text)
        *first, last = text
        following = self._named(last)
        # In ba^2 the power belongs to a alone.
        return Node("mul", (*map(sym, first), self._postfix(following))) if first else following

    def _named(self, name: str) -> Node:
        """A name with its subscript and primes, applied where an argument follows."""
        plain = name
        if self.take("_"):
            name += "_" + raw(self._braced())
        while self.take("'"):
            name += "'"
        is_function = plain in ("f", "g", "h", "F", "G", "H")
        if is_function and "".join(token.text for token in self.tokens[self.at:self.at + 6]) == "^{-1}(":
            self.at += 5
            name += "^-1"
        # x(t), I(0): one letter or number in brackets is an argument; f, g and h take any.
        takes_any = is_function or plain in (r"\delta", "O") or name.endswith("'")
        one = self.peek(2) == ")" and (self.kind(1) in ("number", "command") or len(self.peek(1)) == 1)
        if self.peek() == "(" and (takes_any or one):
            return _call("." + name, *self._arguments())
        return sym(name)

    def _braced(self) -> Sequence[Token]:
        """The next token, or those in the braces that follow."""
        start, self.at = self.at, matching(self.tokens, self.at) + 1
        return self.tokens[start:self.at]

    def _arguments(self) -> list[Node]:
        """The arguments in brackets, separated by commas."""
        out = []
        for part in split(self._braced()[1:-1], (",",))[0]:
            parser = Parser(part, self.natural)
            out.append(parser.sum())
            if parser.at < len(part):
                raise Unreadable
        return out

    def _command(self, name: str) -> Node:
        if name in FUNCTIONS:
            return self._function(name)
        if name in GREEK:
            return self._named("\\" + name)
        if name in ACCENTS:
            return self._accented(name)
        if name in ("pi", "infty"):
            return PI if name == "pi" else INFINITY
        if name == "frac":
            return self._derivative() or _quotient(self.group("{"), self.group("{"))
        if name == "binom":
            return _call(name, self.group("{"), self.group("{"))
        if name == "sqrt":
            order = exact(self.group("[")) if self.peek() == "[" else num(2)
            return Node("pow", (self.group("{"), divide(ONE, order)))
        if name in OF_SEVERAL and self.peek() in ("(", r"\{"):
            return _call(name, *self._arguments())
        if name == "unitvector":
            return sym(r"\unitvector " + raw(self._braced()))
        raise Unreadable

    def _accented(self, name: str) -> Node:
        """\\bar{x}, \\overline{AB}: letters under an accent are one name; a dot is a derivative by time."""
        inner = [token for token in self._braced() if token.text not in ("{", "}")]
        if not inner or (inner[0].kind not in ("letters", "word") and inner[0].text[1:] not in GREEK):
            raise Unreadable
        base = raw(inner)
        return self._named(base + {"dot": "'", "ddot": "''"}[name] if name in ("dot", "ddot") else f"\\{name} {base}")

    def _derivative(self) -> Node | None:
        """\\frac{dy}{dx} is one name; `compare` knows that it may be y'. None for other fractions."""
        start = self.at
        found = re.fullmatch(r"(?:d|\\partial)(?:\^([2-4]))?(\\?[a-zA-Z]+(?:_.+)?)\|(?:d|\\partial)"
                             r"(\\?[a-zA-Z]+?)(?:\^([2-4]))?", f"{raw(self._braced())}|{raw(self._braced())}")
        if found and found[1] == found[4] and not (found[2] in ("x", "y") and found[2] == found[3]):
            return sym(f"d{int(found[1] or 1)} {found[2]}/{found[3]}")
        self.at = start
        return None

    def _function(self, name: str) -> Node:
        base = self.atom() if name == "log" and self.take("_") else None
        exponent = self.atom() if self.take("^") else None
        if name in TRIGONOMETRIC and exponent is not None and exact(exponent) == MINUS_ONE:
            name, exponent = "arc" + name, None
        node = _call("ln" if name == "log" else name, self._argument())
        if name == "log" and (base is not None or not self.natural):
            node = _quotient(node, _call("ln", base or num(10)))
        return Node("pow", (node, exponent)) if exponent is not None else node

    def _argument(self) -> Node:
        """What a function is taken of: what stands in brackets, else the factors up to the next function."""
        if self.peek() in ("(", "|", "{"):
            node = self.atom()
            return self._postfix(node) if self.kind() == "word" else node
        factors = [self.signed()]
        while self._starts_factor() and self.peek() not in ("|", "(", "[") and (
                self.peek().removeprefix("\\") not in FUNCTIONS):
            factors.append(self.power())
        # \sin \pi/4 is the sine of a quarter.
        if self.peek() == "/" and self.kind(1) == "number":
            self.at += 1
            factors.append(Node("pow", (self.atom(), MINUS_ONE)))
        return Node("mul", tuple(factors))


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
