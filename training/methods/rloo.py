"""Options of REINFORCE Leave-One-Out."""

from __future__ import annotations

from dataclasses import dataclass

from training.methods.online_options import OnlineOptions


@dataclass(frozen=True)
class RLOOOptions(OnlineOptions):
    """REINFORCE Leave-One-Out (Ahmadian et al. 2024): learns from a reward model's scores."""
