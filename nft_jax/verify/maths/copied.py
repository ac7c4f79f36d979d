"""Whether an answer only repeats an expression of its question: 17+25-8 is no answer to "What is 17+25-8?".

1. `_Reader` reads the expressions of a text as trees. Words and unknown marks stand between expressions. Brackets,
   double signs, terms 0, factors 1 and the spelling of an operation make no difference; the order does.
2. A tree counts where something is left to do in it (`_is_open`). Numbers, names, fractions in lowest terms, multiples
   of names, and lists of them are done.
3. An answer is a copy when a part of it stands in the question, and not in the gold.
"""
import math
import re
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

from nft_jax.verify.maths.normalise import nesting, normalise

LONGEST_QUESTION, LONGEST_ANSWER = 20_000, 2_000
"""Characters that are read."""
DEEPEST, MOST_MARKS = 40, 200
"""Levels of brackets, and marks of each kind in "|^_!", of an expression that is read."""
Tree = str | tuple
"""A number, a name, or an operation before its operands. The operand of "-" is negated, of "/" inverted."""

# Answers that end the search at once.
_DONE = re.compile(r"-?[0-9]*\.?[0-9]*|[a-zA-Z]*")
# Golds beside which an expression only explains: (C), A and D, Yes.
_CHOICE_OR_WORDS = re.compile(
    r"[\s($]*(?:\\(?:text|math|mbox)[a-z]*\s*\{\s*\(?[A-Za-z][^{}0-9\\$=+*/^]*\}|[A-J](?:[\s,]*(?:and\s*)?[A-J])*"
    r"|[A-Za-z][a-z]{2,}|[A-Za-z][a-z]+(?: [A-Za-z]+)+)[\s).$]*")
