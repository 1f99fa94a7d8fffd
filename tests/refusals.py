"""What bad input is answered with."""
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(*words: str) -> Iterator[pytest.ExceptionInfo]:
    "Inside, something has to raise a ValueError that says all these words."
    with pytest.raises(ValueError) as caught:
        yield caught
    for word in words:
        assert word in str(caught.value)
