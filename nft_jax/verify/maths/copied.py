"""Whether an answer only repeats an expression of its question: 17+25-8 is no answer to "What is 17+25-8?".

1. `_trees` reads the expressions of a text as they are written. What the grammar does not know stands between them.
2. `_plain` drops what makes no difference: brackets, double signs, terms 0, factors 1, degrees. The order stays.
3. A tree counts where something is left to do in it (`_is_open`). Numbers, names, fractions in lowest terms and
   multiples of names are done.
4. An answer is a copy when a part of it stands in the question, and not in the gold.
"""
import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from nft_jax.verify.maths.expression import FACTORS, RELATIONS, Parser, Token, tokens
from nft_jax.verify.maths.nodes import MINUS_ONE, ONE, ZERO, Node, Unreadable, num, walk
from nft_jax.verify.maths.normalise import normalise

LONGEST_QUESTION, LONGEST_ANSWER = 20_000, 2_000
"""Characters that are read."""
MOST_IN_VAIN = 10_000
"""Tokens of a text that are read without an expression at the end. The text behind them is not read."""

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
    (r"(?<=[0-9])\s*[xX]\s*(?=[0-9])", r"\\times "), (r"\{([-+/=])\}", r"\1"), (":", "/"),
    (r"\\%(?=\s*[0-9(])", r"\\bmod "),
    # A matrix is read like f(1, 2), its entries in a row.
    (r"\\begin\s*\{[a-z]*matrix\}", "f("), (r"\\end\s*\{[a-z]*matrix\}", ")"), (r"\\\\|&", ",")))
_OPERATORS = frozenset(("+", "-", "/", r"\cdot", r"\times", r"\div", r"\bmod"))
_MARKS = FACTORS | _OPERATORS | frozenset("^_!'|()[]{},") | {r"\rfloor", r"\rceil", r"\{", r"\}"}
# These change nothing where they are not needed.
_IDLE = ("abs", "floor", "ceil", "max", "min", "gcd", "lcm")


def copies(question: str, golds: Sequence[str], answer: str) -> bool:
    """Whether a part of an answer repeats an expression of the question. The expressions of `golds`, the forms of the
    gold, may be repeated."""
    if not question or _DONE.fullmatch(answer) or answer in golds or any(map(_CHOICE_OR_WORDS.fullmatch, golds)):
        return False
    if not (asked := _expressions(question)):
        return False
    parts = _parts(answer)
    own = frozenset().union(*map(_expressions, golds))

    def repeated(tree: Node) -> bool:
        if tree.op == "chain":
            sides = tree.args[::2]
            copied = set(filter(repeated, sides))
            # x = 17+25-8 adds a name only; 17+25-8 = 34 says more.
            if copied and not _is_inequality(tree) and all(map(_is_name, copied.symmetric_difference(sides))):
                return True
            # An inequality beside something else is its condition.
            is_condition = _is_inequality(tree) and not all(map(_is_inequality, parts))
            return tree in asked and own.isdisjoint((tree, *sides)) and not is_condition
        idle = tree.op == "call" and (tree.args[0].startswith(".") or (tree.args[0] in _IDLE and len(tree.args) == 2))
        return (tree in asked and tree not in own) or (idle and any(map(repeated, tree.args[1:])))

    return any(map(repeated, parts))


@lru_cache(maxsize=4096)
def _expressions(text: str) -> frozenset[Node]:
    """The open expressions of a question or a gold, also those inside of others."""
    found = set()
    for piece in map(normalise, filter(None, _MATHS.split(text[:LONGEST_QUESTION]))):
        without_words, words = _WORD.subn(";", piece)
        # Two letters may be a word or a product.
        for reading in {without_words, piece} if words < 3 else {without_words}:
            if re.search(r"[0-9\\+*/^=!|]", reading):
                found.update(_plain(each) for tree in _trees(reading) for each in walk(tree))
    return frozenset(filter(_is_open, found))


@lru_cache(maxsize=16384)
def _parts(answer: str) -> tuple[Node, ...]:
    """The expressions that an answer consists of, by every way to read it."""
    if len(answer) > LONGEST_ANSWER:
        return ()
    text = normalise(answer)
    trees = [tree for reading in dict.fromkeys((text, _TAIL.sub("", text), _WORD.sub(";", text)))
             for tree in _trees(reading)]
    return tuple(dict.fromkeys(_plain(tree, cancel) for cancel in (False, True) for tree in trees))


def _trees(text: str) -> list[Node]:
    """The expressions of a normalised text, and chains a = b < c of them, which are nodes too."""
    for pattern, new in _SPELLINGS:
        text = pattern.sub(new, text)
    out: list[Node] = []
    try:
        for run in _runs(tokens(text)):
            out += _chains(run)
    except (Unreadable, RecursionError):
        # The brackets nest too deeply, or the text has no tokens.
        pass
    return out


