"""Kernels for TPU that write and read the rings of a decode step, as `entries.Rows` lays them out. Away from TPUs they
are interpreted.

A ring's array is [S, R, C, L]: S slots, R rows of kv heads side by side, C entries, L lanes. It stays in HBM, and only
what a kernel needs of it moves to VMEM. XLA would fetch a ring that fits VMEM to write one entry, and write all of it
back. Where two cores share an instruction, as on v5p, XLA also writes a layer's scores to HBM and reads them twice.
"""
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.model.attention import MASKED
from nft_jax.runtime.mesh import partition_spec, platform_of

CHUNK = 256                     # most entries of a slot that are fetched together
BLOCK = 8                       # most slots whose attention is computed together, in one stream of instructions,
FETCHED = 2**20                 # and most bytes of keys and values that are fetched for it
CHANGED = 2**19                 # most bytes of tiles that are changed together
TILE = 8                        # entries that lie together in HBM


def write_row(ring, entry, index, mesh: Mesh | None):
    """ring with entry [S, R, 1, L] in place of row `index` of every slot, in place: the tiles with the row move."""
    return _on_devices(_write_row, mesh, ring, entry, index, axes=4)


def attend_rows(q_SKGE, keys, values, length, index, mesh: Mesh | None, *, scale: float):
    """Attention of one query per slot and head to a ring's keys and values -> like q.

    A slot attends to the entry at the ring index `index` and to the `length` [S] entries behind it. Chunks of a slot
    without such an entry are not fetched. The softmax is taken in float32, over one chunk after another (Milakov and
    Gimelshein, arXiv 1805.02867, as in FlashAttention, arXiv 2205.14135)."""
    slots, _, group, size = q_SKGE.shape
    # A slot's heads side by side, without padding. Written as a transposition, because XLA has the slots last here.
    q = jnp.moveaxis(q_SKGE, 0, 3).reshape(-1, slots).T
    attend = partial(_attend_rows, group=group, size=size, scale=scale)
    return _on_devices(attend, mesh, keys, values, q, length, index, axes=2).reshape(q_SKGE.shape)


def _on_devices(kernel, mesh: Mesh | None, ring, *others, axes: int):
    """`kernel(ring, *others)`, each device with its slots and kv heads: the first two axes of every array, and of the
    result's `axes`."""
    kernel = partial(kernel, interpret=mesh is None or platform_of(mesh) != "tpu")
    if mesh is None or mesh.size == 1:
        return kernel(ring, *others)
    heads = None if ring.shape[1] % mesh.shape["tensor"] else "kv_heads"

    def place(axes):
        return partition_spec(("batch", heads, None, None)[:axes])

    return jax.shard_map(kernel, mesh=mesh, in_specs=tuple(place(jnp.ndim(each)) for each in (ring, *others)),
                         out_specs=place(axes), check_vma=False)(ring, *others)


def _write_row(ring, entry, index, *, interpret: bool):
    # Slow to import, and only for TPUs.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    slots, heads, _, lanes = ring.shape
    item = ring.dtype.itemsize
    together = _divisor(slots, CHANGED // (heads * TILE * lanes * item))

    def kernel(index, entry, before, after):
        row = jax.lax.broadcasted_iota(jnp.int32, before.shape, 2)
        after[...] = jnp.where(row == jax.lax.rem(index[0], TILE), entry[...], before[...])

    tiles = pl.BlockSpec((together, heads, TILE, lanes), lambda i, index: (i, 0, jax.lax.div(index[0], TILE), 0))
    if not interpret:
        ring = pltpu.with_memory_space_constraint(ring, pltpu.HBM)
    moved = (2 * TILE + 1) * slots * heads * lanes * item
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1, grid=(slots // together,), out_specs=tiles,
        in_specs=[pl.BlockSpec((together, heads, 1, lanes), lambda i, index: (i, 0, 0, 0)), tiles])
    return pl.pallas_call(
        kernel, out_shape=jax.ShapeDtypeStruct(ring.shape, ring.dtype), grid_spec=grid, interpret=interpret,
        input_output_aliases={2: 0}, cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=moved))(
        jnp.reshape(index, 1).astype(jnp.int32), entry, ring)


