"""A trainer that spreads its model over processes on a CPU, as FSDP2 does over GPUs.

    accelerate launch --multi_gpu --num_processes 2 -m tests.fsdp_on_cpu RUN_DIR

Accelerate takes that configuration for GPUs alone, and trains by DDP here without a word. Torch
itself can do it: what follows tells accelerate so, and then is the trainer's own process.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

ENVIRONMENT = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def allow() -> None:
    """Let accelerate's processes on a CPU be what the environment asks for."""
    begin = AcceleratorState.__init__

    def begun(self: Any, *args: Any, fsdp_plugin: Any = None, **given: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **given)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = self.distributed_type
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = begun


if __name__ == "__main__":
    from training.worker.__main__ import main

    os.environ.update(ENVIRONMENT)
    allow()
    sys.exit(main(sys.argv[1:]))