def _runs(found: Sequence[Token]) -> Iterator[list[Token]]:
    """Stretches of tokens that may stand in an expression or between two of them."""
    run: list[Token] = []
    for token in (*found, Token("sign", ";")):
        if token.kind in ("number", "letters") or token.text in _MARKS or token.text in RELATIONS or (
                token.text == "degrees"):
            run.append(token)
            continue
        while run and run[-1].text in _OPERATORS:
            run.pop()
        yield run
        run = []


def _chains(run: Sequence[Token]) -> Iterator[Node]:
    """The expressions of a stretch. A chain is those that only relations keep apart, with the relations."""
    chain: list = []
    parser, in_vain = Parser(run), 0
    while parser.at < len(run) and in_vain < MOST_IN_VAIN:
        start = parser.at
        if len(chain) % 2 and parser.take(*RELATIONS):
            chain.append(run[start].text)
            continue
        if len(chain) % 2:
            yield _chained(chain)
            chain = []
        try:
            parser.bars = 0
            chain.append(parser.sum())
        except (Unreadable, IndexError):
            if chain:
                yield _chained(chain)
            in_vain += parser.at - start + 1
            chain, parser.at = [], start + 1
    if chain:
        yield _chained(chain)


def _chained(chain: list) -> Node:
    return chain[0] if len(chain) < 3 else Node("chain", tuple(chain[:len(chain) - 1 + len(chain) % 2]))


def _plain(node: Node, cancel: bool = False) -> Node:
    """The tree without what makes no difference. With `cancel`, +5-5 and *2/2 make none either."""
    op, args = node.op, tuple(_plain(arg, cancel) if isinstance(arg, Node) else arg for arg in node.args)
    if op == "pow" and node.args[1] == MINUS_ONE:
        # A division. 2^{-1} is written otherwise, and has an operation left.
        return _inverted(args[0])
    if op == "pow" and args[1] == ONE:
        return args[0]
    if op not in ("add", "mul"):
        return args[1] if args[0] == "degrees" else Node(op, args)
    opposite, neutral = (_negated, ZERO) if op == "add" else (_inverted, ONE)
    flat, sign = [], 1
    for each in (part for arg in args for part in (arg.args if arg.op == op else (arg,))):
        if op == "mul" and each.op == "num" and each.value < 0:
            sign, each = -sign, _negated(each)
        if cancel and opposite(each) in flat:
            flat.remove(opposite(each))
        elif each != neutral:
            flat.append(each)
    if op == "mul" and ZERO in flat:
        return ZERO
    found = Node(op, tuple(flat)) if len(flat) > 1 else flat[0] if flat else neutral
    return found if sign > 0 else _negated(found)


def _negated(tree: Node) -> Node:
    if tree.op == "num":
        return num(-tree.value)
    if tree.op == "add":
        return Node("add", tuple(map(_negated, tree.args)))
    first, *rest = tree.args if tree.op == "mul" else (None, tree)
    if first == MINUS_ONE:
        return rest[0] if len(rest) == 1 else Node("mul", tuple(rest))
    return Node("mul", (MINUS_ONE, *(tree.args if tree.op == "mul" else rest)))


def _inverted(tree: Node) -> Node:
    if tree in (ONE, MINUS_ONE):
        return tree
    if tree.op == "mul":
        return Node("mul", tuple(map(_inverted, tree.args)))
    return tree.args[0] if tree.op == "inverse" else Node("inverse", (tree,))


def _is_inequality(tree: Node) -> bool:
    return tree.op == "chain" and set(tree.args[1::2]) != {"="}


def _is_name(tree: Node) -> bool:
    """x, x_1, AB, f(2), m+n, |z|: no number, but as the argument of a function."""
    if tree.op == "call" and tree.args[0].startswith("."):
        return True
    return tree.op != "num" and all(_is_name(arg) for arg in tree.args if isinstance(arg, Node))


def _is_open(tree: Node) -> bool:
    """Whether an operation is left to do."""
    op, args = tree
    if op in ("num", "sym", "inf"):
        return False
    if op == "chain":
        return any(map(_is_open, args[::2]))
    if op == "call":
        return not args[0].startswith(".") or any(map(_is_open, args[1:]))
    if op == "inverse":
        return args[0].op != "num"
    if op != "mul" or any(map(_is_open, args)):
        return True
    # 2x and x/2 are done; 2*3 and 2/4 are not.
    above = [each.value for each in args if each.op == "num" and each != MINUS_ONE]
    below = [each.args[0].value for each in args if each.op == "inverse"]
    if len(above) > 1 or len(below) > 1:
        return True
    numbers = above + below
    return len(numbers) == 2 and (any(each.denominator > 1 for each in numbers) or math.gcd(*map(int, numbers)) > 1)
