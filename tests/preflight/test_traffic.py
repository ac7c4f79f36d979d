"""Bytes between a TPU's HBM and its cores: of a program written by hand, of which each count is known. test_tpu.py
compiles programs of known traffic."""
import pytest

from nft_jax.preflight.traffic import hbm_bytes

RING, ENTRY, IN_VMEM = "bf16[2,32,128]{2,1,0:T(8,128)(2,1)", "bf16[2,1,128]{2,1,0:T(8,128)(2,1)", "S(1)}"
TILES = 2 * 8 * 128 * 2           # of one entry in each of two slots
ONE = 8 * 128 * 4                 # an array of one tile


def program(*body: str, computations: str = "") -> str:
    return f"""HloModule jit_f
{computations}
ENTRY %main (a: f32[8,128], ring: bf16[2,32,128], entry: bf16[2,1,128], i: s32[]) -> f32[8,128] {{
  %a = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  %ring = {RING}}} parameter(1)
  %entry = {ENTRY}{IN_VMEM} parameter(2)
  %i = s32[]{{:T(128)S(6)}} parameter(3)
  %near = f32[8,128]{{1,0:T(8,128)S(1)}} constant(0)
  {chr(10).join("  " + line for line in body).strip()}
}}
"""


@pytest.mark.parametrize("line, moved", [
    ("%x = f32[8,128]{1,0:T(8,128)} add(%a, %a), metadata={op_name=\"f(x)\"}", 3 * ONE),
    ("%x = f32[8,128]{1,0:T(8,128)S(1)} add(%a, %near)", ONE),
    ("%x = f32[8,128]{1,0:T(8,128)S(1)} negate(%near)", 0),
    ("%x = f32[128,8]{0,1:T(8,128)} bitcast(%a)", 0),
    # 3 rows take a whole tile; so do they as columns of the other layout.
    ("%x = f32[3,128]{1,0:T(8,128)} broadcast(%near)", ONE),
    ("%x = f32[128,3]{0,1:T(8,128)} broadcast(%near)", ONE),
    ("%x = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}) sort(%a, %near)", 2 * ONE),
    # From HBM into VMEM, and back.
    ("%x = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)", ONE),
    ("%x = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%near)", ONE),
    ("%x = f32[8,128]{1,0:T(8,128)} copy-done(%start)", 0),
    ("%x = ((s8[4096]{0:T(1024)}), s8[1024]{0:T(1024)S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:1024]}", 1024),
    ("%x = f32[2,128]{1,0:T(2,128)S(1)} slice(%a), slice={[0:2], [0:128]}", 2 * 128 * 4),
    # One row of a tile is changed: the tile is read and written. Eight rows are a whole tile.
    (f"%x = {RING}}} dynamic-update-slice(%ring, %entry, %i, %i, %i)", 2 * TILES),
    ("%x = f32[8,128]{1,0:T(8,128)} dynamic-update-slice(%a, %near, %i, %i)", ONE),
    (f"%x = {RING}{IN_VMEM} dynamic-update-slice(%there, %entry, %i, %i, %i)", 0),
    (f"%x = {RING}}} custom-call(%i, %entry, %ring), custom_call_target=\"tpu_custom_call\", "
     "backend_config={\"custom_call_config\":{\"cost_estimate\":{\"flops\":\"0\",\"bytes_accessed\":\"512\"}}}", 512),
    (f"%x = {RING}}} custom-call(%i, %entry, %ring), custom_call_target=\"other\"", 2 * 2 * 32 * 128 * 2),
])
def test_one_instruction(line, moved):
    # VMEM holds the arrays that are not in the list.
    there = f"%there = {RING}{IN_VMEM} broadcast(%near)"
    assert hbm_bytes(program(there, line)) == moved


def test_fusions_read_slices_and_update_in_place():
    computations = f"""
%inner (p: bf16[2,32,128]) -> bf16[2,32,128] {{
  %p = {RING}}} parameter(0)
  ROOT %b = {RING}}} bitcast(%p)
}}

%fused (q: bf16[2,32,128], e: bf16[2,1,128], t: f32[8,128], i: s32[]) -> (bf16[2,32,128], f32[8,128]) {{
  %q = {RING}}} parameter(0)
  %e = {ENTRY}{IN_VMEM} parameter(1)
  %t = f32[8,128]{{1,0:T(8,128)}} parameter(2)
  %j = s32[]{{:T(128)}} parameter(3)
  %same = {RING}}} fusion(%q), kind=kLoop, calls=%inner
  %row = f32[1,128]{{1,0:T(1,128)}} dynamic-slice(%t, %j, %j), dynamic_slice_sizes={{1,128}}
  %all = f32[8,128]{{1,0:T(8,128)}} broadcast(%row), dimensions={{0,1}}
  %update = {RING}}} dynamic-update-slice(%same, %e, %j, %j, %j)
  ROOT %both = ({RING}}}, f32[8,128]{{1,0:T(8,128)}}) tuple(%update, %all)
}}
"""
    line = f"%x = ({RING}}}, f32[8,128]{{1,0:T(8,128)}}) fusion(%ring, %entry, %a, %i), kind=kLoop, calls=%fused"
    assert hbm_bytes(program(line, computations=computations)) == 2 * TILES + 128 * 4 + ONE
    # A sum of the whole ring reads all of it.
    summed = computations.replace("broadcast(%row)", "broadcast(%row, %same)")
    assert hbm_bytes(program(line, computations=summed)) == 2 * 32 * 128 * 2 + 2 * TILES + 128 * 4 + ONE


def test_loops_and_branches():
    def body(name, times):
        lines = "\n".join(f"  %y.{n} = f32[8,128]{{1,0:T(8,128)}} negate(%v)" for n in range(times))
        return (f"\n%{name} (v: f32[8,128]) -> f32[8,128] {{\n"
                f"  %v = f32[8,128]{{1,0:T(8,128)}} parameter(0)\n{lines}\n}}\n")

    condition = """
%condition (n: s32[]) -> pred[] {
  %n = s32[]{:T(128)} parameter(0)
  %constant.7 = s32[]{:T(128)} constant(28)
  ROOT %lt = pred[]{:T(512)} compare(%n, %constant.7), direction=LT
}
"""
    loop = "%loop = f32[8,128]{1,0:T(8,128)} while(%a), condition=%condition, body=%one"
    known = program(loop, computations=body("one", 1) + condition)
    assert hbm_bytes(known, steps=5) == 28 * 2 * ONE
    unknown = known.replace("constant(28)", "parameter(1)")
    assert hbm_bytes(unknown, steps=5) == 5 * 2 * ONE and hbm_bytes(unknown) == 2 * ONE
    branches = "%c = f32[8,128]{1,0:T(8,128)} conditional(%i, %a, %a), branch_computations={%one, %three}"
    assert hbm_bytes(program(branches, computations=body("one", 1) + body("three", 3))) == 3 * 2 * ONE
