"""Samplers on CPU with the layout of TPUs, and with its kernels, interpreted."""
from nft_jax.rollout import engine

decode_block = engine.decode_block


def use_rows(monkeypatch, heads: int, attention: str = "splash", chunk: int = 16) -> None:
    """Samplers that are made from now on lay `heads` kv heads side by side (0: the layout of CPUs). attention: of
    decode steps. chunk: the entries that the kernel reads together."""
    monkeypatch.setattr("nft_jax.model.ring_kernels.CHUNK", chunk)
    monkeypatch.setattr(engine, "heads_in_row", lambda model, mesh, kind: heads)
    monkeypatch.setattr(engine, "decode_block", lambda params, model, mesh, _, *others: decode_block(
        params, model, mesh, attention, *others))
