"""Where compiled programs are kept."""
import jax
import numpy as np
import pytest

from nft_jax.runtime.compilation import CACHED_SECONDS, CompileCounter, use_compilation_cache

FOLDER, SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@pytest.mark.parametrize(("folder", "seconds", "kept"), [(None, 1.0, CACHED_SECONDS), ("told", 0.0, 0.0)])
def test_compiled_programs_are_kept_where_jax_was_told_to_or_in_the_users_cache(folder, seconds, kept, tmp_path,
                                                                                monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = {name: getattr(jax.config, name) for name in (FOLDER, SECONDS)}
    told = folder and str(tmp_path / folder)
    try:
        jax.config.update(FOLDER, told)
        jax.config.update(SECONDS, seconds)
        use_compilation_cache()
        assert getattr(jax.config, FOLDER) == (told or str(tmp_path / ".cache" / "nft_jax" / "xla"))
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
