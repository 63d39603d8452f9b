"""General demonstrations: what a policy should keep knowing while it learns something else.

How many of them a run replays, and where those lie that a base model brings along.
"""

from __future__ import annotations

from pathlib import Path

from training.shape import model_folder

FILE = "general.jsonl"  # JSON Lines with `messages`, of which the last one is the assistant's
# Of their conversations, never replayed but measured on. No more than a run holds out by default:
# what an earlier run was measured on stays held out here.
HELD_OUT_SHARE = 0.15


def brought_along(base_model: str | Path) -> Path | None:
    """The file of a model's folder, or of a hub id in the local cache; None where there is none."""
    folder = model_folder(base_model)
    if folder is None or not (folder / FILE).is_file():
        return None
    return folder / FILE


def rows_to_replay(share: float, learned: int) -> int:
    """How many replayed rows are this share of all, beside `learned` others."""
    return round(share / (1 - share) * learned)


def rows_replayable(demonstrations: int) -> int:
    """About how many of so many general demonstrations may be replayed."""
    return round(demonstrations * (1 - HELD_OUT_SHARE))
