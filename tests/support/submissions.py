"""Submissions: what a function of theirs gives in a sandbox."""
import json

from nft_jax.verify.rewards.sandbox import Limits, run_submission

ADD = json.dumps({"entry": "f", "tests": [{"args": [i, i + 1], "expected": 2 * i + 1} for i in range(4)]})
NONE = {"failed": "no result"}


def run(box, source: str, args=(0,), **limits) -> dict:
    """What `f(*args)` of the submission gives."""
    return run_submission(box, source, "f", [{"args": list(args)}], Limits(**{"seconds": 2.0, **limits}))[0]


def attempt(box, body: str, **limits):
    """Value of the expression or statements in `f`; the name of the exception that stopped them."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    found = run(box, f"def f(x):\n    try:\n{lines}\n    except BaseException as problem:\n"
                        "        return type(problem).__name__\n", **limits)
    return found.get("value", found.get("failed"))
