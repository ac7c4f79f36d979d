"""What the processes of a run must agree on before they start."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax

from nft_jax.config import Config
from nft_jax.data.stream import PromptStream, digest
from nft_jax.model.config import ModelConfig
from nft_jax.objectives.custom import record_of
from nft_jax.rollout.evaluation import HeldOut
from nft_jax.runtime.distributed import process_count, require_same
from nft_jax.types import InputError


def require_one_run(config: Config, model: ModelConfig, stream: PromptStream, held_out: Sequence[HeldOut]) -> None:
    """Raises SharedError where the processes were given different configurations, models, questions, objectives or
    versions."""
    if process_count() == 1:
        return
    fields = {f"{room}.{name}" if name else room: repr(part)
              for room, value in config.to_dict().items()
              for name, part in (value if isinstance(value, dict) else {"": value}).items()}
    fields.pop("rollout.slots")                # of each machine's free memory; it changes no answer
    require_same(fields | {
        "jax": jax.__version__, "the model's config.json": repr(model), "the questions": stream.digest(),
        "the source of the objective": record_of(config.objective).partition("\n")[0],
        **{f"the held-out questions {one.name}": digest(one.prompts) for one in held_out}}, "what they were given")


def require_shared(folder: Path) -> None:
    """Raises InputError where this process does not see the folder that the first one has made."""
    if not (folder / "config.json").exists():
        raise InputError(f"workdir is {str(folder)!r}, which the first process has made and this one does not see: "
                         "choose a folder that all of them share (NFS, Lustre, a mounted bucket).")
