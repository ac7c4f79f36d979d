"""What a run reads beside its configuration, as digests: with other inputs it would be another run.

`nft_jax.record.claim` keeps them in the run's folder and compares them when the run continues. Several processes
compare theirs at the start."""
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from nft_jax.config import Config
from nft_jax.data.stream import PromptStream, digest, hash_of
from nft_jax.model import hf
from nft_jax.model.hf.tokenizer import tokenizer_files
from nft_jax.objectives.source import digest_of, record_of
from nft_jax.record.folder import OBJECTIVE_SOURCE
from nft_jax.record.weights import digest_of_weights
from nft_jax.rollout.evaluation import HeldOut
from nft_jax.rollout.stored import Stored
from nft_jax.verify.rewards.registry import lookup


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
        found["weights of policy.path"] = digest_of_weights(folder)
        if config.adapter.path:
            found["weights of adapter.path"] = digest_of_weights(Path(config.adapter.path).expanduser())
        if config.terms.kl_weight and config.terms.reference:
            reference = hf.resolve_folder(config.terms.reference, field="terms.reference")
            found["weights of terms.reference"] = digest_of_weights(reference)
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
