"""Time to the first frame of a stream, by the length of the recording.

    python benchmarks/first_frame.py [--seconds 4 3600] [--rate 16000] [--rounds 5] [--small]

Streams noise with a chosen emotion, four frames at a time, through the full-size network on
synthetic weights in the precision that `auto` picks (`--small`: the tests' model in float32), and
stops at the first frames. Lengths alternate, after one run of each that does not count; the table
has the median and the shortest time, and the medians over the first length's. A second table has
what reads the whole recording before the first frame, at the last length.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from measuring import describe_machine, timed  # noqa: E402

from float_core.audio import check_waveform, warn_if_silent  # noqa: E402
from float_core.config import FloatConfig  # noqa: E402
from float_core.emotion import one_hot  # noqa: E402
from float_core.long_speech import PreparedSpeech  # noqa: E402
from float_core.pipeline import NETWORKS, FloatPipeline  # noqa: E402
from float_core.precision import choose_dtype  # noqa: E402
from float_core.synthetic import synthetic_weights  # noqa: E402

BATCH = 4


def build(small: bool, device: torch.device) -> FloatPipeline:
    """Return a pipeline on synthetic weights."""
    if small:
        from core.weights import SMALL, synthetic_state_dict

        return FloatPipeline.from_state_dict(synthetic_state_dict(SMALL), SMALL, device=device)
    config = FloatConfig()
    state = synthetic_weights(config, NETWORKS, leave_out=("emotion_classifier",))
    dtype = choose_dtype(device)
    return FloatPipeline.from_state_dict(state, config, device=device, dtype=dtype)


def noise(seconds: int, rate: int) -> torch.Tensor:
    """Return noise as loud as speech, (1, 1, samples)."""
    return torch.randn(1, 1, seconds * rate, generator=torch.Generator().manual_seed(0)) * 0.1


def measure(
    calls: dict[int, Callable[[], Any]], device: torch.device, rounds: int
) -> dict[int, list[float]]:
    """Return each call's times in seconds; a round runs each once, and the first does not count."""
    times: dict[int, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            times[name].append(timed(call, device))
    return {name: taken[1:] for name, taken in times.items()}


def print_passes(sound: torch.Tensor, rate: int, config: FloatConfig, rounds: int) -> None:
    """Print the time of each pass over a whole recording."""
    kernel, stride = config.speech.conv_kernel[0], config.speech.conv_stride[0]
    passes: dict[str, Callable[[], Any]] = {
        "are the samples finite": lambda: check_waveform(sound, rate),
        "is it silent": lambda: warn_if_silent(sound),
        "mean, variance and windows": lambda: PreparedSpeech(sound, rate).window_moments(
            kernel, stride
        ),
    }
    print("\n| pass over the whole recording | median, ms | shortest, ms |")
    print("| --- | ---: | ---: |")
    for name, call in passes.items():
        taken = [1e3 * timed(call, torch.device("cpu")) for _ in range(rounds)]
        print(f"| {name} | {statistics.median(taken):.0f} | {min(taken):.0f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, nargs="+", default=[4, 3600])
    parser.add_argument("--rate", type=int, default=16_000, help="sample rate of the recording")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="the tests' model")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    device, rate = arguments.device, arguments.rate
    print("\n".join(f"- {line}" for line in describe_machine(device)), end="\n\n")
    pipeline = build(arguments.small, device)
    side = pipeline.config.image_size
    portrait = pipeline.encode_portrait(torch.zeros(1, 3, side, side))
    sounds = {seconds: noise(seconds, rate) for seconds in arguments.seconds}

    def first_frame(sound: torch.Tensor) -> torch.Tensor:
        return next(pipeline.stream(portrait, sound, rate, one_hot("happy"), batch_size=BATCH))

    calls = {name: lambda sound=sound: first_frame(sound) for name, sound in sounds.items()}
    times = measure(calls, device, arguments.rounds)
    base = statistics.median(times[arguments.seconds[0]])
    print(f"| recording, s | median, s | shortest, s | over {arguments.seconds[0]} s |")
    print("| ---: | ---: | ---: | ---: |")
    for seconds, taken in times.items():
        middle = statistics.median(taken)
        print(f"| {seconds} | {middle:.2f} | {min(taken):.2f} | {middle / base:.2f} |", flush=True)
    print_passes(sounds[arguments.seconds[-1]], rate, pipeline.config, arguments.rounds)


if __name__ == "__main__":
    main()
