"""Bytes that devices receive in collectives: of a program written by hand, and of compiled ones of known sizes."""
import jax
import jax.numpy as jnp
import pytest

from nft_jax.preflight.hlo import collectives

TPU = """HloModule jit_f, num_partitions=64

%body.1 (param: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %all-gather.1 = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=3, replica_groups=[16,4]<=[64]
  %start = (bf16[2,16]{1,0}, bf16[8,16]{1,0}) all-gather-start(%x), channel_id=4, replica_groups={{0,1,2,3},{4,5,6,7}}
  %again = (bf16[2,16]{1,0}, bf16[8,16]{1,0}) all-gather-start(%x), channel_id=4, replica_groups={{0,1,2,3},{4,5,6,7}}
  %done = bf16[8,16]{1,0} all-gather-done(%start)
}

%condition.1 (param.1: (s32[], bf16[8,16])) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(28)
  %index = s32[]{:T(128)} get-tuple-element(%param.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%index, %constant.7), direction=LT
}

%all-reduce-scatter.2 (p: f32[64]) -> f32[16] {
  %all-reduce.9 = f32[64]{0} all-reduce(%p), channel_id=9, replica_groups=mesh['axis_0'=4,'axis_1'=16] {'axis_0'}
}

ENTRY %main (a: bf16[8,16]) -> f32[] {
  %loop = (s32[], bf16[8,16]) while(%tuple), condition=%condition.1, body=%body.1
  %fusion = f32[16]{0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.2
  %reduce = (f32[10]{0}, f32[]) all-reduce(%c, %d), channel_id=12, replica_groups={{0,1}}, to_apply=%add
  ROOT %permute = f32[100]{0} collective-permute(%e), channel_id=13, source_target_pairs={{0,1},{1,0}}
}
"""


def test_loops_groups_and_asynchronous_collectives_by_hand():
    gathered = 8 * 16 * 2 * 3 // 4
    assert collectives(TPU, 64) == {"all-gather": 2 * 28 * gathered, "all-reduce": 2 * (40 + 4) // 2,
                                    "collective-permute": 400, "reduce-scatter": 64 * 4 * 3 // 4}


@pytest.mark.parametrize("branches", ["branch_computations={%near, %far}", "true_computation=%far, "
                                      "false_computation=%near"])
def test_of_a_conditionals_branches_the_larger_counts(branches):
    text = f"""HloModule jit_f

%near (p: f32[8]) -> f32[8] {{
  %all-gather.1 = f32[8]{{0}} all-gather(%p), channel_id=1, replica_groups={{{{0,1}}}}
}}

%far (p: f32[8]) -> f32[8] {{
  %all-gather.2 = f32[64]{{0}} all-gather(%p), channel_id=2, replica_groups={{{{0,1}}}}
}}

ENTRY %main (a: f32[8]) -> f32[8] {{
  ROOT %conditional = f32[8]{{0}} conditional(%i, %a, %b), {branches}
}}
"""
    assert collectives(text, 2) == {"all-gather": 64 * 4 // 2}


@pytest.mark.parametrize("loops", [1, 5])
def test_a_compiled_loop_is_counted_as_often_as_it_runs(loops):
    mesh = jax.make_mesh((8,), ("x",), (jax.sharding.AxisType.Auto,))

    @jax.shard_map(mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P("x"), check_vma=False)
    def program(x):
        def once(y, _):
            whole = jax.lax.all_gather(y, "x", tiled=True)
            return jnp.sin(jax.lax.psum_scatter(whole, "x", tiled=True)), None
        return jax.lax.scan(once, x, None, length=loops)[0]

    compiled = jax.jit(program).lower(jax.ShapeDtypeStruct((64, 4), jnp.float32)).compile()
    size = 64 * 4 * 4
    found = collectives(compiled.as_text(), 8)
    assert found["all-gather"] == found["reduce-scatter"] == loops * size * 7 // 8


def test_a_loop_of_unknown_length_counts_once_and_no_collective_is_nothing():
    unknown = collectives(TPU.replace("constant(28)", "parameter(1)"), 64)
    assert 28 * unknown["all-gather"] == collectives(TPU, 64)["all-gather"]
    compiled = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((4,), jnp.float32)).compile()
    assert not collectives(compiled.as_text(), 1)