_MATHS = re.compile(r"\$\$?(.+?)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_WORD = re.compile(r"(?<![\\A-Za-z0-9^_*/+={])[A-Za-z]{2,}(?![A-Za-z0-9^_*/+=(])")
# What may be the unit of an answer.
_TAIL = re.compile(r"(?<=[0-9)}\]!])\s*(?:[A-Za-z]|\\text\{[^{}]*\})(?:[A-Za-z/\s]|\^\{?[23]\}?)*$")
_SPELLINGS = tuple((re.compile(pattern), new) for pattern, new in (
    (r"(?<=[0-9])\s*[xX]\s*(?=[0-9])", "*"), (r"(?:\\text\s*)?\{\s*([-+*/=0-9]+)\s*\}", r"{\1}"),
    (r"\{([-+*/=])\}", r"\1"), (r"\\sqrt\s*\[([^\[\]]*)\]", r"\\root{\1}")))
_TOKEN = re.compile(r"\\(?:begin|end)\s*\{[a-zA-Z]*\*?\}|\\text\{[^{}]*\}|\\[a-zA-Z]+|\\."
                    r"|[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+\.?[0-9]*|\.[0-9]+|'+|\S", re.DOTALL)
_NAME = re.compile(r"[a-zA-Z]|\\(?!text|end|pmod)[a-zA-Z]+")
_DIGITS = re.compile(r"[0-9][0-9,]*\.?[0-9]*|\.[0-9]+")
_OPERAND = re.compile(rf"{_NAME.pattern}|{_DIGITS.pattern}|[\^_!]|'+")
_SIGNS = frozenset(("+", "-", r"\pm", r"\mp"))
_INVERSE, _MODULO = frozenset(("/", r"\div", ":")), frozenset(("%", r"\%", r"\bmod"))
_OPERATORS = _SIGNS | _INVERSE | _MODULO | {"*", r"\cdot", r"\times", r"\ast"}
_RELATIONS = frozenset(("=", "<", ">", r"\le", r"\ge", r"\ne", r"\approx", r"\equiv", r"\in", r"\to"))
_BRACKETS = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\root": 2, r"\sqrt": 1}
_FUNCTION = re.compile(r"\\(?:(?:arc)?(?:sin|cos|tan)h?|sec|csc|cot|log|ln|lg|exp|max|min|gcd|lcm|det|sum|prod|lim"
                       r"|i{0,2}int|oint)")
# These change nothing where they are not needed.
_IDLE = frozenset(("|", r"\lfloor", r"\lceil", r"\max", r"\min", r"\gcd", r"\lcm"))


def copies(question: str, golds: Sequence[str], answer: str) -> bool:
    """Whether a part of an answer repeats an expression of the question. The expressions of `golds`, the forms of the
    gold, may be repeated."""
    if not question or _DONE.fullmatch(answer) or answer in golds or any(map(_CHOICE_OR_WORDS.fullmatch, golds)):
        return False
    asked = _expressions(question)
    parts = _parts(answer) if asked else ()
    own = frozenset().union(*map(_expressions, golds))

    def repeated(tree: Tree) -> bool:
        if _head(tree) == "=":
            copied = set(filter(repeated, tree[1::2]))
            # x = 17+25-8 adds a name only; 17+25-8 = 34 says more.
            if copied and not _is_inequality(tree) and all(map(_is_name, copied.symmetric_difference(tree[1::2]))):
                return True
            # An inequality beside something else is its condition.
            is_condition = _is_inequality(tree) and not all(map(_is_inequality, parts))
            return tree in asked and own.isdisjoint((tree, *tree[1::2])) and not is_condition
        return (tree in asked and tree not in own) or (_head(tree) in _IDLE and repeated(tree[-1]))

    return any(map(repeated, parts))


@lru_cache(maxsize=4096)
def _expressions(text: str) -> frozenset[Tree]:
    """The open expressions of a question or a gold, also those inside of others."""
    readers = []
    for piece in map(normalise, filter(None, _MATHS.split(text[:LONGEST_QUESTION]))):
        without_words, words = _WORD.subn(";", piece)
        # Two letters may be a word or a product.
        readings = {without_words, piece} if words < 3 else {without_words}
        readers += [_Reader(each) for each in readings if re.search(r"[0-9\\+*/^=!|]", each)]
    return frozenset().union(*(reader.found for reader in readers))


@lru_cache(maxsize=16384)
def _parts(answer: str) -> tuple[Tree, ...]:
    """The expressions that an answer consists of, by every way to read it."""
    if len(answer) > LONGEST_ANSWER:
        return ()
    text = normalise(answer)
    readings = [_Reader(each) for each in dict.fromkeys((text, _TAIL.sub("", text), _WORD.sub(";", text)))]
    readings += [_Reader(reader.text, cancel=True) for reader in readings if reader.cancels]
    return tuple(dict.fromkeys(part for reader in readings for tree in reader.trees for part in _members(tree)))


def _members(tree: Tree) -> list[Tree]:
    """The entries of lists within each other; any other tree is its own."""
    return [part for each in tree[1:] for part in _members(each)] if _head(tree) == "," else [tree]


def _head(tree: Tree) -> str:
    return tree[0] if isinstance(tree, tuple) else ""


def _is_inequality(tree: Tree) -> bool:
    return _head(tree) == "=" and set(tree[2::2]) != {"="}


def _is_number(tree: Tree) -> bool:
    return isinstance(tree, str) and tree[0].isdecimal()


def _is_name(tree: Tree) -> bool:
    """x, x_1, AB, f(2), m+n, |z|."""
    if _head(tree) == "*" and not _is_open(tree):
        return _is_name(tree[1])
    return _head(tree) == "name" or not re.search("[0-9]", str(tree))


def _is_open(tree: Tree) -> bool:
    """Whether an operation is left to do."""
    head = _head(tree)
    if head in ("", "mixed", "name"):
        return False
    if head == "/":
        return not _is_number(tree[1])
    if head in ("-", ",", "="):
        return any(map(_is_open, tree[1:]))
    if head != "*":
        return True
    # 2x and x/2 are done; 2*3, 2/4 and 2/x are not.
    above, below = list(filter(_is_number, tree[1:])), [each[1] for each in tree[1:] if _head(each) == "/"]
    if len(above) > 1 or len(below) > 1 or any(map(_is_open, tree[1:])):
        return True
    numbers = [*above, *below]
    short = all(each.isdecimal() and len(each) < 100 for each in numbers)
    return len(numbers) == 2 and not (short and math.gcd(*map(int, numbers)) == 1)


def _negated(tree: Tree) -> Tree:
    if _head(tree) == "+":
        return ("+", *map(_negated, tree[1:]))
    return tree[1] if _head(tree) == "-" else tree if tree == "0" else ("-", tree)


def _inverted(tree: Tree) -> Tree:
    if _head(tree) in ("*", "-"):
        return (tree[0], *map(_inverted, tree[1:]))
    return tree[1] if _head(tree) == "/" else tree if tree == "1" else ("/", tree)


def _plain_number(match: re.Match) -> str:
    whole, _, decimals = match.group().replace(",", "").partition(".")
    return (whole.lstrip("0") or "0") + ("." + decimals.rstrip("0")).rstrip(".")


class _Reader:
    """`trees` are the expressions of a normalised text, `found` those that are open, at any depth. With `cancel`,
    +1-1 and *2/2 make no difference either; `cancels` says whether there is any."""

    def __init__(self, text: str, cancel: bool = False):
        self.text, self.cancel, self.cancels = text, cancel, False
        self.found, self.trees = set(), []
        if nesting(text) > DEEPEST or max(map(text.count, "|^_!")) > MOST_MARKS:
            return
        for pattern, new in _SPELLINGS:
            text = pattern.sub(new, text)
        levels: list[list[Tree]] = [[""]]
        for token in _TOKEN.findall(text):
            closes = token in _BRACKETS.values() or token.startswith(r"\end") or token == levels[-1][0] == "|"
            if closes and len(levels) > 1:
                opened, *inside = levels.pop()
                levels[-1].append(self.bracket(opened, inside))
            elif token in _BRACKETS or token.startswith(r"\begin") or token == "|":
                levels.append([token])
            else:
                levels[-1].append(_DIGITS.sub(_plain_number, token))
        # A bracket that nothing closes stands between expressions.
        self.trees = self.expressions([item for level in levels for item in level])

    def seen(self, tree: Tree) -> Tree:
        if _is_open(tree):
            self.found.add(tree)
        return tree

    def bracket(self, opened: str, inside: Sequence[Tree]) -> Tree:
        """One expression, or a list of them."""
        trees = self.expressions(inside)
        tree = trees[0] if len(trees) == 1 else (",", *trees)
        return self.seen((opened, tree)) if opened in _IDLE else tree

    def expressions(self, items: Sequence[Tree]) -> list[Tree]:
        """Expressions, and chains a = b < c of them."""
        trees, chain, run = [], [], []
        for item in (*items, ""):
            if isinstance(item, tuple) or item in _OPERATORS or (item not in _RELATIONS and _OPERAND.fullmatch(item)):
                run.append(item)
                continue
            if run and (tree := self.sum(run)) is not None:
                chain.append(tree)
            run = []
            if item in _RELATIONS:
                chain += [item] if len(chain) % 2 else []
            elif chain:
                chain = chain[:len(chain) - 1 + len(chain) % 2]
                trees.append(chain[0] if len(chain) == 1 else self.seen(("=", *chain)))
                chain = []
        return trees

    def sum(self, run: Sequence[Tree]) -> Tree | None:
        """Terms and their signs. A sign behind an operator is its factor's."""
        terms, signs, factors = [], [], []
        for item in (*self.bound(run), ""):
            if item and (item not in _SIGNS or (factors and factors[-1] in _OPERATORS)):
                factors.append(item)
                continue
            if (term := self.product(factors)) is not None:
                for sign in reversed(signs):
                    term = _negated(term) if sign == "-" else term if sign == "+" else (sign, term)
                terms.append(term)
                signs = []
            signs.append(item)
            factors = []
        return self.seen(self.collected("+", terms, "0")) if terms else None

    def product(self, items: Sequence[Tree]) -> Tree | None:
        """Factors, with operators between them or side by side."""
        factors, operator, negative = [], "", False
        for item in items:
            if item in _OPERATORS:
                negative ^= item == "-"
                operator = operator if item in _SIGNS else item
                continue
            if operator in _MODULO and factors:
                factors = [self.seen(("%", self.collected("*", factors, "1"), item))]
            else:
                factors.append(_inverted(item) if operator in _INVERSE else item)
            operator = ""
        negative ^= sum(_head(factor) == "-" for factor in factors) % 2 == 1
        factors = [factor[1] if _head(factor) == "-" else factor for factor in factors]
        found = self.seen(self.collected("*", factors, "1")) if factors else None
        return _negated(found) if negative and found is not None else found

    def collected(self, head: str, operands: Sequence[Tree], neutral: str) -> Tree:
        """One flat sum or product, without neutral elements and what cancels."""
        flat: list[Tree] = []
        for operand in operands:
            for each in operand[1:] if _head(operand) == head else (operand,):
                opposite = (_negated if head == "+" else _inverted)(each)
                self.cancels |= opposite in flat
                if self.cancel and opposite in flat:
                    flat.remove(opposite)
                elif each != neutral:
                    flat.append(each)
        if head == "*" and "0" in flat:
            return "0"
        return (head, *flat) if len(flat) > 1 else flat[0] if flat else neutral

    def bound(self, run: Sequence[Tree]) -> list[Tree]:
        """Scripts, arguments and functions in their trees."""
        out, rest = [], deque(run)

        def script() -> Tree:
            first = rest.popleft()
            return _negated(rest.popleft()) if first == "-" and rest else first

        def is_function(item: Tree) -> bool:
            return isinstance(item, str) and _FUNCTION.fullmatch(item) is not None

        while rest:
            item = rest.popleft()
            if item in ("^", "_") and out and rest:
                base, power = out.pop(), script()
                named = ("name", base, power) if item == "_" else base
                out.append(named if item == "_" or power == "1" else self.seen(("^", base, power)))
            elif item == "!" and out:
                out.append(self.seen((item, out.pop())))
            elif item in _ARGUMENTS and len(rest) >= _ARGUMENTS[item]:
                arguments = [rest.popleft() for _ in range(_ARGUMENTS[item])]
                if item != r"\frac":
                    out.append(self.seen((item, *arguments)))
                    continue
                fraction = self.product([arguments[0], "/", arguments[1]])
                mixed = out and _is_number(out[-1]) and all(map(_is_number, arguments)) and not _is_open(fraction)
                out.append(("mixed", out.pop(), fraction) if mixed else fraction)
            elif is_function(item):
                scripts = []
                while len(rest) > 1 and rest[0] in ("^", "_"):
                    scripts += [rest.popleft(), script()]
                operand = []
                while rest and rest[0] not in _OPERATORS and not is_function(rest[0]):
                    operand.append(rest.popleft())
                out.append(self.seen((item, *scripts, self.product(self.bound(operand)) or "")))
            else:
                out.append(item)
        return out
