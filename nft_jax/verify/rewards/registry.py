"""Any reward: a function `(prompt, response, gold) -> float in [0, 1]`, alone or composed (README.md has
examples).

`prompt` is the question as the data has it, `gold` the answer column as text ("" when there is none). The
function runs in the verifier's worker processes, where it can be killed. They import the module that registers
the reward, and refuse a module that imports jax.
"""
from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from nft_jax.runtime.names import load_module
from nft_jax.types import InputError
from nft_jax.verify.maths.extract import extract
from nft_jax.verify.maths.judge import answer_of, copied_verdict, judge, quick_verdict

SHIPPED = {"code": "nft_jax.verify.rewards.code", "code-share": "nft_jax.verify.rewards.code",
           "reasoning-gym": "nft_jax.verify.rewards.gym", "reasoning-gym-soft": "nft_jax.verify.rewards.gym"}
"""Rewards that come with the package -> the module that registers them."""
TAKEN = SHIPPED | {"math": __name__, "boxed": __name__}


def plain_gold(row: Mapping) -> str:
    """The first of `answer`, `solution`, `reward_model.ground_truth` as text; "" without any. A value that is
    not a string is written as JSON."""
    wrapped = row.get("reward_model")
    wrapped = wrapped.get("ground_truth") if isinstance(wrapped, Mapping) else wrapped
    values = row.get("answer"), row.get("solution"), wrapped
    # nan, the only value that differs from itself, is no gold.
    value = next((value for value in values if value is not None and value == value), "")
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Reward:
    """A reward function with what a worker needs to run it. It can be called like the function."""
    name: str
    function: Callable
    home: str = ""                    # module or path of the .py file that registers it; "" = a worker has no way to it
    batch: bool = False               # the function takes and returns lists
    symbolic: bool = False            # it judges maths: workers load math-verify beforehand
    starts_processes: bool = False    # workers let it start programs and write files
    read_gold: Callable[[Mapping], str] = plain_gold        # row -> gold; ValueError says why a row has none
    prepare: Callable[[bool], None] | None = None           # (allow_weak_sandbox) -> None; InputError refuses to start
    solution: Callable[[str, str], str] | None = None       # (prompt, right response) -> which solution it is

    def __call__(self, prompt: str, response: str, gold: str) -> float:
        return self.score([prompt], [response], [gold])[0]

    def score(self, prompts: Sequence[str], responses: Sequence[str], golds: Sequence[str]) -> list[float]:
        """The rewards of several answers, in order. Raises InputError, naming the reward, when it returns more
        or fewer values than answers, or a value that is not a finite number in [0, 1]."""
        if self.batch:
            values = list(self.function(list(prompts), list(responses), list(golds)))
        else:
            values = [self.function(*each) for each in zip(prompts, responses, golds, strict=True)]
        if len(values) != len(responses):
            raise InputError(f"The reward {self.name!r} returned {len(values)} values for {len(responses)} answers: a "
                             "batch reward returns one for each, in order.")
        return [_checked(self.name, value) for value in values]


