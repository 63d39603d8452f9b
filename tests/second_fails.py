"""A trainer whose second process runs out of memory, while the first one goes on.

accelerate launch --multi_gpu --num_processes 2 -m tests.second_fails RUN_DIR
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn


def run_out_of_memory(*_: Any, **__: Any) -> NoReturn:
    """At the end of a step."""
    raise MemoryError("no room")


if __name__ == "__main__":
    from training.worker.__main__ import main
    from training.worker.report import Reporter

    if os.environ["RANK"] == "1":
        Reporter.on_step_end = run_out_of_memory  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
