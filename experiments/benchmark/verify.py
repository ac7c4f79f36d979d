"""The verifier's speed beside plain math-verify, in one run: `python -m experiments.benchmark --task verify`.

The realistic mix is like a rollout: worked solutions of about 1 kB, eight samples a question.
Nine golds in ten are integers, decimals or plain fractions. Five of eight samples are right, one of
them spelled differently. Golds come from the files of the folder named by NFT_TEST_DATA, or from a
seeded generator without it.

The symbolic mix has expressions only, each right and spelled differently, no pair twice.

cold       a new verifier whose workers are up
warm       the same answers again
symbolic   the symbolic mix

CPU seconds are those of the caller, the workers and their parent, from /proc (Linux).
"""
from __future__ import annotations

import json
import os
import random
import re
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nft_jax.config import VerifierConfig
from nft_jax.verify import Verifier
from nft_jax.verify.maths.extract import last_box
from nft_jax.verify.maths.judge import alternatives

SETS = ("math500", "minerva", "amc", "aime24", "gsm8k_test")
SAMPLES = 8
NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?|-?\\frac\{[0-9]+\}\{[0-9]+\}|-?[0-9]+/[0-9]+")
SENTENCES = (
    "First we write down what is given and name the unknown $x$, so that $3x + {a} = {b}$ follows at once.",
    "Substituting $u = x^2 - {a}$ turns the expression into $\\frac{{u + {b}}}{{u - {b}}}$, which is easier to handle.",
    "By the theorem of Pythagoras the diagonal is $\\sqrt{{{a}^2 + {b}^2}}$, and we keep it in this form for now.",
    "Adding the two equations gives $2y = {a} + {b}$, so that $y$ is half of that, and the first one gives $x$.",
    "We check the other case as well: there the left side is $\\{{{a}, {b}\\}}$, which contradicts the assumption.",
    "There are ${a}$ ways to choose the first one and ${b}$ ways for the second, independently of each other.",
)


class Mix(NamedTuple):
    responses: list[str]
    golds: list[str]


def solution(answer: str, rng: random.Random) -> str:
    """A worked solution of about 1 kB that ends with the box."""
    text = " ".join(rng.choice(SENTENCES).format(a=rng.randint(2, 99), b=rng.randint(2, 99)) for _ in range(10))
    return f"{text} Therefore the answer is $\\boxed{{{answer}}}$."


def expression(rng: random.Random) -> tuple[str, str]:
    """An expression, and another spelling of the same value that no rule of notation relates to it."""
    a, b, c = rng.randint(2, 30), rng.choice((2, 3, 5, 7, 11, 13)), rng.randint(2, 12)
    return rng.choice((
        (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}"),
        (rf"\frac{{{a}}}{{\sqrt{{{b}}}}}", rf"\frac{{{a}\sqrt{{{b}}}}}{{{b}}}"),
        (rf"x^2-{a * a}", rf"(x-{a})(x+{a})"),
        (rf"{c}(x+{a})", rf"{c}x+{c * a}"),
        (rf"\frac{{{a}\pi}}{{{c}}}+{b}", rf"\frac{{{a}\pi+{b * c}}}{{{c}}}"),
        (rf"e^{{{a}}}\ln {b}", rf"\frac{{e^{{{a}}}\ln {b ** 2}}}{{2}}"),
    ))


def numbers_and_expressions(rng: random.Random) -> tuple[list[str], list[str]]:
    """Golds: plain numbers and others, from the real files or made."""
    folder = os.environ.get("NFT_TEST_DATA")
    if folder:
        golds = [json.loads(line)["answer"] for name in SETS
                 for line in (Path(folder) / "data" / f"{name}.jsonl").read_text().splitlines()]
        golds = [str(gold).rpartition("####")[2].strip() for gold in golds]
        golds = [gold for gold in golds if gold and last_box(rf"\boxed{{{gold}}}") == gold]
        return [g for g in golds if NUMBER.fullmatch(g)], [g for g in golds if not NUMBER.fullmatch(g)]
    made = [str(rng.randint(0, 999)) for _ in range(700)] + [f"{rng.randint(0, 99)}.{rng.randint(1, 99)}"
                                                             for _ in range(100)]
    made += [rf"\frac{{{rng.randint(1, 9)}}}{{{rng.randint(10, 30)}}}" for _ in range(200)]
    return made, [expression(rng)[0] for _ in range(200)]


