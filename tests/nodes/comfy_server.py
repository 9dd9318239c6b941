"""A headless ComfyUI on loopback, in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
PACK_NAME = "ComfyUI-FLOAT-Portrait"
INPUT_PACK = Path(__file__).resolve().parent / "input_pack"

_FOLDERS = ("custom_nodes", "input", "output", "models", "temp", "user/default")
_START_SECONDS = 120.0
_STOP_SECONDS = 20.0


def make_base(base: Path, packs: Mapping[str, Path]) -> Path:
    """Make ComfyUI's folders, with a link to each pack of nodes.

    Args:
        base: The folder; it is made.
        packs: Folders of packs by the name they get in `custom_nodes`.
    """
    for folder in _FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, pack in packs.items():
        (base / "custom_nodes" / name).symlink_to(pack)
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}))
    return base


class ComfyServer:
    """A running server; use it as a context manager.

    Attributes:
        base: Its folders.
        url: Its address.
        seconds_to_start: From the start of the process to the first answer.
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        options: Sequence[str] = ("--cpu",),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.base = base
        self.seconds_to_start = 0.0
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = base / "server.log"
        self._command = [
            *(sys.executable, "main.py", "--listen", "127.0.0.1", "--port", str(port)),
            *("--base-directory", str(base), "--database-url", "sqlite:///:memory:"),
            *("--disable-auto-launch", "--disable-api-nodes", *options),
        ]
        self._folder = comfyui
        self._environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ComfyServer:
        started = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            while not self._answers():
                self._require(time.perf_counter() - started < _START_SECONDS, "is not up in time")
                self._require(self.alive, "stopped while starting")
                time.sleep(0.1)
        except BaseException:
            self._stop()
            raise
        self.seconds_to_start = time.perf_counter() - started
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether the process still runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Return all that the server has printed."""
        return self._log.read_text(errors="replace")

    def import_seconds(self, pack: str) -> float:
        """Return how long a pack took to import, as the server's own log says, to 0.1 s.

        Raises:
            AssertionError: The log says that it failed, or does not name it.
        """
        line = re.search(
            rf"^ *([0-9.]+) seconds(.*): .*/{re.escape(pack)}$", self.log, re.MULTILINE
        )
        assert line is not None, self.log
        assert "IMPORT FAILED" not in line[2], self.log
        return float(line[1])

    def memory_bytes(self) -> int:
        """Return the resident memory of the process."""
        import psutil

        return int(psutil.Process(self.pid).memory_info().rss)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/queue", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _require(self, condition: bool, problem: str) -> None:
        if not condition:
            raise RuntimeError(f"ComfyUI {problem}:\n{self.log[-4000:]}")

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
