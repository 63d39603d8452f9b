"""Imports and exports as leads see them: long work in one background thread, with progress."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from labeling.access import Actor, require_lead
from store import export_files, exports, general, imports, prompts
from store.db import Store
from store.errors import Conflict, WhetstoneError
from store.export_files import ExportFile
from store.exports import ExportResult
from store.imports import ImportProgress, ImportRecord, ImportReport
from store.prompts import PromptCount

log = logging.getLogger(__name__)


class WorkState(StrEnum):
    """IDLE before the first import; RUNNING until the file ends or is cancelled; then final."""

    IDLE = "idle"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class ImportWork:
    """The import under way, or the last one."""

    state: WorkState
    name: str = ""
    progress: ImportProgress | None = None
    report: ImportReport | None = None
    error: WhetstoneError | None = None


class Exchange:
    """One import at a time, in the background; exports in the foreground."""

    def __init__(
        self, store: Store, exports_folder: Path, *, on_imported: Callable[[], None]
    ) -> None:
        self._store = store
        self._exports_folder = exports_folder
        self._on_imported = on_imported
        self._lock = threading.Lock()  # protects _work and _thread
        self._work = ImportWork(WorkState.IDLE)
        self._thread: threading.Thread | None = None
        self._is_cancelled = threading.Event()

    def start_import(self, actor: Actor, path: Path, *, name: str, use: str) -> None:
        """Begin to read a file. Raises `Conflict` while another is being read."""
        require_lead(actor, "import data")
        with self._lock:
            if self._work.state is WorkState.RUNNING:
                raise Conflict(
                    "{name} is still being imported; wait, or cancel it.", name=self._work.name
                )
            self._is_cancelled.clear()
            self._work = ImportWork(WorkState.RUNNING, name)
            self._thread = threading.Thread(
                target=self._import, args=(actor, path, name, use), name="import", daemon=True
            )
            self._thread.start()

    def import_work(self, actor: Actor) -> ImportWork:
        """How far the import is."""
        require_lead(actor, "see imports")
        with self._lock:
            return self._work

    def cancel_import(self, actor: Actor) -> None:
        """Stop reading; what was accepted stays."""
        require_lead(actor, "cancel an import")
        self._is_cancelled.set()

    def past_imports(self, actor: Actor) -> list[ImportRecord]:
        """Every import, newest first."""
        require_lead(actor, "see imports")
        return imports.list_all(self._store)

    def prompt_counts(self, actor: Actor) -> list[PromptCount]:
        """How many prompts there are, by language and split."""
        require_lead(actor, "see prompts")
        return prompts.tally(self._store)

    def general_count(self, actor: Actor) -> int:
        """How many general demonstrations have been imported."""
        require_lead(actor, "see prompts")
        return general.count_imported(self._store)

    def export(
        self,
        actor: Actor,
        *,
        what: str,
        format: str,
        include_held_out: bool = False,
        names: str = exports.Names.PSEUDONYM,
    ) -> ExportResult:
        """Write a dataset with its manifest into the exports folder."""
        require_lead(actor, "export data")
        return exports.export(
            self._store,
            self._exports_folder,
            what=what,
            format=format,
            include_held_out=include_held_out,
            names=names,
            created_by=actor.id,
        )

    def past_exports(self, actor: Actor) -> list[ExportFile]:
        """Every export in the exports folder, newest first."""
        require_lead(actor, "see exports")
        return export_files.list_all(self._exports_folder)

    def export_file(self, actor: Actor, name: str) -> Path:
        """An export or its manifest, to be downloaded. Raises `NotFound`."""
        require_lead(actor, "download an export")
        return export_files.find(self._exports_folder, name)

    def preview(self, actor: Actor, file: ExportFile, *, rows: int) -> list[dict[str, Any]]:
        """The first rows of an export."""
        require_lead(actor, "see exports")
        return export_files.preview(self._store, file, rows)

    def close(self) -> None:
        """Stop reading after the batch at hand. Idempotent."""
        self._is_cancelled.set()
        if self._thread is not None:
            self._thread.join()

    def _import(self, actor: Actor, path: Path, name: str, use: str) -> None:
        try:
            report = self._read(actor, path, use)
            self._set(ImportWork(WorkState.DONE, name, report=report))
        except WhetstoneError as error:
            self._set(ImportWork(WorkState.FAILED, name, error=error))
        except Exception as error:
            log.exception("Importing %s failed", name)
            self._set(
                ImportWork(
                    WorkState.FAILED,
                    name,
                    error=WhetstoneError("Unexpected: {error}", error=str(error)),
                )
            )

    def _read(self, actor: Actor, path: Path, use: str) -> ImportReport:
        try:
            return imports.import_file(
                self._store,
                path,
                use=use,
                created_by=actor.id,
                on_progress=self._note,
                cancelled=self._is_cancelled.is_set,
            )
        finally:
            # What was kept before a failure stays in the store, so it is given out as well.
            self._on_imported()

    def _note(self, progress: ImportProgress) -> None:
        with self._lock:
            self._work = replace(self._work, progress=progress)

    def _set(self, work: ImportWork) -> None:
        with self._lock:
            self._work = work
