"""The command line: what it refuses, and how fast it answers."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

import app
from store import policies
from store.db import Store
from store.records import PromotionKind


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says when it ends with exit code 2."""
    assert app.main([*arguments, "--no-browser"]) == 2
    return capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'gradio', 'duckdb', 'fastapi', 'transformers'}"
    code = f"import sys, app; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_port_in_use_is_named_with_the_way_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused(capsys, "--data", str(tmp_path), "--port", port)
    assert f"Port {port}" in said
    assert "--port 0" in said


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_what_is_no_port_is_refused(capsys: pytest.CaptureFixture[str], port: str) -> None:
    with pytest.raises(SystemExit) as ended:
        app.main([f"--port={port}"])
    assert ended.value.code == 2
    assert "0 to 65535" in capsys.readouterr().err


def test_a_folder_without_a_model_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = refused(capsys, "--data", str(tmp_path / "d"), "--port", "0", "--model", str(tmp_path))
    assert str(tmp_path) in said
    assert "config.json" in said


def test_a_store_of_another_process_is_named_with_its_owner(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from store.db import Store;"
        " Store(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"
        said = refused(capsys, "--data", str(tmp_path), "--port", "0")
    finally:
        owner.communicate("")
    assert f"process {owner.pid}" in said


def test_letting_others_in_needs_a_lead_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = refused(capsys, "--data", str(tmp_path), "--port", "0", "--host", "0.0.0.0")
    assert "add-person" in said


def test_a_store_of_a_newer_version_is_refused_and_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = Store(tmp_path)
    store.write(
        lambda cursor: cursor.execute(
            "INSERT INTO schema_migrations VALUES (9999, 'future', 'x', now())"
        )
    )
    store.close()
    assert "newer" in refused(capsys, "--data", str(tmp_path), "--port", "0")


def test_another_model_starts_anew_and_the_first_one_finds_its_version_again(store: Store) -> None:
    base, _ = app._live_policy(store, "first")
    trained = policies.register(
        store, base_model="first", parent_version=base.version, adapter_path="a", adapter_sha256="x"
    )
    policies.record_promotion(
        store, trained.version, kind=PromotionKind.PROMOTE, annotator_id="lea"
    )

    other_base, other_live = app._live_policy(store, "second")
    promotion = policies.live(store)
    assert other_live == other_base
    assert promotion is not None
    assert (promotion.version, promotion.previous_version) == (other_base.version, None)

    assert app._live_policy(store, "first") == (base, trained)
    live = policies.live(store)
    assert live is not None
    assert live.version == trained.version
