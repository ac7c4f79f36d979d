"""Runs a tiny model again and again in one folder, each time until it kills itself with SIGKILL at a given point.

    python killed.py SPEC.json

The specification is a list of chains, each {"folder", "model", "mesh", "devices", "kills": [[point, step, n],
...], "ends"}: the run is started and kills itself at the n-th passage of `point` in the `step`-th of its own steps (0:
from its start on), and so on; with "ends" it is started once more, and comes to its end. Each start is a forked process
of its own (what costs is importing, which is done once). The last line printed is JSON: for each chain, how each start
ended (the signal's number, or the status).
"""
import json
import os
import signal
import sys
import threading
import traceback
import zlib
from concurrent.futures import Future
from pathlib import Path

import jax
from orbax.checkpoint._src.path.atomicity import AtomicRenameTemporaryPath

from nft_jax import policy
from nft_jax.config import (
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    MeshConfig,
    OptimizerConfig,
    PolicyConfig,
    RolloutConfig,
)
from nft_jax.record import checkpoint, metrics
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.schedule import Schedule
from nft_jax.train import loop, run, saving
from nft_jax.types import Verdict

STEPS = 6


def config_of(chain: dict) -> Config:
    return Config(
        workdir=chain["folder"], steps=STEPS, policy=PolicyConfig(path=chain["model"]),
        data=DataConfig(source="arithmetic", max_prompt_tokens=24, limit=50), mesh=MeshConfig(*chain["mesh"]),
        rollout=RolloutConfig(prompts_per_step=3, samples_per_prompt=4, max_new_tokens=24, slots=8, block_size=8),
        batch=BatchConfig(updates_per_step=2, row_length=64, rows_per_micro_batch=8),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_updates=4),
        evaluation=EvaluationConfig(questions=3, samples=2, every=2),
        checkpoint=CheckpointConfig(every=1, keep=1, keep_every=3, best="evaluation/accuracy/all"))


class Judge:
    """Nothing to learn from every third question; otherwise the text decides, so that accuracies differ, with rewards
    that float32 does not hold. (A surplus of groups is the rule: a second batch asks for more than are missing.)"""

    def submit(self, responses, golds, prompts=None):
        future, learnable = Future(), int(golds[0]) % 3
        future.set_result([Verdict("right", 0.7) if learnable and zlib.crc32(text.encode()) % 3 == 0
                           else Verdict("wrong", 0.1) for text in responses])
        return future


class Trap:
    """Ends the process at the n-th `spring` after the `step`-th step of this start has begun."""

    def __init__(self, folder: Path, step: int, n: int):
        self.folder, self.wait, self.n = folder, step, n

    def spring(self) -> None:
        if self.wait <= 0:
            self.n -= 1
            if self.n == 0:
                kill()

    def is_due(self) -> bool:
        """Whether this passage is the last one."""
        self.n -= self.wait <= 0
        return self.wait <= 0 and self.n == 0


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()                             # in a thread that is not the first to die


def before(owner, name):
    def set_up(trap):
        function = getattr(owner, name)
        setattr(owner, name, lambda *a, **k: (trap.spring(), function(*a, **k))[1])
    return set_up


def after(owner, name):
    def set_up(trap):
        function = getattr(owner, name)
        setattr(owner, name, lambda *a, **k: (function(*a, **k), trap.spring())[0])
    return set_up


def around_finalize(late: bool):
    """orbax's renaming of what is written, of each part and then of the whole: before, or after it."""
    def set_up(trap):
        finalize = AtomicRenameTemporaryPath.finalize

        async def trapped(self):
            if not late:
                trap.spring()
            await finalize(self)
            if late:
                trap.spring()
        AtomicRenameTemporaryPath.finalize = trapped
    return set_up


def around_replace(name: str, late: bool = False):
    """The moment in which a file or folder called `name` takes its place."""
    def set_up(trap):
        replace = Path.replace

        def trapped(self, target):
            mine = Path(target).name == name or (name == "*" and self.name.endswith(".partial"))
            if mine and not late:
                trap.spring()
            result = replace(self, target)
            if mine and late:
                trap.spring()
            return result
        Path.replace = trapped
    return set_up