def realistic(questions: int, seed: int = 0) -> Mix:
    """The mix of a rollout."""
    rng, mix = random.Random(seed), Mix([], [])
    plain, others = numbers_and_expressions(rng)
    rng.shuffle(plain)
    rng.shuffle(others)
    tenth = questions // 10
    for gold in plain[:questions - tenth] + others[:tenth]:
        wrong = [str(rng.randint(0, 999)) for _ in range(3)]
        written = alternatives(gold)[0].strip()
        for answer in [written] * 4 + [rf"\displaystyle {written}"] + wrong:
            mix.responses.append(solution(answer, rng))
            mix.golds.append(gold)
    return mix


def symbolic(count: int, seed: int = 0) -> Mix:
    """Expressions only, every pair once."""
    rng, pairs = random.Random(seed), {}
    while len(pairs) < count:
        gold, answer = expression(rng)
        pairs[gold, answer] = solution(answer, rng)
    return Mix(list(pairs.values()), [gold for gold, _ in pairs])


def cpu_seconds(pool: Verifier | None) -> float:
    """CPU time so far of this process, of the pool's workers, and of their parent with its dead children."""
    def stat(pid: int | str) -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

    if pool is None:
        return time.process_time()
    workers = [stat(pid) for pid in pool.worker_pids]
    ticks = [*stat(workers[0][1])[11:15], *(each for worker in workers for each in worker[11:13])]
    return time.process_time() + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def timed(judge: Callable[[Mix], list[bool]], mix: Mix, pool: Verifier | None) -> dict:
    """Verdicts a second of wall clock and of CPU, and the share that is right."""
    wall, cpu = time.perf_counter(), cpu_seconds(pool)
    right = judge(mix)
    cpu, wall = cpu_seconds(pool) - cpu, time.perf_counter() - wall
    return {"wall": len(right) / wall, "cpu": len(right) / cpu, "right": sum(right) / len(right)}


def measure(judge: Callable[[Mix], list[bool]], mix: Mix, expressions: Mix, started: float,
            pool: Verifier | None = None) -> dict[str, dict]:
    """What `timed` gives for each of cold, warm and symbolic, and the start-up since `started` (seconds)."""
    # Only a worker reads an integral, so the workers are up after this.
    judge(Mix([r"\boxed{\frac{1}{3}}"] * SAMPLES, [r"\int_0^1 x^2\,dx"] * SAMPLES))
    start = {"wall": time.perf_counter() - started}
    return {"start": start, "cold": timed(judge, mix, pool), "warm": timed(judge, mix, pool),
            "symbolic": timed(judge, expressions, pool)}


def measure_ours(mix: Mix, expressions: Mix, workers: int) -> dict[str, dict]:
    def judge(mix: Mix) -> list[bool]:
        # A group at a time, as rollouts finish.
        pending = [pool.submit(mix.responses[i:i + SAMPLES], mix.golds[i:i + SAMPLES])
                   for i in range(0, len(mix.golds), SAMPLES)]
        return [verdict.outcome == "right" for each in pending for verdict in each.result()]

    started = time.perf_counter()
    with Verifier(VerifierConfig(workers=workers)) as pool:
        return measure(judge, mix, expressions, started, pool)


def measure_math_verify(mix: Mix, expressions: Mix) -> dict[str, dict]:
    """math-verify alone, in this process. It gets the content of the last box, the form that it reads best."""
    started = time.perf_counter()
    from math_verify import parse, verify

    def judge(mix: Mix) -> list[bool]:
        return [verify(parse(rf"\boxed{{{gold}}}"), parse(rf"\boxed{{{last_box(response)}}}"))
                for response, gold in zip(mix.responses, mix.golds, strict=True)]

    return measure(judge, mix, expressions, started)


def lines(threads: int, reps: int, questions: int = 250, expressions: int = 200) -> list[dict]:
    """One result for each peer, medians over the repetitions. `value` and `value_cpu` are of the cold mix."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    mix, hard = realistic(questions), symbolic(expressions)
    runs = {"nft_jax": [measure_ours(mix, hard, threads) for _ in range(reps)],
            "math-verify": [measure_math_verify(mix, hard) for _ in range(reps)]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out = []
    for peer, found in runs.items():
        def median(part: str, key: str, digits: int = 1, found=found) -> float:
            return round(statistics.median(run[part][key] for run in found), digits)
        out.append({
            "peer": peer, "model": None, "task": "verify", "value": median("cold", "wall"),
            "value_cpu": median("cold", "cpu"), "value_cpu_warm": median("warm", "cpu"),
            "value_cpu_symbolic": median("symbolic", "cpu"), "peak_rss_mb": round(peak),
            "compile_s": round(max(run["start"]["wall"] for run in found), 2),
            "right": median("cold", "right", 4), "verdicts": len(mix.golds),
            "right_symbolic": median("symbolic", "right", 4),
            "golds": "NFT_TEST_DATA" if os.environ.get("NFT_TEST_DATA") else "generated"})
    return out
