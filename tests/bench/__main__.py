"""`python -m tests.bench NAME [options] [--json]`: prints one JSON object last."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from typing import Any

BENCHMARKS = (
    *("loop", "judging", "estimate", "training", "ppo"),
    *("overoptimization", "reward", "reward_hh"),
)


def main() -> int:
    """Run one benchmark; exit code 2 for bad options."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    modules = {name: importlib.import_module(f"tests.bench.{name}") for name in BENCHMARKS}
    for name, module in modules.items():
        command = names.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        command.add_argument("--json", action="store_true", help="print nothing but the JSON")
        module.add_options(command)
    options = parser.parse_args()
    found = modules[options.name].run(options)
    print(json.dumps({"benchmark": options.name, **found, **_provenance()}))
    return 0


def _provenance() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "commit": commit.stdout.strip() or None,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