def _attend_rows(keys, values, q, length, index, *, group: int, size: int, scale: float, interpret: bool):
    # Slow to import, and only for TPUs.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    (slots, rows, capacity, lanes), item = keys.shape, keys.dtype.itemsize
    most = FETCHED // (2 * rows * lanes * item)              # entries
    chunk = min(CHUNK, capacity, max(most // TILE, 1) * TILE)
    queries = lanes // size * group                          # of a row
    # At least two blocks, for two cores.
    together = _divisor(slots, min(slots // 2, most // chunk, BLOCK))
    index, length = index.astype(jnp.int32), length.astype(jnp.int32)
    fetched = chunks_behind(index, length, chunk, capacity)
    blocks = q.reshape(-1, together, q.shape[1])

    def ring(place):
        """The ring of one slot of a block. Each has its own, so that each is fetched as far as it is needed."""
        def fetch(block, step, index, length, fetched):
            slot = block * together + place
            return slot, 0, _chunk(step, index[0], fetched[slot], chunk, capacity), 0
        return pl.BlockSpec((1, rows, chunk, lanes), fetch)

    rings = [ring(place) for place in range(together)]
    flat = pl.BlockSpec((1, *blocks.shape[1:]), lambda block, step, *_: (block, 0, 0))
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=3, grid=(len(blocks), _chunks(capacity, chunk)),
        in_specs=[flat, *rings, *rings], out_specs=flat,
        scratch_shapes=[pltpu.VMEM((together, rows, queries, width), jnp.float32) for width in (lanes, 1, 1, lanes)])
    if not interpret:
        keys, values = (pltpu.with_memory_space_constraint(x, pltpu.HBM) for x in (keys, values))
    # As if all slots were full, since nobody knows their lengths here.
    scores, moved = slots * rows * queries * capacity, 2 * item * (keys.size + q.size)
    return pl.pallas_call(
        partial(_attend_block, capacity=capacity, group=group, size=size, scale=scale),
        out_shape=jax.ShapeDtypeStruct(blocks.shape, q.dtype), grid_spec=grid, interpret=interpret,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(flops=4 * scores * lanes, transcendentals=scores, bytes_accessed=moved))(
        jnp.reshape(index, 1), length, fetched, blocks, *[keys] * together, *[values] * together).reshape(q.shape)


def _attend_block(index, length, fetched, q, *refs, capacity: int, group: int, size: int, scale: float):
    """The kernel: one chunk of the entries of each of B slots.

    index [1], length [S], fetched [S]: the chunks that each slot needs. q, out [1, B, H*E]. keys, values: of each slot
    [1, R, chunk, L]. Kept from chunk to chunk: asked [B, R, Q, L], the queries, each at its head's place with zeros at
    the other heads'; largest [B, R, Q, 1], the largest score; total [B, R, Q, 1], the sum of the exponents; weighted
    [B, R, Q, L], the weighted sum of the values."""
    from jax.experimental import pallas as pl

    *rings, out, asked, largest, total, weighted = refs
    together, rows, queries, lanes = asked.shape
    keys, values, chunk = rings[:together], rings[together:], rings[0].shape[2]
    block, step = pl.program_id(0), pl.program_id(1)
    slots = [block * together + place for place in range(together)]

    def places():
        """Of each head: its numbers in q and out, its row, its query in the row, and its lanes there."""
        for head in range(rows * queries):
            first = head % queries // group * size
            yield slice(head * size, (head + 1) * size), head // queries, head % queries, slice(first, first + size)

    @pl.when(step == 0)
    def _():
        largest[...] = jnp.full_like(largest, MASKED)
        for zeros in (asked, total, weighted):
            zeros[...] = jnp.zeros_like(zeros)
        for here, row, query, its in places():
            asked[:, row, query, its] = q[0, :, here].astype(jnp.float32)

    @pl.when(step < reduce(jnp.maximum, [fetched[slot] for slot in slots]))
    def _():
        column = jax.lax.broadcasted_iota(jnp.int32, (queries, chunk), 1)
        line = jax.lax.broadcasted_iota(jnp.int32, (chunk, lanes), 0)
        for place, slot in enumerate(slots):
            first = _chunk(step, index[0], fetched[slot], chunk, capacity) * chunk
            behind = jax.lax.rem(index[0] - first - column + capacity, capacity)
            # Nothing of the last chunk again, which a slot keeps that needs no more.
            last = jnp.where(step < fetched[slot], length[slot], -1)
            seen = (behind <= last) & (column < capacity - first)
            for row in range(rows):
                at = place, row
                scores = jax.lax.dot_general(asked[at].astype(q.dtype), keys[place][0, row], (((1,), (1,)), ((), ())),
                                             preferred_element_type=jnp.float32) * scale
                scores = jnp.where(seen, scores, MASKED)
                highest = jnp.maximum(largest[at], scores.max(axis=1, keepdims=True))
                shrunk, exponents = jnp.exp(largest[at] - highest), jnp.exp(scores - highest)
                value = values[place][0, row]
                # Behind the end of the ring may be anything.
                value = jnp.where(line < capacity - first, value, 0) if capacity % chunk else value
                largest[at] = highest
                total[at] = total[at] * shrunk + exponents.sum(axis=1, keepdims=True)
                weighted[at] = weighted[at] * shrunk + jax.lax.dot_general(
                    exponents.astype(value.dtype), value, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)

    @pl.when(step == pl.num_programs(1) - 1)
    def _():
        for here, row, query, its in places():
            out[0, :, here] = (weighted[:, row, query, its] / total[:, row, query]).astype(out.dtype)


def _chunks(capacity: int, chunk: int) -> int:
    """Of a whole ring."""
    return -(-capacity // chunk)


def _chunk(step, index, fetched, chunk: int, capacity: int):
    """The chunk of a step: from that of the newest entry backwards. A slot that needs no more stays at its last one,
    and nothing is fetched."""
    back, chunks = jnp.minimum(step, fetched - 1), _chunks(capacity, chunk)
    return jax.lax.rem(jax.lax.div(index, chunk) - back + chunks, chunks)


def _divisor(number: int, most: int) -> int:
    """The largest divisor that is at most `most`, or 1."""
    return max(size for size in range(1, max(1, most) + 1) if number % size == 0)


def chunks_behind(index, length, chunk: int, capacity: int):
    """How many chunks of a ring of `capacity` hold the entry at `index` and the `length` ones behind it."""
    newest, oldest = index // chunk, (index - length) // chunk
    chunks = _chunks(capacity, chunk)
    around = newest + 1 + chunks - (index - length + capacity) // chunk
    return jnp.where(length <= index, newest - oldest + 1, jnp.minimum(around, chunks))
