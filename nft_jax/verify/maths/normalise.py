"""One spelling for what means the same in LaTeX: styling away, Unicode to commands, arguments in braces.

From string to string, in a fixed number of passes over the text.
"""
from __future__ import annotations

import math
import re
import unicodedata
from functools import lru_cache

MAX_NESTING = 60
"""A text with deeper brackets is left unchanged: nothing readable nests so deep."""

_GREEK = {name: unicodedata.lookup(f"GREEK SMALL LETTER {name.upper()}") for name in (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "mu", "nu", "xi", "pi",
    "rho", "sigma", "tau", "phi", "chi", "psi", "omega")} | {"lambda": "λ"}
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "÷": r"\div ", "∞": r"\infty ", "°": r"^{\circ}", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ",
    "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\Reals ", "ℤ": r"\Integers ", "ℕ": r"\Naturals ",
    "∧": r"\land ", "∨": r"\lor ", "…": r"\ldots ",
    "⋯": r"\ldots ", "′": "'", "’": "'", "″": "''", "⟨": r"\langle ", "⟩": r"\rangle ", "Ω": r"\Omega ",
    "Δ": r"\Delta ", "“": '"', "”": '"', "\u200b": "", "\u200e": "", "\u200f": "", "\ufeff": "", "\u2060": "",
    "∛": r"\sqrt[3]", "ϕ": r"\phi ", "µ": r"\mu ", "∠": r"\angle ", "△": r"\triangle ", "⁄": "/",
    "℃": r"^{\circ}\text{C}", "℉": r"^{\circ}\text{F}", "∕": "/",
} | {letter: f"\\{name} " for name, letter in _GREEK.items()}

# One symbol or fraction, or a run of superscripts or of subscripts.
_UNICODE = re.compile("[" + re.escape("".join(_SYMBOLS)) + "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]|[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+|[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ]+")
_UNIT_VECTOR = re.compile(r"\\(?:mathbf|boldsymbol|bm|hat|widehat|vec|overrightarrow|overline)\s*\{?\s*"
                          r"(?:\\(?:mathbf|boldsymbol|textbf)\s*\{)?\s*\\?([ijk])(?:math)?(?![a-zA-Z])\s*\}?\}?")


def _from_unicode(match: re.Match) -> str:
    found = match.group()
    if found in _SYMBOLS:
        return _SYMBOLS[found]
    plain = unicodedata.normalize("NFKC", found).replace("−", "-")
    if "⁄" in plain:
        return r"\frac{" + plain.replace("⁄", "}{") + "}"
    return ("^" if unicodedata.decomposition(found[0]).startswith("<super>") else "_") + "{" + plain + "}"


_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|\{([^{}]*)\}|([0-9]+(?:\.[0-9]+)?|[a-zA-Z]))|√")


def _unicode(text: str) -> str:
    if text.isascii():
        return text
    text = _ROOT.sub(lambda m: r"\sqrt" + ("{" + next(g for g in m.groups() if g is not None) + "}"
                                           if m.lastindex else ""), text)
    # A number in a circle is not the number.
    return "".join(c if unicodedata.category(c) == "No" else unicodedata.normalize("NFKC", c)
                   for c in _UNICODE.sub(_from_unicode, text))


_COMMAND_END = r"(?![a-zA-Z])"
_NAMES = (r"(?:arc)?(?:sin|cos|tan|cot|sec|csc|tg|ctg)|a?(?:sin|cos|tan)|(?:arc)?(?:sinh|cosh|tanh)|cosec|cotan"
          r"|coth|sh|ch|th|ln|log|lg|exp|max|min|gcd|lcm|cis|sgn")
