"""Tests that need a GPU. They skip without one; with one:

    JAX_PLATFORMS=cuda,cpu python -m pytest tests/gpu

(`cuda` alone works too: what is compared with the CPU is then compared with the GPU's own float32.)
"""
import contextlib

import jax
import pytest


@pytest.fixture(autouse=True)
def needs_gpu():
    if jax.default_backend() != "gpu":
        pytest.skip("no GPU (JAX_PLATFORMS=cuda,cpu python -m pytest tests/gpu)")


@pytest.fixture
def float32_reference():
    """A context in which float32 is float32 (a GPU multiplies it as TF32 otherwise): on the CPU where JAX has it."""
    context = contextlib.ExitStack()
    context.enter_context(jax.default_matmul_precision("highest"))
    with contextlib.suppress(RuntimeError):
        context.enter_context(jax.default_device(jax.devices("cpu")[0]))
    return context
