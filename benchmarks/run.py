"""Speed of every stage, plain and fast alternately in one process, at full size.

    python benchmarks/run.py [--quick] [--device cpu] [--threads N] [--plain-seconds 10] [--profile]

Plain is the published way: float32, frame by frame, one weight a frame. Weights are synthetic and
stay in memory. Prints Markdown tables; a full run also writes `benchmarks/RESULTS.md`. A row's
floor is the time in which the machine could do that row's products, or move their operands, at the
ceilings measured in the same run.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from measuring import (  # noqa: E402
    Ceilings,
    alternate,
    counted,
    describe_machine,
    measure_ceilings,
    table,
    timed,
)

from float_core.config import SPEECH_SAMPLE_RATE, FloatConfig, SamplingOptions  # noqa: E402
from float_core.modules.fast_decoder import FastMotionDecoder  # noqa: E402
from float_core.modules.motion_decoder import MotionDecoder  # noqa: E402
from float_core.pipeline import NETWORKS, FloatPipeline  # noqa: E402
from float_core.portrait import Portrait, frame_bytes  # noqa: E402
from float_core.precision import apply_precision, choose_dtype  # noqa: E402
from float_core.speech import Speech  # noqa: E402
from float_core.synthetic import synthetic_weights, unit_noise  # noqa: E402

HEADER = ("stage", "variant", "time", "rate", "plain : this", "floor", "time : floor")
PROFILE_ROWS = 8
RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
SPEECH_SECONDS = 10


@dataclass
class Bench:
    """The models, their inputs and the rows so far.

    Attributes:
        device: Where everything runs.
        half: The half precision of this device.
        rounds: How often each call of a group runs.
        ceilings: What the device reaches at best.
        config: Shape of the model.
        rows: What was measured so far.
    """

    device: torch.device
    half: torch.dtype
    rounds: int
    ceilings: Ceilings
    config: FloatConfig = field(default_factory=FloatConfig)
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        state = synthetic_weights(self.config, NETWORKS)
        self.plain = FloatPipeline.from_state_dict(
            state, self.config, device=self.device, dtype=torch.float32, plain=True
        )
        self.fast = self._fast(state, torch.float32)
        self.fastest = self._fast(state, self.half)
        self.image = smooth_image(self.config.image_size).to(self.device)
        self.portrait = self.plain.encode_portrait(self.image)

    def _fast(self, state: dict[str, torch.Tensor], dtype: torch.dtype) -> FloatPipeline:
        pipeline = FloatPipeline.from_state_dict(
            state, self.config, device=self.device, dtype=torch.float32
        )
        apply_precision(pipeline.audio_encoder, dtype)
        apply_precision(pipeline.flow_transformer, dtype)
        apply_precision(pipeline.emotion_classifier, dtype)
        plain = self.plain.motion_decoder
        assert isinstance(plain, MotionDecoder), "asked for above"
        pipeline.motion_decoder = FastMotionDecoder(plain, dtype)
        return pipeline

    def add(self, stage: str, variant: str, seconds: float, units: float, unit: str, **more: Any):
        """Add a row.

        Args:
            stage: What was done.
            variant: How.
            seconds: Time of all units.
            units: How many frames or seconds were made.
            unit: Their name.
            more: `plain`, seconds of all units the plain way; `count` and `dtype` for the floor.
        """
        plain, count = more.get("plain"), more.get("count")
        floor = self.ceilings.floor(count, more["dtype"]) if count is not None else None
        row = (
            stage,
            variant,
            duration(seconds),
            f"{units / seconds:.3g} {unit}/s",
            f"{plain / seconds:.1f}" if plain else "",
            duration(floor) if floor else "",
            f"{seconds / floor:.2f}" if floor else "",
        )
        self.rows.append(row)
        print(f"| {' | '.join(row)} |", flush=True)


def smooth_image(side: int) -> torch.Tensor:
    """Return a smooth picture in [-1, 1], (1, 3, side, side)."""
    y, x = torch.meshgrid(*[torch.arange(side) / side] * 2, indexing="ij")
    waves = [torch.sin(7 * x + 3 * y), torch.cos(5 * y - 4 * x), torch.sin(9 * x * y + 1)]
    return torch.stack(waves)[None]


def speech_like(seconds: float) -> torch.Tensor:
    """Return a voice-like waveform, (1, 1, samples) at 16 kHz."""
    time = torch.arange(round(seconds * SPEECH_SAMPLE_RATE)) / SPEECH_SAMPLE_RATE
    envelope = 0.5 - 0.5 * torch.cos(2 * math.pi * 3 * time)
    voice = 0.1 * envelope * torch.sin(2 * math.pi * 140 * time)
    hiss = torch.from_numpy(unit_noise("benchmark/hiss", tuple(time.shape)))
    return (voice + 0.01 * hiss)[None, None]


def duration(seconds: float) -> str:
    """Return a time in a readable unit."""
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def bench_decoder(bench: Bench, batches: tuple[int, ...]) -> None:
    """Measure frames, one way after the other."""
    noise = torch.from_numpy(
        unit_noise("benchmark/motion", (max(batches), bench.config.latent_dim))
    )
    latents = 0.3 * noise.to(bench.device) + bench.portrait.identity
    features = list(bench.portrait.features)
    plain = bench.plain.motion_decoder
    calls: dict[Any, Callable[[], Any]] = {"plain": lambda: plain(latents[:1], features)}
    for dtype, pipeline in ((torch.float32, bench.fast), (bench.half, bench.fastest)):
        network = pipeline.motion_decoder
        source = network.prepare(features)
        for batch in batches:
            calls[dtype, batch] = lambda n=network, s=source, b=batch: n(latents[:b], s)
    alternate(calls, bench.device, 1)  # what a first call sets up
    times = alternate(calls, bench.device, bench.rounds)
    count = counted(calls["plain"])
    one = times.pop("plain")
    bench.add(
        "decoder", "plain float32, frame by frame", one, 1, "frames", plain=one, count=count,
        dtype=torch.float32,
    )  # fmt: skip
    for (dtype, batch), seconds in times.items():
        variant = f"fast {NAMES[dtype]}, batch {batch}"
        bench.add(
            "decoder", variant, seconds, batch, "frames", plain=one * batch,
            count=counted(calls[dtype, batch]), dtype=dtype,
        )  # fmt: skip


def bench_stage(
    bench: Bench, stage: str, call: Callable[[FloatPipeline], Any], units: float, unit: str
) -> None:
    """Measure a stage the plain way, the fast way, and that in half precision."""
    pipelines = {
        "plain float32": (bench.plain, torch.float32),
        "fast float32": (bench.fast, torch.float32),
        f"fast {NAMES[bench.half]}": (bench.fastest, bench.half),
    }
    calls = {name: partial(call, pipeline) for name, (pipeline, _) in pipelines.items()}
    alternate(calls, bench.device, 1)  # what a first call sets up
    times = alternate(calls, bench.device, max(bench.rounds // 2, 2))
    for name, seconds in times.items():
        bench.add(
            stage, name, seconds, units, unit, plain=times["plain float32"],
            count=counted(calls[name]), dtype=pipelines[name][1],
        )  # fmt: skip


def window(bench: Bench, options: SamplingOptions) -> Callable[[FloatPipeline], torch.Tensor]:
    """Return what samples one window of 2 s with a pipeline."""
    frames = bench.config.transformer.window_frames
    shape = (1, frames, bench.config.speech_dim)
    noise = torch.from_numpy(unit_noise("benchmark/speech", shape)).to(bench.device)
    speech = Speech(noise, frames / bench.config.fps)
    emotion = torch.eye(7, device=bench.device)[None, :1]
    return lambda pipeline: pipeline.sample(bench.portrait, speech, emotion, options).latents


def bench_motion(bench: Bench) -> None:
    """Measure what leads from speech to motion."""
    sample = window(bench, SamplingOptions())
    frames = bench.config.transformer.window_frames
    bench_stage(bench, f"sampler, a window of {frames} frames", sample, frames, "frames")
    sound, rate = speech_like(SPEECH_SECONDS).to(bench.device), SPEECH_SAMPLE_RATE
    for name, call in (
        ("speech", lambda pipeline: pipeline.encode_speech(sound, rate)),
        ("emotion", lambda pipeline: pipeline.classify_emotion(sound, rate)),
    ):
        frames = SPEECH_SECONDS * bench.config.fps
        bench_stage(bench, f"{name} of {SPEECH_SECONDS} s", call, frames, "frames")


def make_clip(pipeline: FloatPipeline, image: torch.Tensor, sound: torch.Tensor, size: Any) -> int:
    """Make a clip from tensors to bytes on the CPU; return its number of frames."""
    portrait: Portrait = pipeline.encode_portrait(image)
    speech = pipeline.encode_speech(sound, SPEECH_SAMPLE_RATE)
    emotion = pipeline.classify_emotion(sound, SPEECH_SAMPLE_RATE)[:, None]
    motion = pipeline.sample(portrait, speech, emotion)
    return sum(len(frame_bytes(chunk)) for chunk in pipeline.decode(portrait, motion, size))


def bench_clips(bench: Bench, quick: bool, plain_seconds: int = 10) -> None:
    """Measure clips from end to end; what is not measured says what it is made from."""
    measured = 2 if quick else plain_seconds

    def run(pipeline: FloatPipeline, seconds: float, size: Any = None) -> float:
        sound = speech_like(seconds).to(bench.device)
        return timed(lambda: make_clip(pipeline, bench.image, sound, size), bench.device)

    run(bench.fastest, 1)
    run(bench.fast, 1)
    plain = run(bench.plain, measured, 1)
    for seconds in (10, 60):
        whole, times = plain * seconds / measured, seconds // measured
        note = "" if times == 1 else f" (extrapolated: {times} x a clip of {measured} s)"
        stage, frames = f"clip of {seconds} s", seconds * bench.config.fps
        bench.add(stage, f"plain float32{note}", whole, frames, "frames", plain=whole)
        for dtype, pipeline in ((torch.float32, bench.fast), (bench.half, bench.fastest)):
            if seconds > 10 and (quick or dtype == torch.float32):
                continue  # a minute in float32 takes five to measure and tells nothing more
            time = run(pipeline, seconds)
            bench.add(stage, f"fast {NAMES[dtype]}", time, frames, "frames", plain=whole)


def quality(bench: Bench) -> list[tuple[str, ...]]:
    """Compare half precision with float32: frames in decibels, motion in percent."""
    noise = torch.from_numpy(unit_noise("full/r_d", (3, bench.config.latent_dim)))
    latents = 0.3 * noise.to(bench.device) + bench.portrait.identity
    features = list(bench.portrait.features)
    exact = bench.plain.motion_decoder(latents, features)
    rows = []
    for dtype, pipeline in ((torch.float32, bench.fast), (bench.half, bench.fastest)):
        error = (pipeline.motion_decoder(latents, features) - exact).square().mean().sqrt()
        rows.append(
            ("frames", f"fast {NAMES[dtype]}", f"{20 * math.log10(2 / float(error)):.1f} dB PSNR")
        )
    for emotion_guidance in (1.0, 5.0):
        sample = window(bench, SamplingOptions(emotion_guidance=emotion_guidance))
        expected, actual = sample(bench.plain), sample(bench.fastest)
        error = 100 * float((actual - expected).norm() / expected.norm())
        name = f"motion at guidance 2 / {emotion_guidance:.0f}"
        rows.append((name, NAMES[bench.half], f"{error:.2f} % off float32"))
    return rows


def ceiling_lines(ceilings: Ceilings) -> list[str]:
    """Return the ceilings in words."""
    speeds = [
        f"{NAMES[dtype]} products {speed / 1e9:,.0f} GFLOP/s"
        for dtype, speed in ceilings.operations.items()
    ]
    return [f"Ceilings: {', '.join(speeds)}, copies {ceilings.bandwidth / 1e9:,.1f} GB/s"]


def profile(bench: Bench) -> Any:
    """Return where the fastest decoder's time goes, four frames at once, by operation."""
    features = list(bench.portrait.features)
    network = bench.fastest.motion_decoder
    source = network.prepare(features)
    latents = bench.portrait.identity.expand(4, -1)
    network(latents, source)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        network(latents, source)
    return profiler.key_averages()