def _checked(name: str, value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1 or isinstance(value, str):
        raise InputError(f"The reward {name!r} returned {value!r}: a reward is a finite number from 0 (wrong) to 1 "
                         "(right). Scale or clip it inside the function.")
    return number


_registry: dict[str, Reward] = {}


def register(name: str, function: Callable | None = None, *, batch: bool = False, **properties):
    """Give a reward function (or a composition) a name; also a decorator. `properties` are fields of `Reward`.
    The same name again replaces the reward (a notebook's cell may run twice). Raises InputError for a name with
    a colon, or one that the package itself uses."""
    home = _home(2)
    if ":" in name or TAKEN.get(name, home) != home:
        raise InputError(f"The reward's name is {name!r}: names contain no colon, and {', '.join(TAKEN)} are taken.")

    def add(function: Callable):
        if isinstance(function, Reward):
            _registry[name] = replace(function, name=name, home=home)
        else:
            _registry[name] = Reward(name, function, home, batch, **properties)
        return function

    return add if function is None else add(function)


def _home(depth: int) -> str:
    """The caller's module, `depth` frames up, as another process can load it; "" without one. The caller
    counts, not the function: a composition has no module, and a function may be registered elsewhere."""
    names = sys._getframe(depth).f_globals
    if names["__name__"] != "__main__" and names["__name__"] in sys.modules:
        return names["__name__"]
    specification = names.get("__spec__")
    if names["__name__"] == "__main__" and specification is not None:        # python -m package.module
        return specification.name
    file = Path(names.get("__file__") or "")                                 # "<stdin>" is no file
    return str(file.absolute()) if file.suffix == ".py" and file.is_file() else ""


def lookup(name: str | Callable, field: str = "verifier.reward") -> Reward:
    """The reward of a name: a registered or shipped one, "package.module:NAME" or "file.py:NAME" of a function
    or of a name that is registered there. A function comes back as a reward, a `Reward` as it is. Raises
    InputError, naming the configuration's `field`, when there is no such reward."""
    if isinstance(name, Reward):
        return name
    if callable(name):
        return Reward(getattr(name, "__name__", repr(name)), name)
    if name not in _registry and name in SHIPPED:
        importlib.import_module(SHIPPED[name])
    if name in _registry:
        return _registry[name]
    home, separator, attribute = name.rpartition(":")
    if not separator:
        raise InputError(f"{field} is {name!r}: there is no such reward (known: "
                         f"{', '.join(sorted({*_registry, *TAKEN}))}). Register it before the run, or write "
                         "package.module:function or file.py:function.")
    home = str(Path(home).absolute()) if home.endswith(".py") else home
    return _in_module(load_module(home, field), home, attribute, name, field)


def resolve(home: str, name: str) -> Reward:
    """In a worker, the reward that `lookup` found in the pool's process: load `home`, then take the name."""
    module = load_module(home, "verifier.reward")
    return _registry[name] if name in _registry else _in_module(module, home, name.rpartition(":")[2], name)


def _in_module(module: ModuleType, home: str, attribute: str, name: str, field: str = "verifier.reward") -> Reward:
    """The reward of this name that the module registers, else its function; or InputError."""
    registered = _registry.get(attribute)
    found = registered if registered is not None and registered.home == home else getattr(module, attribute, None)
    if not callable(found):
        raise InputError(f"{field} is {name!r}: {home} has no function {attribute!r}, and registers no "
                         "reward of this name.")
    return replace(found, name=name, home=home) if isinstance(found, Reward) else Reward(name, found, home)


def _composed(name: str, function: Callable, parts: Sequence[Reward]) -> Reward:
    """A reward made of others, which needs what any of them needs. The first part that reads golds in a way of
    its own, or tells solutions apart, does it for all parts."""
    readers = [part.read_gold for part in parts if part.read_gold is not plain_gold]
    solutions = [part.solution for part in parts if part.solution is not None]

    def prepare(allow_weak_sandbox: bool) -> None:
        for part in parts:
            if part.prepare is not None:
                part.prepare(allow_weak_sandbox)

    return Reward(name, function, symbolic=any(part.symbolic for part in parts),
                  starts_processes=any(part.starts_processes for part in parts),
                  read_gold=readers[0] if readers else plain_gold, prepare=prepare,
                  solution=solutions[0] if solutions else None)


def weighted_sum(weights: Mapping[str | Callable, float]) -> Reward:
    """The weighted sum of rewards. Raises InputError unless weights are >= 0 and add up to 1."""
    parts = {lookup(name): weight for name, weight in weights.items()}
    if not parts or min(parts.values()) < 0 or abs(sum(parts.values()) - 1) > 1e-9:
        raise InputError(f"weighted_sum has the weights {list(weights.values())}: they must not be negative and must "
                         "add up to 1, so that the reward stays in [0, 1].")

    def total(prompt: str, response: str, gold: str) -> float:
        found = [(part(prompt, response, gold), weight) for part, weight in parts.items()]
        if all(value == 1 for value, weight in found if weight):
            return 1.0                # rounding must not make a right answer wrong
        return min(math.fsum(value * weight for value, weight in found), math.nextafter(1, 0))

    return _composed(" + ".join(part.name for part in parts), total, list(parts))


def all_of(*rewards: str | Callable) -> Reward:
    """1 when every reward is exactly 1, else 0. Raises InputError without rewards."""
    parts = [lookup(reward) for reward in rewards]
    if not parts:
        raise InputError("all_of has no rewards: give at least one.")

    def every_one(prompt: str, response: str, gold: str) -> float:
        return float(all(part(prompt, response, gold) == 1 for part in parts))

    return _composed(" and ".join(part.name for part in parts), every_one, parts)


def gated(gate: str | Callable, reward: str | Callable) -> Reward:
    """`reward` where `gate` (a check of the format, say) is exactly 1; else 0, not run."""
    gate, reward = lookup(gate), lookup(reward)

    def behind_the_gate(prompt: str, response: str, gold: str) -> float:
        return reward(prompt, response, gold) if gate(prompt, response, gold) == 1 else 0.0

    return _composed(f"{reward.name} if {gate.name}", behind_the_gate, [gate, reward])


def _math(prompt: str, response: str, gold: str) -> float:
    """Maths in mode equivalent, as a part of compositions."""
    answer = answer_of(response, gold)
    quick = copied_verdict(prompt, gold, answer) or quick_verdict(gold, answer)
    return float((quick.outcome if quick else judge(gold, answer)[0]) == "right")


def _boxed(prompt: str, response: str, gold: str) -> float:
    """1 when the response has a complete, non-empty box."""
    return float(extract(response) is not None)


register("math", _math, symbolic=True)
register("boxed", _boxed)
