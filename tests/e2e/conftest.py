"""What runs of one module share."""
import jax
import pytest

from runs import use_devices


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """One device and one compilation cache for all runs of the module. Yields the patch, undone at its end."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch)
        for name, value in zip(names, (str(tmp_path_factory.mktemp("compiled")), 0.0), strict=True):
            jax.config.update(name, value)
        yield patch
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)
