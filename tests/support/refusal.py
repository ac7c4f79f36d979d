"""What a refusal must say, whatever its sentence: tests match the field, the value and the way out."""
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nft_jax.types import InputError


@contextmanager
def refused(*names: object, kind: type[Exception] = InputError) -> Iterator[pytest.ExceptionInfo]:
    """The block raises `kind`, and its message contains the text of every one of `names`."""
    with pytest.raises(kind) as caught:
        yield caught
    message = str(caught.value)
    missing = [str(name) for name in names if str(name) not in message]
    assert not missing, f"{missing} not in: {message}"
