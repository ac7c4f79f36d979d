"""Attention of whole sequences by kernels of accelerators, and the choice among them. Neither writes the scores [T, S]
to memory. `ring_kernels` has those of a decode step."""
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.model.config import Attention, Compute, ModelConfig
from nft_jax.runtime.mesh import platform_of
from nft_jax.types import InputError

LANES = 128                     # lengths and head sizes of the TPU kernel are multiples of it
BLOCKS = (512, 256, LANES)      # tokens of a tile, by preference
CUDNN_HEAD = 256                # the largest head of cuDNN's attention, on GPUs from H100 on


def choose_attention(requested: str, platform: str, dtype: str, head_dim: int, *,
                     present: bool = True) -> tuple[Attention, str]:
    """The implementation for a run, and the reason in words.

    requested: `policy.attention`. platform: "cpu", "gpu" or "tpu". dtype: of the activations.
    present: whether the devices are here. A present GPU tries the kernel on a few tokens before it is chosen. For
        an absent one the type decides.

    Raises InputError with the reason when the requested implementation cannot run."""
    kernel: Attention = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "xla")
    if requested == "xla":
        return "xla", "as policy.attention says"
    if requested not in ("auto", kernel):
        raise InputError(f"policy.attention is {requested!r}, which does not run on this platform ({platform}): use "
                         "auto or xla.")
    if kernel == "xla":
        return "xla", f"there is no kernel for the platform {platform}"
    problem = (cudnn_problem(dtype, head_dim) if present else no_such_type(dtype)) if kernel == "cudnn" else None
    if problem is None:
        return kernel, f"the kernel of the platform {platform}"
    if requested == kernel:
        raise InputError(f"policy.attention is {requested!r}, which cannot run here ({problem}): use auto or xla.")
    return "xla", f"cuDNN cannot: {problem}"


def attention_of(attention: Attention, head_dim: int) -> Attention:
    """What computes the layers with heads of this size, where `attention` is the run's choice."""
    return "xla" if attention == "cudnn" and head_dim > CUDNN_HEAD else attention


def compute_on(mesh: Mesh, dtype: str, model: ModelConfig) -> Compute:
    """How `model` is computed in `dtype` on the mesh: with the kernel of its platform, where that can run."""
    attention, _ = choose_attention("auto", platform_of(mesh), dtype, model.head_dim)
    return Compute(dtype, attention=attention, mesh=mesh)


def no_such_type(dtype: str) -> str | None:
    """Why cuDNN's attention cannot run with activations of this type on any GPU; None if it can."""
    return None if dtype in ("bfloat16", "float16") else f"it has no {dtype}, set policy.compute_dtype to bfloat16"


def cudnn_problem(dtype: str, head_dim: int) -> str | None:
    """Why cuDNN's attention, forward and backward, does not run on this process's GPU; None if it runs."""
    if no_such_type(dtype):
        return no_such_type(dtype)
    q, k = jnp.ones((1, 1, 2, 64, head_dim), dtype), jnp.ones((1, 1, 64, head_dim), dtype)

    def total(q, k, v):
        return cudnn(q, k, v, jnp.tril(jnp.ones((1, 64, 64), bool)), scale=1.0).astype(jnp.float32).sum()

    try:
        gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(q, k, k)
        finite = all(bool(jnp.isfinite(gradient.astype(jnp.float32)).all()) for gradient in gradients)
    # Unsupported shapes, no cuDNN, or no GPU.
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return str(error).strip().partition("\n")[0]
    return None if finite else "its gradient is not finite"


def padded(x, axis: int, multiple: int):
    """x with zeros appended along `axis`, up to a multiple."""
    return jnp.pad(x, [(0, -x.shape[a] % multiple if a == axis % x.ndim else 0) for a in range(x.ndim)])