_RENAMED = {old: new for names, new in (
    ("left right middle big bigl bigr bigm Big Bigl Bigr Bigm bigg biggl biggr biggm Bigg Biggl Biggr Biggm", " "),
    ("displaystyle textstyle scriptstyle tiny small normalsize large Large LARGE huge Huge bf it rm sf tt", " "),
    ("bfseries itshape mathstrut strut limits nolimits nobreak centering boldmath checkmark blacksquare qed", " "),
    ("quad qquad enspace thinspace medspace thickspace negthinspace hfill newline", " "),
    ("dfrac tfrac cfrac nicefrac sfrac xfrac", r"\frac"), ("dbinom tbinom", r"\binom"), ("cr", r"\\"),
    ("leq leqslant lessapprox", r"\le "), ("geq geqslant", r"\ge "), ("neq", r"\ne "), ("lt", "<"), ("gt", ">"),
    ("dots dotsb dotsc dotsm dotsi dotso cdots", r"\ldots "), ("lbrace", r"\{"), ("rbrace", r"\}"), ("lbrack", "["),
    ("rbrack", "]"), ("vert lvert rvert", "|"), ("varnothing O", r"\emptyset "), ("R Real Reals", r"\Reals "),
    ("imath jmath", "i"), ("wedge", r"\land "), ("vee", r"\lor "), ("colon", ":"), ("percent", r"\%"),
    ("tg", r"\tan "), ("ctg cotan", r"\cot "), ("arctg atan", r"\arctan "), ("arcctg", r"\arccot "), ("sh", r"\sinh "),
    ("lg", r"\log_{10} "), ("ch", r"\cosh "), ("th", r"\tanh "), ("cosec", r"\csc "), ("asin", r"\arcsin "),
    ("acos", r"\arccos ")) for old in names.split()}
"""Commands under another name, and commands that only arrange."""
_GROUPING = re.compile(r"(?<=[0-9])(?:\s*,?\s*\\!\s*|\{,\}\s*\\?!?\s*|\\,\s*|\\[;:]\s*|\\\s\s*|~|\s)"
                       r"(?=[0-9]{3}(?![0-9]))")


def _combinations(match: re.Match) -> str:
    """C_n^k and A_n^k, the Russian and Chinese notation. C_1^2 is the square of a constant."""
    n, k = match.groups()
    if n.isdigit() and k.isdigit() and "C" not in match.group() and int(k) <= int(n) <= 1000:
        return str(math.perm(int(n), int(k)))
    if n.isdigit() and (not k.isdigit() or int(n) < int(k)):
        return match.group()
    return rf"\binom{{{n}}}{{{k}}}" if "C" in match.group() else rf"\frac{{{n}!}}{{({n}-{k})!}}"


def _renamed(match: re.Match) -> str:
    return _RENAMED.get(match[1]) or (match[0] if match[0] == "\\" + match[1] else f"\\{match[1]} ")