def own_time(bench: Bench) -> str:
    """Return the name of what a profile is sorted by."""
    return "self_device_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"


def profile_rows(bench: Bench) -> list[tuple[str, ...]]:
    """Return the operations that take most of the fastest decoder's time."""
    averages, key = profile(bench), own_time(bench)
    whole = sum(getattr(operation, key) for operation in averages)
    rest = sorted(averages, key=lambda operation: -getattr(operation, key))[:PROFILE_ROWS]
    return [(f"`{o.key}`", str(o.count), f"{100 * getattr(o, key) / whole:.0f} %") for o in rest]


def report(bench: Bench, machine: list[str]) -> str:
    """Return the results as a page."""
    lines = [*machine, *ceiling_lines(bench.ceilings)]
    parts = [
        "# Speed",
        "Written by `python benchmarks/run.py`; see there for what plain and floor mean.",
        "\n".join(f"- {line}" for line in lines),
        table(HEADER, bench.rows),
        table(("result", "variant", "against plain float32"), quality(bench)),
        f"Where the decoder's time goes in {NAMES[bench.half]}, four frames at once:",
        table(("operation", "calls", "share"), profile_rows(bench)),
    ]
    return "\n\n".join(parts) + "\n"


@torch.no_grad()
def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter clips")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument(
        "--plain-seconds",
        type=int,
        default=10,
        choices=(2, 5, 10),
        help="of the plain clip measured",
    )
    parser.add_argument("--profile", action="store_true", help="only profile the decoder")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    machine = describe_machine(device)
    chosen = choose_dtype(device)
    half = torch.bfloat16 if chosen == torch.float32 else chosen
    ceilings = measure_ceilings(device, (torch.float32, half))
    print("\n".join([*machine, *ceiling_lines(ceilings)]))
    bench = Bench(device, half, 3 if arguments.quick else 10, ceilings)
    if arguments.profile:
        print(profile(bench).table(sort_by=own_time(bench), row_limit=20))
        return
    bench_decoder(bench, (1, 8, 32) if device.type == "cuda" else (1, 4, 8))
    bench_motion(bench)
    bench_clips(bench, arguments.quick, arguments.plain_seconds)
    page = report(bench, machine)
    print("\n" + page)
    if not arguments.quick:
        RESULTS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
