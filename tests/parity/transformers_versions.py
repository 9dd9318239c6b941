"""Hold the golden files with the oldest and the newest transformers.

    python tests/parity/transformers_versions.py [VERSION …]

Installs each version into a temporary folder that goes before the environment's own, and runs
`compare.py` on the tiny file under it. Needs a package index; not part of the default test run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSIONS = ("4.40.0", "4.41.0", "5")
"""The oldest supported, the first with another attention than its own, and the newest 5.x."""

COMPANIONS = {"4": ("tokenizers<0.20", "huggingface-hub<1"), "5": ("tokenizers", "huggingface-hub")}


def requirement_of(version: str) -> str:
    """Return what pip is asked for: an exact version, or the newest of a series."""
    return f"transformers=={version}" if "." in version else f"transformers=={version}.*"


def check(version: str) -> bool:
    """Install one version and run the comparison; return whether it holds."""
    with tempfile.TemporaryDirectory() as folder:
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
        subprocess.run([*install, requirement_of(version), *COMPANIONS[version[0]]], check=True)
        environment = {**os.environ, "PYTHONPATH": folder}
        shown = "import transformers; print('transformers', transformers.__version__, flush=True)"
        subprocess.run([sys.executable, "-c", shown], env=environment, check=True)
        command = [sys.executable, str(HERE / "compare.py"), str(HERE / "golden" / "tiny.npz")]
        return subprocess.run(command, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    results = [check(version) for version in sys.argv[1:] or VERSIONS]
    sys.exit(0 if all(results) else 1)
