"""Programs for a tiny stack machine: questions, hidden tests, the interpreter, and the reward.
Imports no jax.

A program is one line. A letter pushes an input, a digit pushes itself, + - * take two values and
push one. A program is right when it leaves one value, the expected one, for every hidden test.
`2*(a+b)-c` is `2ab+*c-`, or `ab+2*c-`: many programs are right, so tests decide and not a string.
"""
import hashlib
import json
import random
from collections.abc import Iterator

from nft_jax.verify.rewards import register

INPUTS = "abc"
LONGEST, LARGEST = 64, 10**12           # instructions of a program, size of a value
Tree = str | tuple                       # a leaf, or (operator, left, right)


def run_program(program: str, values: dict[str, int]) -> int | None:
    """The result of a program on its inputs; None for a text that is no program, or leaves not exactly one value."""
    stack: list[int] = []
    if len(program) > LONGEST:
        return None
    for instruction in program:
        if instruction in values:
            stack.append(values[instruction])
        elif instruction in "0123456789":
            stack.append(int(instruction))
        elif instruction in "+-*" and len(stack) >= 2:
            right, left = stack.pop(), stack.pop()
            result = left + right if instruction == "+" else left - right if instruction == "-" else left * right
            if abs(result) > LARGEST:
                return None
            stack.append(result)
        else:
            return None
    return stack[0] if len(stack) == 1 else None


@register("stack-program")
def passes_tests(prompt: str, response: str, gold: str) -> float:
    """1 when the program in the response gives the expected value for every hidden test.

    `gold` is JSON: a list of [inputs, expected].
    """
    return float(all(run_program(response.strip(), values) == expected for values, expected in json.loads(gold)))


def draw(rng: random.Random, operators: int) -> Tree:
    """A random expression with so many operators."""
    if operators == 0:
        return rng.choice(INPUTS) if rng.random() < 0.7 else str(rng.randint(2, 9))
    left = rng.randrange(operators)
    return rng.choice("+-*"), draw(rng, left), draw(rng, operators - 1 - left)


def infix(tree: Tree, outer: str = "", is_right: bool = False) -> str:
    """The expression as one writes it, with the brackets it needs."""
    if isinstance(tree, str):
        return tree
    operator, left, right = tree
    text = infix(left, operator) + operator + infix(right, operator, True)
    needed = (outer == "*" and (is_right or operator != "*")) or (outer == "-" and is_right and operator != "*")
    return f"({text})" if needed else text


def postfix(tree: Tree) -> str:
    """The program that computes the expression, operands first."""
    return tree if isinstance(tree, str) else postfix(tree[1]) + postfix(tree[2]) + tree[0]


def value(tree: Tree, values: dict[str, int]) -> int:
    """The expression's value, computed from the tree: the tests' own reference."""
    if isinstance(tree, str):
        return values[tree] if tree in values else int(tree)
    left, right = value(tree[1], values), value(tree[2], values)
    return {"+": left + right, "-": left - right, "*": left * right}[tree[0]]


def split_of(problem: str) -> str:
    """The one split of an expression: base (the warm-up's), train or heldout."""
    return ("base", "train", "heldout")[hashlib.blake2b(problem.encode(), digest_size=2).digest()[0] % 3]


def expressions(split: str, seed: int) -> Iterator[tuple[str, Tree]]:
    """(problem, tree) of a split, for ever; 2 to 4 operators and at least one input."""
    rng = random.Random(f"stack/{split}/{seed}")
    while True:
        tree = draw(rng, rng.randint(2, 4))
        problem = infix(tree)
        if any(name in problem for name in INPUTS) and split_of(problem) == split:
            yield problem, tree


def questions(split: str, count: int, seed: int = 0) -> list[dict]:
    """Rows of problem and answer; the answer is the hidden tests: six draws of inputs with the expected values."""
    rows: dict[str, dict] = {}
    stream = expressions(split, seed)
    while len(rows) < count:
        problem, tree = next(stream)
        rng = random.Random(f"tests/{problem}")
        tests = [{name: rng.randint(-20, 20) for name in INPUTS} for _ in range(6)]
        rows[problem] = {"problem": problem, "answer": json.dumps([[inputs, value(tree, inputs)] for inputs in tests])}
    return list(rows.values())


def attempts(seed: int, imperfect: bool) -> Iterator[tuple[str, str]]:
    """(problem, program) for the warm-up, from the base split: right programs, or a mixture of
    which half are wrong.

    They are wrong as a beginner's are: operands exchanged, an operator or its place mistaken, the
    end forgotten.
    """
    rng = random.Random(f"attempts/{seed}")
    for problem, tree in expressions("base", seed):
        program = postfix(tree)
        if imperfect and rng.random() < 0.75:
            places = [i for i, character in enumerate(program) if character in "+-*"]
            i = rng.choice(places)
            match rng.randrange(4):
                case 0:
                    program = program[:i] + rng.choice("+-*".replace(program[i], "")) + program[i + 1:]
                case 1:
                    program = program[:-1]
                case 2:
                    tree = (tree[0], tree[2], tree[1])
                    program = postfix(tree)
                case _:
                    program = program[:i] + program[i + 1:] + program[i]
        yield problem, program