def half_row(trap):
    write = metrics.JsonLines.write

    def trapped(self, step, row):
        if trap.is_due():
            with (trap.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step} | row)[:50])
            kill()
        write(self, step, row)
    metrics.JsonLines.write = trapped


def half_rollouts(trap):
    write = saving.pq.write_table

    def trapped(table, path, **settings):
        write(table, path, **settings)
        if isinstance(path, Path) and trap.is_due():
            os.truncate(path, path.stat().st_size // 2)
            kill()
    saving.pq.write_table = trapped


def half_manifest(trap):
    write = checkpoint.write_manifest

    def trapped(folder, *arguments):
        write(folder, *arguments)
        if trap.is_due():
            os.truncate(folder / "manifest.json", 100)
            kill()
    checkpoint.write_manifest = trapped


def in_evaluation(trap):
    """Between two blocks of decoding, while held-out questions are answered."""
    evaluate, collect, inside = loop.evaluate, Schedule.collect, []

    def trapped(*arguments):
        inside.append(True)
        metrics = evaluate(*arguments)
        inside.clear()
        return metrics

    loop.evaluate = trapped
    Schedule.collect = lambda *a: (inside and trap.spring(), collect(*a))[1]


def in_deletion(trap):
    """Among the files of an old checkpoint, which a thread deletes."""
    unlink = os.unlink

    def trapped(*arguments, **keywords):
        if threading.current_thread() is not threading.main_thread():
            trap.spring()
        unlink(*arguments, **keywords)
    os.unlink = trapped


POINTS = {
    # At the start.
    "configuration": around_replace("config.json"),
    "locked": before(run, "check_room"),
    "verify the checkpoint": before(checkpoint, "damage"),
    "restored": after(run, "restore_or_load"),
    "metrics cut": around_replace("metrics.jsonl"),
    "compile": before(run, "compile_programs"),
    "compiled": after(run, "compile_programs"),
    # In a step.
    "prefill": before(Sampler, "_prefill_padded"),
    "decode": before(Schedule, "collect"),
    "verify": before(Judge, "submit"),
    "score": before(loop, "pack"),
    "collected": after(loop, "collect"),
    "pack": before(loop, "make_batch"),
    "optimizer step": before(loop, "learning_rate"),
    "updated": after(loop, "update"),
    "rollouts half written": half_rollouts,
    "rollouts renamed": around_replace("*"),
    "row half written": half_row,
    "row written": after(metrics.JsonLines, "write"),
    "evaluate": in_evaluation,
    "evaluated": before(loop, "evaluation_metrics"),
    # In a checkpoint.
    "groups to bytes": before(checkpoint, "to_bytes"),
    "save called": before(checkpoint.Checkpoints, "save"),
    "being written": after(checkpoint.Checkpoints, "save"),
    "manifest": before(checkpoint, "write_manifest"),
    "manifest half written": half_manifest,
    "manifest written": after(checkpoint, "write_manifest"),
    "before a rename": around_finalize(late=False),
    "after a rename": around_finalize(late=True),
    "old ones deleted": in_deletion,
    # At the end.
    "curves": around_replace("curves.png"),
    "model half written": before(policy, "save_tokenizer"),
    "model renamed": around_replace("model"),
    "model in its place": around_replace("model", late=True),
    "summary": around_replace("summary.json"),
}


def start(chain: dict, point: str | None = None, step: int = 0, n: int = 0) -> int:
    """Fork a process that trains; its wait status."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        jax.config.update("jax_num_cpu_devices", chain["devices"])
        if point is not None:
            trap, collect = Trap(Path(chain["folder"]), step, n), loop.collect

            def counted(*arguments):
                trap.wait -= 1
                return collect(*arguments)

            loop.collect = counted
            POINTS[point](trap)
        loop.train(config_of(chain), verifier=Judge(), quiet=True)
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main() -> None:
    ends = []
    for chain in json.loads(Path(sys.argv[1]).read_text()):
        statuses = [start(chain, *kill) for kill in chain["kills"]]
        if chain["ends"]:
            statuses.append(start(chain))
        ends.append([os.waitstatus_to_exitcode(status) for status in statuses])
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