# (pattern, replacement), applied in this order.
_PASSES: tuple[tuple[re.Pattern, str], ...] = tuple((re.compile(pattern), new) for pattern, new in (
    (r"\\(?:text)?color\s*(?:\[[^\]\[{}]*\])?\{[^{}]*\}", ""),
    (r"\\\\\s*\[[^\]]*\]", r"\\\\"),
    (r"\\left\s*\\\{\s*\\begin\{(array|aligned|matrix)\}(?:\{[lcr]*\})?(.*?)\\end\{\1\}\s*\\right\s*\.?",
     r"\\begin{cases}\2\\end{cases}"),
    (r"\\(?:left|right)\s*\.|\\(?:square|Box)\s*$", " "),
    (r"\\(?:rm|bf|it)\s*\{", r"\\text{"),
    (r"(?<![a-z])\{:\}", ":"),
    (r"\\([a-zA-Z]+)", _renamed),
    (r"\\(?:hspace|vspace|phantom|hphantom|vphantom|tag|label)\*?\s*\{[^{}]*\}", " "),
    (r"(?<!\\)\\(?:[,;:>]|\s)|~", " "),
    (r"(?<!\\)\\!", ""),
    (r"<=|=<", r"\\le "),
    (r">=", r"\\ge "),
    (r"(?<![0-9)])!=", r"\\ne "),
    (r"\.\.\.+", r"\\ldots "),
    *((rf"\\(?:mathbb|mathbf|bf|Bbb)\s*\{{?\s*{letter}\s*(?:\}}|{_COMMAND_END})", rf"\\{name} ") for letter, name in (
        ("R", "Reals"), ("Z", "Integers"), ("N", "Naturals"), ("Q", "Rationals"), ("C", "Complexes"))),
    (r"\\Reals\s*[\^_]\s*\{?\s*\+\s*\}?", r"(0,\\infty)"),
    (r"\\Reals\s*[\^_]\s*\{?\s*-\s*\}?", r"(-\\infty,0)"),
    (r"\\Reals\s*(?:-|\\backslash)\s*", r"\\Reals \\setminus "),
    (rf"\\operatorname\*?\s*\{{\s*({_NAMES})\s*\}}", _renamed),
    (r"\\operatorname\*?\s*\{\s*([a-zA-Z]+)\s*\}", r"\\text{\1}"),
    (rf"\\(?:mathrm|text|rm|textrm)\s*\{{\s*(?!max|min)({_NAMES})\s*\}}", _renamed),
    (r"\\ce\s*\{([A-Za-z0-9]+)\}", lambda m: re.sub("([0-9]+)", r"_{\1}", m[1])),
    (r"\\mathcal\s*\{?\s*O\s*\}?", "O"),
    (r"(?<=[0-9])\{,\}(?=[0-9])", "."),
    ("∶", ":"),
    (r"^([^{}]*)\\over(?![a-zA-Z])([^{}]*)$", r"\\frac{\1}{\2}"),
    (r"^([^{}]*)\\choose(?![a-zA-Z])([^{}]*)$", r"\\binom{\1}{\2}"),
    (r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"\\frac{\1}{\2}"),
    (r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"(?:\{\}\s*)?\^\s*\{?([0-9]+)\}?\s*/\s*_\s*\{?([0-9]+)\}?", r"\\frac{\1}{\2}"),
    (r"\\(?:mathrm|textrm|rm|text|mathit|mathbf|mathsf)\s*\{\s*([eid]|\\pi|\\infty)\s*\}", r"{\1}"),
    (r"\\(?:mathrm|mbox|hbox|textrm|textnormal|textbf|textit|textsf|texttt|emph|mathsf|mathtt|textsc|unit)\s*\{",
     r"\\text{"),
    (r"\\(?:mathbf|boldsymbol|bm|pmb|mathit|underline|uline|underbar|fbox|framebox|ensuremath|mathnormal|boxed|fcolorbox"
     r"|colorbox|mathord|mathop|mathclose|mathopen|operatorname)\s*\{", "{"),
    (r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![a-zA-Z]))|\\degrees?(?![a-zA-Z])", r"\\text{degrees}"),
    (r"(?<!\\)%", r"\\%"),
    (r"\^\s*\{\s*\\prime\s*\}|\^\s*\\prime(?![a-zA-Z])", "'"),
    (r"\^\s*\{\s*\\prime\s*\\prime\s*\}", "''"),
    (r"(?<![a-zA-Z\\])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty "),
    (r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi "),
    (r"\*\*", "^"),
    (r"\*", r"\\cdot "),
    (r"\+\s*\\infty", r"\\infty"),
    (r"\\text\{\s*\}", " "),
    (r"\^\s*([+-]?[0-9]+(?![0-9.]))", r"^{\1}"),
    (r"\^\s*([a-zA-Z])(?![a-zA-Z(])", r"^{\1}"),
    (r"\\log\s*_\s*([0-9])", r"\\log_{\1}"),
    (r"_\s*([0-9]+)", r"_{\1}"),
    (r"\\mu\s*\\text\{\s*([a-zA-Z])", r"\\text{µ\1"),
    (r"\\text\{([^{}]*)\^\{(-?[0-9])\}([^{}]*)\}", r"\\text{\1^\2\3}"),
    (r"\\text\{degrees\}\s*(?:\\text\{\s*)?([CF])\b\s*\}?", r"\\text{degrees \1}"),
    (r"(?:\{\}\s*)?[_^]\s*\{?([0-9]+|[a-z])\}?\s*(?:C|\\text\{C\})\s*_\s*\{?([0-9]+|[a-z])\}?", r"\\binom{\1}{\2}"),
    (r"(?:\{\}\s*)?[_^]\s*\{?([0-9]+|[a-z])\}?\s*(?:P|\\text\{P\})\s*_\s*\{?([0-9]+|[a-z])\}?", _combinations),
    (r"(?<![a-zA-Z])(?:[CA]|\\text\{[CA]\})\s*_\s*\{?([0-9]+|[a-z])\}?\s*\^\s*\{?([0-9]+|[a-z])\}?(?![a-zA-Z0-9])",
     _combinations),
))
# \\text{The answer is} before the answer.
_ANNOUNCEMENT = re.compile(r"^\\text\{(?:(?!\bnot\b)[^{}])*\b(?:is|are|equals|be)\s*:?\s*\}(?=.)")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"), ('"', '"'))
_DOTS = re.compile(r"\.\.\.+")
_LEADING_BREAK = re.compile(r"^(?:\\\\)+(?=[^a-zA-Z])")
_SPACES = re.compile(r"\s+")
_ARGUMENT = re.compile(r"\s*(\\[a-zA-Z]+|[0-9a-zA-Z])")
_ROOT_INDEX = re.compile(r"\s*\[[^\[\]]*\]")
_TAKES = re.compile(r"\\(?:frac|binom|sqrt)(?![a-zA-Z])")