def cudnn(q_BKGTD, k_BKSD, v_BKSD, seen_BTS, *, scale: float):
    """Flash attention of cuDNN over the pairs in seen [B, T, S] bool, bfloat16 or float16; shapes as `attend`.

    The mask is an array, because jax.nn has no other way to pass segments. To cuDNN it is a bias of 2 bytes per
    pair, shared by all heads. Where queries and keys are the same tokens, pairs above the diagonal are skipped."""
    batch, kv_heads, group, length, head_dim = q_BKGTD.shape
    q_BTHD = jnp.swapaxes(padded(q_BKGTD, 3, 2).reshape(batch, kv_heads * group, -1, head_dim), 1, 2)
    k_BSKD, v_BSKD = (jnp.swapaxes(padded(x, 2, 2), 1, 2) for x in (k_BKSD, v_BKSD))
    # The kernel's gradient needs even lengths.
    mask = padded(padded(seen_BTS, 1, 2), 2, 2)[:, None]
    out = jax.nn.dot_product_attention(q_BTHD, k_BSKD, v_BSKD, mask=mask, scale=scale, implementation="cudnn",
                                       is_causal=length == k_BKSD.shape[2])
    return jnp.swapaxes(out[:, :length], 1, 2).reshape(q_BKGTD.shape)


def splash(q_BKGTD, k_BKSD, v_BKSD, segment_ids_BS, *, scale: float, window: int = 0, start=0, interpret: bool = False):
    """JAX's splash attention for TPU; arguments as `attend`; `interpret` runs it without a TPU.

    Tiles that causality or the window excludes are skipped. Tiles of other segments are computed and masked."""
    batch, kv_heads, group, length, head_dim = q_BKGTD.shape
    keys = k_BKSD.shape[2]
    asking = jax.lax.dynamic_slice_in_dim(segment_ids_BS, start, length, axis=1)
    tile_q, tile_s = tile(length), tile(keys)
    q_BHTD = (q_BKGTD * scale).astype(q_BKGTD.dtype).reshape(batch, kv_heads * group, length, head_dim)
    arguments = (padded(padded(q_BHTD, 2, tile_q), 3, LANES),
                 *(padded(padded(x, 2, tile_s), 3, LANES) for x in (k_BKSD, v_BKSD)),
                 padded(asking, 1, tile_q), padded(segment_ids_BS, 1, tile_s))
    # The kernel's mask is a constant. For a share of the row's queries the kernel is made once for
    # every share, and `start` chooses at run time.
    made = partial(splash_kernel, tile_q=tile_q, tile_s=tile_s, window=window, interpret=interpret)
    if length == keys:
        out = made(0, *arguments)
    else:
        out = jax.lax.switch(start // length, [partial(made, i * length) for i in range(keys // length)], *arguments)
    return out[:, :, :length, :head_dim].reshape(q_BKGTD.shape)


def tile(length: int) -> int:
    """Tokens of a tile: the largest that pads the length by at most an eighth, else the smallest."""
    return next((size for size in BLOCKS if -length % size <= length // 8), LANES)


def splash_kernel(start: int, q_BHTD, k_BKSD, v_BKSD, asking_BT, segment_ids_BS, *, tile_q: int, tile_s: int,
                  window: int, interpret: bool):
    """The kernel itself, over padded arrays, for the queries from `start` on."""
    # Slow to import, and only for TPUs.
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    heads, length, keys = q_BHTD.shape[1], q_BHTD.shape[2], k_BKSD.shape[2]
    mask = library.LocalMask((length, keys), (window - 1, 0), start) if window \
        else library.CausalMask((length, keys), start)
    sizes = library.BlockSizes(
        block_q=tile_q, block_kv=tile_s, block_kv_compute=tile_s, block_q_dkv=tile_q, block_kv_dkv=tile_s,
        block_kv_dkv_compute=tile_s, block_q_dq=tile_q, block_kv_dq=tile_s)
    kernel = library.make_splash_mha(library.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1,
                                     q_seq_shards=1, residual_checkpoint_name="attended", interpret=interpret)
    return jax.vmap(lambda q, k, v, asking, ids: kernel(q, k, v, library.SegmentIds(asking, ids)))(
        q_BHTD, k_BKSD, v_BKSD, asking_BT, segment_ids_BS)
