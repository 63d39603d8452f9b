"""Finished exports as they lie in their folder. A manifest is written last: it means complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from store.db import Store
from store.errors import NotFound


class ExportFile(NamedTuple):
    """An export with what its manifest says."""

    path: Path
    manifest_path: Path
    what: str
    format: str
    rows: int
    sha256: str
    created_by: str
    created_at: str
    size_bytes: int


def list_all(folder: Path) -> list[ExportFile]:
    """Every complete export in the folder, newest first; a damaged manifest is left out."""
    found = (_read(path) for path in folder.glob("*.manifest.json"))
    return sorted((f for f in found if f), key=lambda f: f.created_at, reverse=True)


def find(folder: Path, name: str) -> Path:
    """The export or manifest of that file name. Raises `NotFound`, for any other path too."""
    for file in list_all(folder):
        for path in (file.path, file.manifest_path):
            if path.name == name:
                return path
    raise NotFound("There is no export named {name!r}. Export again.", name=name)


def preview(store: Store, file: ExportFile, rows: int) -> list[dict[str, Any]]:
    """The first rows of an export, by column."""
    reader = "read_parquet" if file.format == "parquet" else "read_json"
    path = str(file.path).replace("'", "''")
    with store.read() as cursor:
        found = cursor.execute(f"SELECT * FROM {reader}('{path}') LIMIT ?", [rows])
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _read(manifest_path: Path) -> ExportFile | None:
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        path = manifest_path.with_name(Path(str(manifest["file"])).name)
        return ExportFile(
            path,
            manifest_path,
            str(manifest["what"]),
            str(manifest["format"]),
            int(manifest["rows"]),
            str(manifest["sha256"]),
            str(manifest["created_by"]),
            str(manifest["created_at"]),
            path.stat().st_size,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