def closing(text: str, start: int) -> int:
    """Index of the bracket that closes the `{` at `start`, or -1; `\\{` and `\\}` are not braces."""
    depth, i = 0, start
    while i < len(text):
        c = text[i]
        if c == "\\":
            i += 2
            continue
        depth += (c == "{") - (c == "}")
        if depth == 0:
            return i
        i += 1
    return -1


def nesting(text: str) -> int:
    """Deepest level of any bracket."""
    depth = deepest = 0
    for c in text:
        if c in "({[":
            depth += 1
            deepest = max(deepest, depth)
        elif c in ")}]":
            depth = max(0, depth - 1)
    return deepest


def _brace_arguments(text: str) -> str:
    """The text with arguments in braces at every level: `\\frac12` is `\\frac{1}{2}`."""
    out, i = [], 0
    while (match := _TAKES.search(text, i)) is not None:
        out.append(text[i:match.end()])
        i, wanted = match.end(), 1 if match.group() == r"\sqrt" else 2
        if wanted == 1 and (index := _ROOT_INDEX.match(text, i)):
            out.append(index.group().strip())
            i = index.end()
        for _ in range(wanted):
            single = _ARGUMENT.match(text, i)
            if single:
                out.append("{" + single.group(1) + "}")
                i = single.end()
                continue
            start = len(text) - len(text[i:].lstrip())
            if start >= len(text) or text[start] != "{" or (end := closing(text, start)) < 0:
                break
            out.append("{" + _brace_arguments(text[start + 1:end]) + "}")
            i = end + 1
    out.append(text[i:])
    return "".join(out)


def _unwrap(text: str) -> str:
    """The text without $...$, \\(...\\), **...**, braces around it, and final punctuation."""
    while True:
        before = text
        text = text.strip().rstrip(".,;:\\ \n\t")
        for left, right in _DELIMITERS:
            inside = text[len(left):-len(right)]
            if text.startswith(left) and text.endswith(right) and len(text) > len(left + right) and left not in inside \
                    and not inside.endswith("\\"):
                text = inside
        if text.startswith("{") and closing(text, 0) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            return text


@lru_cache(maxsize=16384)
def normalise(text: str) -> str:
    """The usual spelling of an answer. Spaces in `\\text{}` and between digits stay."""
    if nesting(text) > MAX_NESTING:
        return text
    text = _unwrap(_LEADING_BREAK.sub("", _DOTS.sub(lambda _: r"\ldots ", _unicode(text))))
    # Groups of three digits are joined, but not before a plain slash: 1 400/500 is a mixed number.
    text = _GROUPING.sub("", text) if not re.search(r"[0-9]\s*/", text) or "\\" in text else text
    if r"\\begin" in text:
        # A gold that was escaped twice.
        text = text.replace("\\\\", "\\")
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)
    if (dollars := re.findall(r"(?<!\\)\$", text)) and len(dollars) % 2 == 0:
        text = re.sub(r"(?<!\\)\$", " ", text)
    if {"j", "k"} & set(_UNIT_VECTOR.findall(text)):
        text = _UNIT_VECTOR.sub(r"\\unitvector{\1}", text)
    for pattern, new in _PASSES:
        text = pattern.sub(new, text)
    text = _unwrap(_SPACES.sub(" ", _brace_arguments(text)))
    text = _ANNOUNCEMENT.sub("", re.sub(r"^\\text\{([^{}a-zA-Z]*)\}$", r"\1", text))
    return _unwrap(re.sub(r"\{\{([^{}]*)\}\}", r"{\1}", text))


@lru_cache(maxsize=16384)
def key(text: str) -> str:
    """A normalised answer without meaningless spaces: answers with the same key are spelled alike."""
    text = re.sub(r"(?<=\\text\{)\s+|\s+(?=\})", "", text)
    text = re.sub(r"(?<![0-9])\.(?=[0-9])", "0.", text)
    return re.sub(r"(?<![0-9a-zA-Z])\s+|\s+(?![0-9a-zA-Z])", "", text)
