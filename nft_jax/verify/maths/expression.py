"""Tokens of a normalised answer, and the grammar of its expressions: every token is read, or nothing is.

`Parser` makes a node (nodes.py) of an expression as it is written, and `whole` does its arithmetic.
"""
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from nft_jax.verify.maths.nodes import (
    INFINITY,
    MAX_BITS,
    MINUS_ONE,
    ONE,
    PI,
    REAL_FUNCTIONS,
    TRIGONOMETRIC,
    Node,
    Unreadable,
    divide,
    exact,
    num,
    sym,
)

MAX_DIGITS = 4_000
"""Longer runs of digits are compared as strings (`plain_integer`): converting them takes quadratic time."""
MAX_DEPTH = 40

OPEN_FORM = re.compile(r"\\(?:i*int|oint|sum|prod|lim|limsup|liminf|Gamma|bigcup|bigcap|det|gcd|lcm|zeta)(?![a-zA-Z])")
"""What only math-verify's parser reads, for golds that have it."""
_INTEGER = re.compile(r"\s*([+-]?)\s*([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)\s*")
_WHOLE, _SLASHED = "[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+", r"\s+[0-9]+/[0-9]+(?!\s*[0-9.^!])"
_FORMS = {
    "text": r"\\text\{(?P<inside>[^{}]*)\}",
    "mixed": rf"(?:{_WHOLE})(?:\s*\\frac\{{[0-9]+\}}\{{[0-9]+\}}(?!\s*[\^!])|{_SLASHED})",
    "recurring": r"[0-9]*\.[0-9]*(?:\\dot\s*\{?[0-9]\}?[0-9]*\\dot\s*\{?[0-9]\}?"
                 r"|\\(?:overline|bar|dot)\s*\{[0-9]+\}|\([0-9]+\)|\\dot\s*[0-9])",
    "dotted": r"[0-9]*\.[0-9]+\s*\\ldots(?![a-zA-Z])",
    "scientific": r"[0-9]+(?:\.[0-9]*)?[eE][+-]?[0-9]+(?![0-9a-zA-Z])",
    "grouped": r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?",
    "number": r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+",
    "command": r"\\[a-zA-Z]+|\\[{}|%$&\\]", "letters": "[a-zA-Z]+", "word": r"[^\W\d_]+", "sign": r"\S"}
"""The kinds of tokens. The first one that fits is taken."""
_FORMS_OF_TEXT = {"mixed": f"(?:{_WHOLE}){_SLASHED}", "grouped": _FORMS["grouped"],
                  "number": r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+",
                  "word": r"[ap]\.\s?m\b\.?|[^\W\d_]+(?:['’][^\W\d_]+)*", "command": _FORMS["command"], "sign": r"\S"}


def _pattern(forms: dict[str, str]) -> re.Pattern:
    return re.compile(r"\s*(?:" + "|".join(f"(?P<{kind}>{form})" for kind, form in forms.items()) + ")")


_TOKEN, _TOKEN_OF_TEXT = _pattern(_FORMS), _pattern(_FORMS_OF_TEXT)
_TOKEN_APART = _pattern({kind: form.replace(_WHOLE, "[0-9]+") for kind, form in _FORMS.items() if kind != "grouped"})


def word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


GREEK = word_set("""alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar
    odot""")
FUNCTIONS = frozenset((*REAL_FUNCTIONS, "ln", "log", "exp", "cis", "sgn"))
OF_SEVERAL = ("max", "min", "gcd", "lcm")
ACCENTS = word_set("overline bar vec hat tilde widehat overrightarrow dot ddot mathcal mathbb")
_GROUPS = {"(": ")", "{": "}", "[": "]", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_OTHERS = ("frac", "sqrt", "binom", "pi", "infty", "lfloor", "lceil", "unitvector")
FACTORS = frozenset("\\" + name for name in (*GREEK, *FUNCTIONS, *OF_SEVERAL, *ACCENTS, *_OTHERS))
"""Commands that begin a factor."""
RELATIONS = frozenset(("=", "<", ">", r"\le", r"\ge", r"\ne", r"\approx", r"\in", r"\equiv"))
_NESTS = {"(": 1, "[": 1, "{": 1, r"\{": 1, ")": -1, "]": -1, "}": -1, r"\}": -1}


class Token(NamedTuple):
    """`kind` is number, letters, word (from \\text), command or sign. A number has its exact value."""
    kind: str
    text: str
    value: Fraction | None = None
    spaced: bool = False                # whether a space stands before it


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
        whole, top, bottom = map(int, re.findall("[0-9]+", text.replace(",", "")))
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
            # 3!7! and i4 are products; no other number follows what it is multiplied with.
            spaced = self.tokens[self.at].spaced
            return (before.text == "i" and not spaced) or (before.text == "!" and self.peek(1) == "!")
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
