"""Runs a tiny model again and again in one folder, each time until it kills itself with SIGKILL at a file event.

    python killed.py SPEC.json

The specification is {"folder", "model", "mesh", "devices", "rank", "kills": [[event, n, torn], ...], "ends"}. The run
is started and kills itself at the n-th file event of that name, and so on. With "ends" it is started once more and
comes to its end. Each start is a forked process of its own: importing, which costs most, is done once. The last line
printed is JSON: for each start, how it ended (the signal's number, or the status) and the names of its file events.

Why file events? Only the disk survives SIGKILL. So a kill at any moment leaves what a kill at the next file event
leaves, or, in the middle of a write, a file that is not whole (`torn`). Arrays and parquet files are written by C++,
which Python does not see: they are torn at the rename that follows."""
import json
import os
import re
import signal
import sys
import traceback
import zlib
from pathlib import Path

import jax

from nft_jax import config
from nft_jax.train import loop
from tests.support.runs import Judge

STEPS = 6
# Audit events that change a folder, and which of their arguments is the path.
# https://docs.python.org/3/library/audit_events.html
EVENTS = {"open": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "os.truncate": 0}
# What differs between two names of the same event: step numbers, hashes, temporary names.
RANDOM = re.compile(r"(?<=saving-)\w+|[0-9a-f]{16,}|[0-9]+")


def config_of(chain: dict) -> config.Config:
    return config.Config(
        workdir=chain["folder"], steps=STEPS, policy=config.PolicyConfig(path=chain["model"]),
        data=config.DataConfig(source="arithmetic", max_prompt_tokens=24, limit=50),
        mesh=config.MeshConfig(*chain["mesh"]),
        rollout=config.RolloutConfig(prompts_per_step=3, samples_per_prompt=4, max_new_tokens=24, slots=8,
                                     block_size=8),
        batch=config.BatchConfig(updates_per_step=2, row_length=64, rows_per_micro_batch=8),
        adapter=config.AdapterConfig(chain["rank"]),
        optimizer=config.OptimizerConfig(learning_rate=1e-3, warmup_updates=4),
        evaluation=config.EvaluationConfig(questions=3, samples=2, every=2),
        checkpoint=config.CheckpointConfig(every=1, keep=1, keep_every=3, best="evaluation/accuracy/all"))


# Nothing to learn from every third question; otherwise the text decides, so that accuracies differ, with rewards that
# float32 does not hold. (A surplus of groups is the rule: a second batch asks for more than are missing.)
JUDGE = Judge(lambda i, text, gold: 0.7 if int(gold) % 3 and zlib.crc32(text.encode()) % 3 == 0 else 0.1)


def path_of(event: str, arguments: tuple) -> Path | None:
    """The path that an event changes; None for other events."""
    if event not in EVENTS or not isinstance(arguments[EVENTS[event]], str | os.PathLike):
        return None
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return None
    path = Path(arguments[EVENTS[event]])
    # shutil.rmtree names a file relative to an open folder, whose number is the last argument.
    if event in ("os.remove", "os.rmdir") and arguments[-1] >= 0:
        path = Path(os.readlink(f"/proc/self/fd/{arguments[-1]}"), path)
    return Path.cwd() / path


def tear(event: str, arguments: tuple, path: Path) -> None:
    """Leaves what a kill in the middle of a write leaves: half a row, or half of each file about to be renamed."""
    if event == "open":
        with path.open("ab") as file:
            file.write(b'{"step": 1, "accur')
    if event == "os.rename":
        source = Path(arguments[0])
        for file in [source] if source.is_file() else [each for each in source.rglob("*") if each.is_file()]:
            os.truncate(file, file.stat().st_size // 2)


def watch(folder: Path, record: Path, kill: tuple[str, int, bool] | None) -> None:
    """Writes the names of this process's file events to `record`, and ends it at the event that `kill` names."""
    names, passed, dying = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 0, False

    def hook(event, arguments):
        nonlocal passed, dying
        path = None if dying else path_of(event, arguments)
        if path is None or not path.is_relative_to(folder):
            return
        name = f"{event} {RANDOM.sub('N', str(path.relative_to(folder)))}"
        os.write(names, f"{name}\n".encode())
        passed += kill is not None and name == kill[0]
        if kill is not None and name == kill[0] and passed == kill[1]:
            dying = True
            if kill[2]:
                tear(event, arguments, path)
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()                             # in a thread that is not the first to die

    sys.addaudithook(hook)


def start(chain: dict, kill: tuple[str, int, bool] | None = None) -> tuple[int, list[str]]:
    """Forks a process that trains. Returns its exit code and the names of its file events."""
    sys.stdout.flush()
    folder = Path(chain["folder"])
    record = folder.with_suffix(".events")
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status, record.read_text().splitlines()
    try:
        jax.config.update("jax_num_cpu_devices", chain["devices"])
        watch(folder, record, kill)
        loop.train(config_of(chain), verifier=JUDGE, quiet=True)
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main() -> None:
    chain = json.loads(Path(sys.argv[1]).read_text())
    ends = [start(chain, kill) for kill in chain["kills"]]
    if chain["ends"]:
        ends.append(start(chain))
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
