"""Options of the methods that several processes can train together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from training.options import MethodOptions, SpecError, option

# In a file of accelerate's.
FSDP = "FSDP"
SPREADING = re.compile(r"^distributed_type:\s*['\"]?(FSDP|DEEPSPEED|MEGATRON_LM)", re.MULTILINE)


@dataclass(frozen=True)
class ProcessOptions(MethodOptions):
    """How many processes train, and the configuration that `accelerate launch` starts them by."""

    processes: int = option(
        1,
        minimum=1,
        maximum=1024,
        label="Processes",
        help="Processes that train together, one on each GPU of this machine. Each takes batches "
        "of its own, so that a step learns from so many times the batch size.",
    )
    accelerate_config: str = option(
        "",
        label="Accelerate configuration",
        help="Whole path of a file, on this machine, that accelerate config has written: for FSDP, "
        "mixed precision or several machines. Its number of processes counts where the one above "
        "is 1.",
    )

    @property
    def is_launched(self) -> bool:
        """Accelerate starts the trainer, and this is not a process by itself."""
        return self.processes > 1 or bool(self.accelerate_config)

    @property
    def is_spread(self) -> bool:
        """The configuration has the weights of one model spread over the processes."""
        return self._spread_by is not None

    @property
    def _spread_by(self) -> str | None:
        if not self.accelerate_config:
            return None
        found = SPREADING.search(Path(self.accelerate_config).read_text(errors="replace"))
        return found.group(1) if found else None

    def check_together(self) -> None:
        super().check_together()
        config = self.accelerate_config
        if config and not (Path(config).is_absolute() and Path(config).is_file()):
            raise SpecError(
                "accelerate_config", config, "give the whole path of a file on this machine"
            )
        if self._spread_by == FSDP:
            for name in self.needing_the_whole:
                raise not_spread(name, getattr(self, name))


def not_spread(name: str, value: object) -> SpecError:
    """What to raise for an option that needs all weights in each process."""
    return SpecError(name, value, "cannot be had where FSDP spreads the model over processes")
