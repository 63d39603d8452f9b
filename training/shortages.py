"""What a machine can run out of, as errors of many libraries tell it, and what helps.

Knows no trainer, and imports no library that computes.
"""

from __future__ import annotations

import errno

LESS_MEMORY = (
    "Start a new run with a smaller batch size (raise gradient accumulation instead), shorter rows "
    "or responses, or gradient checkpointing."
)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# torch and safetensors lose the error number; inline_container is what torch.save writes with.
_NO_SPACE_TEXTS = (
    "No space left",
    "os error 28",
    "Disk quota exceeded",
    "File too large",
    "inline_container.cc",
)
_NO_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "Cannot allocate memory")


def is_disk_full(error: BaseException) -> bool:
    """Something could not be written for the lack of room."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return True
    return any(text in str(error) for text in _NO_SPACE_TEXTS)


def is_out_of_memory(error: BaseException) -> bool:
    """Something did not fit into the memory of the machine or of its GPU."""
    named = type(error).__name__ in ("OutOfMemoryError", "MemoryError")
    return named or any(text in str(error) for text in _NO_MEMORY_TEXTS)
