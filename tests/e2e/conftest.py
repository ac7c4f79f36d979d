"""What runs of one module share."""
import pytest

from runs import use_devices


@pytest.fixture(scope="module")
def compiled_once():
    """One device for all runs of the module. Yields the patch, undone at its end."""
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch)
        yield patch
