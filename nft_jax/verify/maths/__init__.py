"""Whether an answer to a maths question is right. README.md has the conventions.

    extract.py      where the answer stands in the response
    judge.py        from the answer to a verdict: the way in; also what is too large, and which golds are usable
    copied.py       whether an answer only repeats the question
    normalise.py    one spelling for what means the same in LaTeX
    read.py         from a text to one typed answer (answer.py) that consumed all of it
    quantity.py     an expression with its unit · words.py  numbers and phrases · names.py  what stands before =
    regions.py      sets of real numbers
    expression.py   tokens and the grammar of expressions
    nodes.py        expressions, and their exact arithmetic
    units.py        the closed list of units
    compare.py      which typed answers mean the same
    algebra.py      whether two expressions are equal, with sympy and math-verify; loaded by workers only
"""
