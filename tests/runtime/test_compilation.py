"""Programs by kind and size, and where their compiled form is kept."""
import jax
import numpy as np
import pytest

from nft_jax.runtime import compilation
from nft_jax.runtime.compilation import (
    CACHED_SECONDS,
    CompileCounter,
    Program,
    compile_all,
    largest,
    use_compilation_cache,
)

FOLDER, SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@pytest.mark.parametrize(("folder", "seconds", "kept"), [(None, 1.0, CACHED_SECONDS), ("told", 0.0, 0.0)])
def test_compiled_programs_are_kept_where_jax_was_told_to_or_in_the_users_cache(folder, seconds, kept, tmp_path,
                                                                                monkeypatch):
    monkeypatch.setattr(compilation, "CACHE", tmp_path / "home")
    before = {name: getattr(jax.config, name) for name in (FOLDER, SECONDS)}
    told = folder and str(tmp_path / folder)
    try:
        jax.config.update(FOLDER, told)
        jax.config.update(SECONDS, seconds)
        use_compilation_cache()
        assert getattr(jax.config, FOLDER) == (told or str(tmp_path / "home"))
        assert getattr(jax.config, SECONDS) == kept
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_compilations_are_counted():
    counter = CompileCounter()
    double = jax.jit(lambda x: x * 2 + 17)
    double(np.ones(3, np.float32))
    assert counter.take() == 1
    double(np.zeros(3, np.float32))
    assert counter.take() == 0
    double(np.zeros(4, np.float32))
    assert counter.take() == 1


def test_the_largest_of_each_kind():
    sizes = [("decode", (128,)), ("decode", (1024,)), ("decode", (256,)), ("cast", ()), ("grow", (256, 128)),
             ("grow", (512, 256)), ("grow", (512, 128))]
    found = largest([Program(kind, size, None, ()) for kind, size in sizes])
    assert {kind: program.size for kind, program in found.items()} == {
        "decode": (1024,), "cast": (), "grow": (512, 256)}
    assert [str(program) for program in found.values()] == ["decode 1024", "cast", "grow 512 from 256"]


def test_programs_come_back_in_their_order_and_are_told_as_they_end():
    programs = [Program("add", (n,), jax.jit(lambda x: x + 1), (jax.ShapeDtypeStruct((n,), "float32"),))
                for n in range(1, 5)]
    told = []
    compiled = compile_all(programs, threads=2, progress=lambda program, done: told.append((program.size, done)))
    assert [one(jax.numpy.zeros(n)).shape for n, one in enumerate(compiled, start=1)] == [(1,), (2,), (3,), (4,)]
    assert {size for size, _ in told} == {(1,), (2,), (3,), (4,)} and [done for _, done in told] == [1, 2, 3, 4]
