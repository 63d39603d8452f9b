"""What a recipe's report gains at the end: what it was made with, verdicts, and a page to read."""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from training import report_page
from training.config import GENERAL
from training.estimate import Foretold
from training.events import EventReader
from training.report_page import Beside
from training.rundir import write_whole
from training.shape import count_parameters
from training.verdicts import Evidence, judge
from training.worker.job import Job

PACKAGES = ("whetstone", "torch", "transformers", "trl", "peft", "accelerate", "datasets")

log = logging.getLogger(__name__)


def summarise(job: Job, report: Mapping[str, Any]) -> dict[str, Any]:
    """The report with its environment and verdicts; also written as a page beside the result."""
    events = EventReader(job.run_dir.events_path).read()
    verdicts = [verdict.to_json() for verdict in judge(Evidence.of(events, report))]
    whole = {**report, "environment": _environment(job), "verdicts": verdicts}
    try:
        beside = Beside(foretold=Foretold.from_json(job.run_dir.read_estimate()))
        page = report_page.render(job.spec, events, whole, beside)
        write_whole(job.run_dir.report_path, page)
    except Exception:
        # The page tells what the result holds; a run is not lost for the lack of it.
        log.exception("The report of %s could not be written", job.spec.run_id)
    return whole


def _environment(job: Job) -> dict[str, Any]:
    general = job.run_dir.path / GENERAL
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
        "parameters": count_parameters(job.spec.base_model),
        "snapshot": _sha256(job.run_dir.path / job.spec.data),
        "general": _sha256(general) if general.exists() else None,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
