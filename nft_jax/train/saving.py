"""What a run writes while it trains, on a disk that may be full for a while.

1. `write_rollouts`: the answers of a step.
2. `write_row`: the step's row of metrics.
3. `save_if_due`: a checkpoint.
4. `finish_writing`: at the end, the results; it waits for room.

The order is a contract. A checkpoint never knows of a step that the rows lack. Whatever is newer than
the checkpoint is cut and done again. A full disk does not end the training; any other failed write does."""
import time
from collections.abc import Callable
from functools import partial

import pyarrow.parquet as pq

from nft_jax.record.rollouts import groups_to_table
from nft_jax.runtime.distributed import is_first, process_count
from nft_jax.runtime.files import replaced
from nft_jax.runtime.mesh import peak_memory_mb
from nft_jax.runtime.writing import cannot_be_written, disk_is_full, reason
from nft_jax.train.run import Run
from nft_jax.train.state import Progress, TrainState
from nft_jax.train.step_metrics import Rollouts, Updates, count_skipped, drift, nonfinite_advice, write_batches
from nft_jax.train.work import speed_of
from nft_jax.types import Halted

PATIENCE = 600.0       # seconds for which the end of a run waits for room on the disk
PAUSE = 10.0           # seconds between two tries
ROLLOUTS_KEPT = 8      # steps whose answers wait in memory, at most, while their files cannot be written


def write_rollouts(run: Run, step: int, rollouts: Rollouts) -> None:
    """Writes `rollouts/step_NNNNNN.parquet`: every answer that the step generated or trained on."""
    if not is_first():
        return
    # Kept groups last: the update that trained on them may have computed their old log-probs.
    groups = {group.prompt.index: group for group in [*rollouts.seen, *rollouts.kept]}
    kept = frozenset(group.prompt.index for group in rollouts.kept)
    table = groups_to_table([groups[index] for index in sorted(groups)], kept)
    path = run.folder / "rollouts" / f"step_{step:06d}.parquet"

    def write() -> None:
        with replaced(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    run.writing("rollouts", path.name, write, most=ROLLOUTS_KEPT)


def count_updates(run: Run, updates: Updates, skipped: list[int], progress: Progress) -> None:
    """Counts the updates that were not finite and writes their batches. With guard.max_nonfinite of
    them in a row, the run is to end."""
    progress.skipped_updates += len(skipped)
    progress.skipped_in_a_row, most = count_skipped(skipped, len(updates.made), progress.skipped_in_a_row)
    if skipped:
        folder = run.folder / "nonfinite"
        paths = write_batches(updates, skipped, progress.step, folder, run.writing) if is_first() else []
        run.console.say(f"step {progress.step}: {len(skipped)} of {len(updates.made)} updates were skipped, because "
                        "their loss or gradient is not finite. Their batches: "
                        f"{', '.join(map(str, paths)) or 'not written, there are enough'}")
    if most >= run.config.guard.max_nonfinite and skipped:
        # Whoever continues the run gets as many again.
        progress.skipped_in_a_row, cause = 0, updates.causes[0]
        advice = nonfinite_advice(cause, progress.updates - progress.skipped_updates, run.config.objective)
        run.halted = (f"{most} updates in a row, up to step {progress.step}, had a {cause} that is not finite "
                      f"(guard.max_nonfinite is {run.config.guard.max_nonfinite}). {advice}")


def write_row(run: Run, progress: Progress, metrics: dict) -> None:
    """Writes the row of metrics of this step, with the seconds of its phases since the row before."""
    seconds = run.clock.lap()
    progress.seconds += seconds["step"]
    metrics |= speed_of(metrics, seconds, run.plan.mesh)
    metrics |= {f"seconds/{name}": value for name, value in seconds.items()}
    metrics |= {"compiles": run.compiles.take(), "memory/peak_mb": peak_memory_mb()}
    if run.writer is not None:
        run.writer.write(progress.step, metrics)
    run.console.step(progress.step, metrics)
    if line := drift(metrics, run.stream.size):
        run.console.say(line)


def save_if_due(run: Run, state: TrainState, progress: Progress, metrics: dict) -> None:
    """Starts to save every checkpoint.every steps, and where the metric checkpoint.best has a new largest value."""
    config = run.config.checkpoint
    score = metrics.get(config.best)
    if progress.step and (progress.improves(score) or progress.step % config.every == 0):
        with run.clock.phase("checkpoint"):
            save_checkpoint(run, state, progress, score)


def save_checkpoint(run: Run, state: TrainState, progress: Progress, score: float | None = None) -> None:
    """Starts an asynchronous save. Where the disk is full, that is said of this save and of the previous one. The
    existing checkpoints are kept, and the next save is tried when it is due. Any other error ends the run."""
    save = partial(run.checkpoints.save, progress.step, state, progress.counters(), progress.groups(), score)
    for attempt in (run.checkpoints.wait, save):
        try:
            attempt()
        # orbax's threads raise what they like.
        except Exception as error:
            if not disk_is_full(error):
                raise cannot_be_written("a checkpoint", error) from error
            run.console.say(f"a checkpoint could not be written ({reason(error)}). The newest one is of step "
                            f"{run.checkpoints.latest}; the run goes on, and the next is tried when it is due")


def save_last(run: Run, state: TrainState, progress: Progress) -> None:
    """Starts to save the newest step, unless it is saved already."""
    if progress.step and progress.step not in (run.checkpoints.asked, run.checkpoints.latest):
        save_checkpoint(run, state, progress)


def finish_writing(run: Run, state: TrainState, progress: Progress, write_results: Callable[[], None]) -> None:
    """Calls `write_results`, and returns when the newest checkpoint and all waiting writes are on disk.

    Raises Halted, which names what is missing, where that takes longer than PATIENCE. Several processes try
    nothing twice: they would wait for each other in different places."""
    if process_count() > 1:
        # First the checkpoint: where the results fail, the last step is saved.
        run.checkpoints.wait()
        write_results()
    else:
        run.writing("results", "curves.png, model/ and summary.json", write_results)
    until = time.monotonic() + PATIENCE
    while True:
        run.watchdog.feed("save")
        failed = _try_last(run, state, progress) if process_count() == 1 else []
        if run.writing.retry() and not failed:
            return
        missing = [*failed, *run.writing.waiting]
        if time.monotonic() > until:
            raise Halted(f"not everything could be written to {run.folder}: {'; '.join(missing)}. The newest "
                         f"checkpoint is of step {run.checkpoints.latest}: make room, and the same command goes "
                         "on from it.")
        run.console.say(f"cannot write {'; '.join(missing)}. Waiting for room on the disk, "
                        f"{until - time.monotonic():.0f} seconds more")
        time.sleep(PAUSE)


def _try_last(run: Run, state: TrainState, progress: Progress) -> list[str]:
    """Saves the newest step unless it is saved, and waits for it. Returns what went wrong, if anything."""
    try:
        if progress.step and progress.step not in (run.checkpoints.asked, run.checkpoints.latest):
            run.checkpoints.save(progress.step, state, progress.counters(), progress.groups())
        run.checkpoints.wait()
    except Exception as error:
        if not disk_is_full(error):
            raise cannot_be_written(f"the checkpoint of step {progress.step}", error) from error
        return [f"the checkpoint of step {progress.step}: {reason(error)}"]
    return []
