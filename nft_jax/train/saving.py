"""Checkpoints and results of a run whose disk may refuse them: a save that fails does not end the training, and the end
of the training waits for room."""
from __future__ import annotations

import time
from collections.abc import Callable

from nft_jax.runtime.distributed import process_count
from nft_jax.runtime.writing import of_the_disk, reason
from nft_jax.train.run import Progress, Run
from nft_jax.train.state import TrainState
from nft_jax.types import Halted

PATIENCE = 600.0      # seconds for which the end of a run waits for room on the disk
PAUSE = 10.0          # between two tries


def save_checkpoint(run: Run, state: TrainState, progress: Progress, score: float | None = None) -> None:
    """Starts to save, as `Checkpoints.save`. What goes wrong, in this save or in the one before, whose end is known
    only now, is said; the checkpoints that are there stay, and the next is tried when it is due."""
    try:
        run.checkpoints.wait()
    except Exception as error:                 # orbax's threads raise what they like
        _say_failed(run, error)
    try:
        run.checkpoints.save(progress.step, state, progress.counters(), progress.groups(), score)
    except Exception as error:
        _say_failed(run, error)


def _say_failed(run: Run, error: Exception) -> None:
    run.console.say(f"a checkpoint could not be written ({reason(error)}). The newest is that of step "
                    f"{run.checkpoints.latest}; the run goes on, and the next is tried when it is due")


def finish_writing(run: Run, state: TrainState, progress: Progress, write_results: Callable[[], None]) -> None:
    """`write_results`, and returns when the checkpoint of the newest step and all that waits are on disk. Raises
    Halted, which names what is not, where that takes longer than PATIENCE. Where processes save together nothing of
    that is tried twice: they would wait for each other in different places."""
    if process_count() > 1:
        run.checkpoints.wait()             # first: where the results fail, the last step is saved
        write_results()
    else:
        run.writing("results", "curves.png, model/ and summary.json", write_results)
    until = time.monotonic() + PATIENCE
    while True:
        run.watchdog.feed("save")
        failed = _last_checkpoint(run, state, progress) if process_count() == 1 else []
        if run.writing.retry() and not failed:
            return
        missing = [*failed, *run.writing.waiting]
        if time.monotonic() > until:
            raise Halted(f"not everything could be written to {run.folder}: {'; '.join(missing)}. The newest "
                         f"checkpoint is that of step {run.checkpoints.latest}: make room, and the same command goes "
                         "on from it.")
        run.console.say(f"cannot write {'; '.join(missing)}. Waiting for room on the disk, "
                        f"{until - time.monotonic():.0f} seconds more")
        time.sleep(PAUSE)


def _last_checkpoint(run: Run, state: TrainState, progress: Progress) -> list[str]:
    """Saves the newest step where it is not saved, and waits for it. What went wrong, if anything."""
    try:
        if progress.step and progress.step not in (run.checkpoints.asked, run.checkpoints.latest):
            run.checkpoints.save(progress.step, state, progress.counters(), progress.groups())
        run.checkpoints.wait()
    except Exception as error:
        if not of_the_disk(error) and "space" not in str(error):
            raise
        return [f"the checkpoint of step {progress.step}: {reason(error)}"]
    return []
