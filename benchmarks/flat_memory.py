"""Memory and time to the first frame of `talk`, by the length of the recording.

    python benchmarks/flat_memory.py [--full] [--seconds 60 3600]

Runs `talk` for each length in a process of its own, a chosen emotion and a fixed batch, on a small
model (`--full`: the full-size network on synthetic weights), renders every frame into a video,
and prints the process's peak memory without the recording itself, and the time from the loaded
model to the first frame.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

RATE = 16_000
BATCH = 4


def write_recording(path: Path, seconds: int) -> int:
    """Write speech-like sound as a 16-bit WAV file; return its size in memory in bytes."""
    import wave

    generator = np.random.default_rng(0)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        for second in range(seconds):
            time = second + np.arange(RATE) / RATE
            voice = np.sin(2 * np.pi * 140 * time) * (0.5 - 0.5 * np.cos(2 * np.pi * 3 * time))
            sound = 0.2 * voice + 0.01 * generator.standard_normal(RATE)
            file.writeframes((sound * 32767).astype("<i2").tobytes())
    return seconds * RATE * 4


def write_weights(folder: Path, full: bool) -> Path:
    """Write synthetic weights into one file."""
    from safetensors.torch import save_file

    from float_core.checkpoint import CONFIG_KEY
    from float_core.config import FloatConfig
    from float_core.pipeline import NETWORKS
    from float_core.synthetic import synthetic_weights
    from tests.core.weights import SMALL

    config = FloatConfig() if full else SMALL
    state = synthetic_weights(config, NETWORKS, leave_out=("emotion_classifier",))
    path = folder / "weights.safetensors"
    save_file(state, path, metadata={CONFIG_KEY: json.dumps(config.to_dict())})
    return path


def measure(weights: Path, audio: Path, output: Path) -> tuple[float, float, str]:
    """Run talk; return its peak memory in MB, seconds to the first frame, and its report."""
    image = ROOT / "assets" / "portrait.png"
    words = ["talk", "--image", image, "--audio", audio, "--output", output, "--no-crop"]
    words += ["--emotion", "neutral", "--weights", weights, "--batch-size", BATCH]
    code = (
        "import sys, resource; from float_core.cli import main; status = main(sys.argv[1:]);"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, check=True, env=dict(os.environ),
    )  # fmt: skip
    peak = re.search(r"^peak (\d+)$", run.stdout, re.MULTILINE)
    first = re.search(r"first frame ([\d.]+)", run.stdout)
    assert peak is not None, run.stdout
    assert first is not None, run.stdout
    return int(peak[1]) / 1e3, float(first[1]), run.stdout.splitlines()[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the full-size network")
    parser.add_argument("--seconds", type=int, nargs="+", default=[4, 60, 3600])
    arguments = parser.parse_args()
    print("| recording, s | peak without it, MB | first frame, s | report |")
    print("| ---: | ---: | ---: | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = write_weights(folder, arguments.full)
        for seconds in arguments.seconds:
            size = write_recording(folder / "speech.wav", seconds)
            peak, first, report = measure(weights, folder / "speech.wav", folder / "out.mp4")
            words = report.replace(str(folder), "").strip()
            print(f"| {seconds} | {peak - size / 1e6:.0f} | {first:.2f} | {words} |", flush=True)


if __name__ == "__main__":
    main()
