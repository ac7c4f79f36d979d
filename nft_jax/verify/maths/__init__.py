"""Whether an answer to a maths question is right.

    extract.py     where the answer stands in the response
    judge.py       from the answer to a verdict: the way in; also what is too large, and which golds are usable
    copied.py      whether an answer only repeats the question
    normalise.py   one spelling for what means the same in LaTeX
    compare.py     the rules, in order; the conventions are in nft_jax/verify/README.md
    structure.py   lists, sets, tuples, intervals, matrices, words, choices
    units.py       units, currencies, percents, times, number bases, ratios
    exact.py       numbers as exact rationals
    symbolic.py    expressions, with sympy and math-verify; loaded by workers only
"""
