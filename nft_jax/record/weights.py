"""Parameters by path: of a folder in Hugging Face layout, of a hub model, of a run's checkpoint."""
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, SingleDeviceSharding

from nft_jax.config import Config
from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf import load_params, read_config, resolve_folder
from nft_jax.model.parameters import parameter_shardings
from nft_jax.record.checkpoint import LATEST, checkpoint_step, read_params
from nft_jax.record.folder import is_run, read_run
from nft_jax.runtime.compilation import with_shardings
from nft_jax.types import InputError


class Weights(NamedTuple):
    """The parameters of a model, before they are read."""
    folder: Path                     # config.json and tokenizer
    config: ModelConfig
    run: Config | None = None        # whose checkpoint it is
    home: Path | None = None         # of that run
    step: int | None = None          # of that checkpoint

    @property
    def files(self) -> list[list]:
        """Name, bytes and time of change of every file. They tell weights apart without reading them."""
        folder = self.folder if self.run is None else self.home / "checkpoints" / str(self.step)
        found = folder.glob("*.safetensors") if self.run is None else folder.rglob("*")
        stats = [(str(file.relative_to(folder)), file.stat()) for file in sorted(found) if file.is_file()]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

    def read(self, dtype="float32", mesh: Mesh | None = None) -> Any:
        """The parameters in `dtype`, split over `mesh` as in training; None leaves them on the default device.

        They are streamed from the files to their devices. Raises InputError for files that are
        damaged or do not fit the model, and for values that are not finite."""
        shapes = decoder.parameter_shapes(self.config)
        shardings = None if mesh is None else parameter_shardings(shapes, mesh)
        if self.run is None:
            return load_params(self.folder, self.config, dtype, shardings)
        device = SingleDeviceSharding(jax.devices()[0])
        shapes = with_shardings(shapes, shardings or jax.tree.map(lambda _: device, shapes))
        params = read_params(self.home, self.run.checkpoint, self.step, shapes)
        params = jax.tree.map(lambda array: array.astype(dtype), params)
        for name, array in flatten_dict(params, sep="/").items():
            if not jnp.isfinite(array).all():
                raise InputError(f"{self.home}: {name} of the checkpoint of step {self.step} has values that are not "
                                 f"finite in {array.dtype.name}: take the checkpoint of another step.")
        return params


def find_weights(path: str | os.PathLike, step: int | str = LATEST) -> Weights:
    """The weights of a model's folder, of a hub name, or of the checkpoint `step` of a run's folder.

    `step`: "latest", "best" or a number. Raises InputError: no such folder, an architecture or feature that is
    not implemented, a run without such a checkpoint, or `step` with a folder that is no run's."""
    home = Path(path).expanduser()
    if not is_run(home):
        if step != LATEST:
            raise InputError(f"step is {step!r}, but {str(path)!r} is not the folder of a run: only a run's "
                             "checkpoints have steps. Leave it out.")
        folder = resolve_folder(path)
        return Weights(folder, read_config(folder))
    run = read_run(home, "path").config
    folder = resolve_folder(run.policy.path, weights=False)
    return Weights(folder, read_config(folder), run, home, checkpoint_step(home, run.checkpoint, step))
