"""What a run reads beside its configuration, as digests: with other inputs it would be another run.

`nft_jax.record.claim` keeps them in the run's folder and compares them when the run continues. Several processes
compare theirs at the start."""
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nft_jax.config import Config
from nft_jax.data.stream import PromptStream, digest, hash_of
from nft_jax.model import hf
from nft_jax.model.hf.tokenizer import tokenizer_files
from nft_jax.objectives.source import digest_of, record_of
from nft_jax.record.folder import OBJECTIVE_SOURCE
from nft_jax.rollout.evaluation import HeldOut
from nft_jax.rollout.stored import Stored
from nft_jax.verify.rewards.registry import lookup

SAMPLES, SAMPLE = 64, 1 << 12        # pieces of a file of weights that are read, and bytes of each


def identity_of(config: Config, folder: Path, tokenizer, eos: Sequence[int], stream: PromptStream,
                held_out: Sequence[HeldOut], stored: Stored | None = None, *,
                weights: bool = True) -> dict[str, str]:
    """Name -> digest of everything that a run of the settled `config` reads. `folder` has its model. Without
    `weights` the digests of the models' weights are left out."""
    found = {"questions": f"{stream.size}, {stream.digest()}"}
    if stored is not None:
        found["stored answers"] = f"{stored.report.used}, {stored.digest}"
    for one in held_out:
        found[f"held-out questions {one.name}".rstrip()] = f"{len(one.prompts)}, {digest(one.prompts)}"
    found["tokenizer"] = _of_files(path for path in tokenizer_files(folder)
                                   if not path.name.startswith("chat_template"))
    found["chat template"] = hash_of([str(tokenizer.chat_template).encode()])
    found["ids that end an answer"] = str(sorted(eos))
    if weights:
        found["weights of policy.path"] = _of_weights(folder)
        if config.adapter.path:
            found["weights of adapter.path"] = _of_weights(Path(config.adapter.path).expanduser())
        if config.terms.kl_weight and config.terms.reference:
            reference = hf.resolve_folder(config.terms.reference, field="terms.reference")
            found["weights of terms.reference"] = _of_weights(reference)
    for field, name in (("verifier.reward", config.verifier.reward), ("evaluation.reward", config.evaluation.reward)):
        if source := _source_of_reward(name, field):
            found[f"source of {field}"] = _of_files([source])
    if source := digest_of(record_of(config.objective)):
        found[OBJECTIVE_SOURCE] = source[:16]
    return found


def _source_of_reward(name: str, field: str) -> Path | None:
    """The file of a reward of one's own; None for rewards of this package."""
    home = lookup(name, field).home if name else ""
    if home.endswith(".py"):
        return Path(home)
    if not home or home.startswith("nft_jax."):
        return None
    found = importlib.util.find_spec(home)
    return Path(found.origin) if found is not None and found.origin else None


def _of_files(paths: Iterable[Path]) -> str:
    """Of names and contents."""
    return hash_of(part for path in sorted(paths) for part in (path.name.encode(), path.read_bytes()))


def _of_weights(folder: Path) -> str:
    """Of names, sizes and evenly spread pieces of the files: another training changes weights everywhere, and a large
    model takes minutes to read."""
    return hash_of(part for path in sorted(folder.glob("*.safetensors")) for part in _pieces(path))


def _pieces(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    yield f"{path.name} {size}".encode()
    with path.open("rb") as file:
        for start in sorted({i * max(size - SAMPLE, 0) // (SAMPLES - 1) for i in range(SAMPLES)}):
            file.seek(start)
            yield file.read(SAMPLE)
