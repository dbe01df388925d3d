"""The private APIs of transformers that loading uses; `tests/test_hf_compat.py` tests what is relied on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def weights_opened_with(**options: Any) -> Iterator[None]:
    """Context manager: transformers opens safetensors files with these options of `safe_open`, in all threads.

    It calls the `safe_open` that its module `modeling_utils` has imported.
    """
    from transformers import modeling_utils

    own = modeling_utils.safe_open

    def opening(*file: Any, **theirs: Any) -> Any:
        return own(*file, **{**theirs, **options})

    modeling_utils.safe_open = opening
    try:
        yield
    finally:
        modeling_utils.safe_open = own
