"""Parameters by path: of a folder in Hugging Face layout, of a hub model, of an adapter's folder, of a run's
checkpoint."""
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from nft_jax.config import Config
from nft_jax.data.stream import hash_of
from nft_jax.model import decoder
from nft_jax.model.adapter import Adapter, adapter_shapes, merge, wrap
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf import load_params, peft, read_config, resolve_folder
from nft_jax.model.hf.frozen import abstract_frozen, load_frozen
from nft_jax.model.hf.tokenizer import own_chat_template
from nft_jax.model.parameters import parameter_shardings
from nft_jax.record.checkpoint import LATEST, checkpoint_step, reading
from nft_jax.record.folder import is_run, read_run
from nft_jax.runtime.compilation import with_shardings
from nft_jax.types import InputError

SAMPLES, SAMPLE = 64, 1 << 12        # pieces of a file of weights that are read, and bytes of each


def digest_of_weights(folder: Path, pattern: str = "*.safetensors") -> str:
    """Of names, sizes and evenly spread pieces of the files: another training changes weights everywhere, and a large
    model takes minutes to read. A copy has the same digest."""
    return hash_of(part for path in sorted(folder.glob(pattern)) if path.is_file()
                   for part in _pieces(path, str(path.relative_to(folder))))


def _pieces(path: Path, name: str) -> Iterator[bytes]:
    size = path.stat().st_size
    yield f"{name} {size}".encode()
    with path.open("rb") as file:
        for start in sorted({i * max(size - SAMPLE, 0) // (SAMPLES - 1) for i in range(SAMPLES)}):
            file.seek(start)
            yield file.read(SAMPLE)


class Weights(NamedTuple):
    """The parameters of a model, before they are read."""
    folder: Path                     # config.json and tokenizer; under an adapter those of the base
    config: ModelConfig
    run: Config | None = None        # whose checkpoint it is
    home: Path | None = None         # of that run, or of an adapter
    step: int | None = None          # of that checkpoint
    adapter: Adapter | None = None   # beside the model in `folder`
    ema: bool = False                # whether it is the average that samples (rollout.ema), not the trained parameters

    def for_lengths(self, longest: int) -> "Weights":
        """Of the model for sequences of up to `longest` tokens (`ModelConfig.for_lengths`)."""
        return self._replace(config=self.config.for_lengths(longest))

    @property
    def date(self) -> str:
        """The day that the chat template wrote in training; "" where that is not known."""
        return self.run.data.date if self.run else ""

    @property
    def chat_template(self) -> str:
        """For `load_tokenizer`: the template that was trained with."""
        if self.run is not None:
            return self.run.data.chat_template
        return own_chat_template(self.home) if self.home is not None else ""

    @property
    def digests(self) -> list[str]:
        """`digest_of_weights` of every folder that is read."""
        found = []
        if self.run is not None:
            found = [(self.home / "checkpoints" / str(self.step), "**/*")]
        elif self.adapter is not None:
            found = [(self.home, "adapter_*")]
        if self.run is None or self.adapter is not None:
            found.append((self.folder, "*.safetensors"))
        return [digest_of_weights(folder, pattern) for folder, pattern in found]

    def read(self, dtype="float32", mesh: Mesh | None = None) -> Any:
        """The parameters in `dtype`, split over `mesh` as in training; None leaves them on the default device.
        Adapters keep their own type, and are `Adapted` parameters.

        They are streamed from the files to their devices. Raises InputError for files that are
        damaged or do not fit the model, and for values that are not finite."""
        if self.adapter is None:
            shapes = decoder.parameter_shapes(self.config)
            if self.run is not None:
                return self._of_checkpoint(shapes, mesh, dtype)
            return load_params(self.folder, self.config, dtype, mesh and parameter_shardings(shapes, mesh))
        shapes = adapter_shapes(self.config, self.adapter.config)
        if self.run is not None:
            adapters = self._of_checkpoint(shapes, mesh)
            # First in the types of the run, which trained beside these values.
            frozen = abstract_frozen(self.config, mesh, self.run.policy.compute_dtype, self.run.adapter.base_dtype)
            base = merge(load_frozen(self.folder, self.config, frozen), dtype)
            base = jax.tree.map(lambda array: array.astype(dtype), base)
        else:
            adapters = peft.load_adapters(self.home, self.config, self.adapter.config,
                                          mesh and parameter_shardings(shapes, mesh))
            plain = decoder.parameter_shapes(self.config)
            base = load_params(self.folder, self.config, dtype, mesh and parameter_shardings(plain, mesh))
        return wrap(base, adapters, self.adapter.config)

    def _of_checkpoint(self, shapes, mesh: Mesh | None, dtype=None) -> Any:
        """In `dtype`; None keeps the checkpoint's types."""
        places = SingleDeviceSharding(jax.devices()[0]) if mesh is None else parameter_shardings(shapes, mesh)
        with reading(self.home, self.run.checkpoint) as found:
            params = found.restore_params(self.step, with_shardings(shapes, places),
                                          "average" if self.ema else "params")
        if dtype is not None:
            params = jax.tree.map(lambda array: array.astype(dtype), params)
        for path, array in jax.tree_util.tree_leaves_with_path(params):
            if not jnp.isfinite(array).all():
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise InputError(f"{self.home}: {name} of the checkpoint of step {self.step} has values that are not "
                                 f"finite in {array.dtype.name}: take the checkpoint of another step.")
        return params


def find_weights(path: str | os.PathLike, step: int | str = LATEST, base: str | os.PathLike = "",
                 ema: bool = False) -> Weights:
    """The weights of a model's folder, of a hub name, of an adapter's folder, or of the checkpoint `step` of a run's
    folder.

    step: "latest", "best" or a number.
    base: folder or hub name of the model under an adapter; "" is the one that the adapter names.
    ema: of a run with rollout.ema, the average that samples, instead of the trained parameters.

    Raises InputError: no such folder, an architecture or feature that is not implemented, a run without such a
    checkpoint, an adapter that does not fit its base, `step` or `ema` with a folder that is no run's, `ema` with a run
    that keeps no average, or `base` with one that is no adapter's."""
    home = Path(path).expanduser()
    if base and (is_run(home) or not peft.is_adapter(resolve_folder(path))):
        raise InputError(f"base is {str(base)!r}, but {str(path)!r} is no folder of an adapter: only adapters have "
                         "a base. Leave it out.")
    if ema and not (is_run(home) and read_run(home, "path").config.rollout.ema):
        raise InputError(f"ema is True, and {str(path)!r} is no run with rollout.ema: it keeps no average of its "
                         "parameters. Leave it out.")
    if not is_run(home):
        if step != LATEST:
            raise InputError(f"step is {step!r}, but {str(path)!r} is not the folder of a run: only a run's "
                             "checkpoints have steps. Leave it out.")
        folder = resolve_folder(path)
        return _adapter(folder, base) if peft.is_adapter(folder) else Weights(folder, read_config(folder))
    run = read_run(home, "path").config
    step = checkpoint_step(home, run.checkpoint, step)
    folder = resolve_folder(run.policy.path, weights=run.adapter.rank > 0)
    model, adapter = read_config(folder).for_lengths(run.longest_sequence), None
    if run.adapter.rank:
        with reading(home, run.checkpoint) as found:
            adapter = Adapter(run.adapter, run.policy.path, found.restore_counters(step)["base_digest"])
        peft.require_base(adapter, folder, model, f"the checkpoint of step {step} in {str(path)!r}", "policy.path")
    return Weights(folder, model, run, home, step, adapter, ema)


def _adapter(home: Path, base: str | os.PathLike) -> Weights:
    settings = peft.read_settings(home)
    name = str(base or peft.base_of(settings, home))
    folder = resolve_folder(name, field="base" if base else peft.base_field(home))
    model = read_config(folder)
    config = peft.adapter_config(settings, model, home)
    peft.check_adapters(home, model, config)
    adapter = Adapter(config, name, peft.read_digest(home))
    if adapter.digest:
        peft.require_base(adapter, folder, model, str(home), "base")
    return Weights(folder, model, home=home, adapter=adapter)
