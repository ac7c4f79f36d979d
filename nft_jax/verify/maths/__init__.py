"""Whether an answer to a maths question is right. README.md has the conventions.

    extract.py      where the answer stands in the response
    judge.py        from the answer to a verdict: the way in; also what is too large, and which golds are usable
    copied.py       whether an answer only repeats the question
    normalise.py    one spelling for what means the same in LaTeX
    read.py         from a text to one typed answer (answer.py) that consumed all of it
    expression.py   tokens and the grammar of expressions; numbers are exact at once
    units.py        the closed list of units
    compare.py      which typed answers mean the same
    normal.py       the normal form of an expression: proofs without sympy
    numeric.py      values that refute, exact zero tests that prove; loaded by workers only
    symbolic.py     all of it, and math-verify's second opinion; loaded by workers only
"""
