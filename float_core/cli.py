"""The command line: talk, info, convert, train."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from .checkpoint import open_weights
from .checkpoint_export import convert, describe
from .config import SOLVER_NAMES, SamplingOptions
from .emotion import EMOTIONS
from .hub import DownloadError
from .motion import exact_fps
from .pipeline import FloatPipeline
from .precision import choose_dtype
from .talk import FROM_SPEECH, TalkOptions, TalkReport, talk
from .weights_choice import (
    DEMO,
    DEMO_FILE,
    DEMO_NOTE,
    DOWNLOAD,
    MODELS_FOLDER,
    SYNTHETIC,
    WEIGHTS_VARIABLE,
    choose_weights,
    existing,
    load_pipeline,
    weights_folder,
)

BAD_INPUT = 2
INTERRUPTED = 130

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

EXAMPLE = """\
example:
  python -m float_core talk --image assets/drawing.png --audio assets/speech.flac \\
      --output talk.mp4

The released weights are for non-commercial use. Make people speak only with their consent, and
say that the video is made by a machine; its file says so too.
"""


class _OneSentenceParser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, without the usage text before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after the program's name; those of the process where None.

    Returns:
        Exit status: 0, 2 for bad input, 130 after Ctrl-C.
    """
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    run: Callable[[argparse.Namespace], None] = parsed.run
    try:
        run(parsed)
    except (ValueError, OSError, ImportError, MemoryError, DownloadError) as error:
        print(f"{parsed.command}: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{parsed.command}: stopped; no file was written.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _OneSentenceParser(prog="float_core", description="Make a portrait speak with FLOAT.")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_OneSentenceParser
    )
    _add_talk(commands)
    info = commands.add_parser("info", help="say what weights are")
    info.add_argument("weights", metavar="WEIGHTS", help="a file or folder of weights")
    info.set_defaults(run=_info)
    converter = commands.add_parser("convert", help="write weights into one safetensors file")
    converter.add_argument("weights", metavar="WEIGHTS", help="a file or folder of weights")
    converter.add_argument("output", metavar="OUT.safetensors", help="the file to write")
    converter.add_argument("--dtype", choices=DTYPES, help="precision to store (default: kept)")
    converter.set_defaults(run=_convert)
    _add_train(commands)
    return parser


def _add_train(commands: argparse._SubParsersAction[_OneSentenceParser]) -> None:
    parser = commands.add_parser("train", help="train the demo model from nothing, or judge one")
    tasks = parser.add_subparsers(
        dest="task", required=True, metavar="TASK", parser_class=_OneSentenceParser
    )
    demo = tasks.add_parser("demo", help="draw a world, train on it, write the weights")
    demo.add_argument("--output", required=True, metavar="F.safetensors", help="file to write")
    demo.add_argument("--folder", metavar="DIR", help="states, log, sheets (F.training)")
    demo.add_argument("--minutes", type=float, metavar="M", help="fit the training into M minutes")
    demo.add_argument("--effort", type=float, metavar="E", help="factor of the usual steps")
    demo.add_argument("--resume", action="store_true", help="go on where a training stopped")
    demo.add_argument("--seed", type=int, default=0, metavar="N")
    demo.add_argument("--no-figures", action="store_true", help="do not judge the model afterwards")
    demo.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16", help="(%(default)s)")
    judge = tasks.add_parser("judge", help="held-out figures of a model: does it speak?")
    judge.add_argument("weights", metavar="WEIGHTS", help="a file or folder of weights")
    judge.add_argument("--recording", action="append", default=[], metavar="A", help="a real voice")
    for task, run in ((demo, _train_demo), (judge, _judge)):
        task.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
        task.set_defaults(run=run)


def _add_talk(commands: argparse._SubParsersAction[_OneSentenceParser]) -> None:
    usual = TalkOptions()
    parser = commands.add_parser(
        "talk",
        help="make a video from a photo and a recording",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--image", required=True, metavar="P", help="the portrait: any picture")
    files.add_argument("--audio", required=True, metavar="A", help="the speech: any sound or video")
    files.add_argument("--output", required=True, metavar="V.mp4", help="the video to write")
    files.add_argument(
        "--weights",
        metavar="W",
        help=f"a file or folder; {SYNTHETIC} (no meaning, for a first run); {DOWNLOAD} (2.4 GB, "
        f"into ${WEIGHTS_VARIABLE} or {MODELS_FOLDER}); {DEMO}; default: released weights found "
        "there, else the demo",
    )
    _add_motion(parser.add_argument_group("motion"), usual)
    face = parser.add_argument_group("face")
    face.add_argument("--box", type=_box, metavar="X,Y,W,H", help="the face, in pixels")
    face.add_argument("--no-crop", action="store_true", help="the whole picture is the portrait")
    face.add_argument("--margin", type=float, default=usual.margin, help="space (%(default)s)")
    face.add_argument("--background", default=usual.background, help="colour (%(default)s)")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    machine.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="precision")
    machine.add_argument("--batch-size", type=int, metavar="N", help="frames decoded at once")
    machine.add_argument(
        "--whole-speech", action="store_true", help="hear speech beyond a minute at once (memory)"
    )
    machine.add_argument(
        "--compile",
        action="store_true",
        help="compile the decoder: the first frames wait for that, often minutes",
    )
    parser.set_defaults(run=_talk)


def _add_motion(group: argparse._ArgumentGroup, usual: TalkOptions) -> None:
    sampling = usual.sampling
    emotions = (FROM_SPEECH, *EMOTIONS)
    group.add_argument(
        "--emotion", choices=emotions, default=usual.emotion, metavar="E", help=", ".join(emotions)
    )
    for name, meaning in (
        ("audio_guidance", "how strongly the speech drives (%(default)s)"),
        ("emotion_guidance", "how strongly the emotion shows; 5 is strong (%(default)s)"),
        ("reference_guidance", "how strongly the portrait's own pose holds; 1 is off (1)"),
    ):
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(
            flag, type=float, default=getattr(sampling, name), metavar="G", help=meaning
        )
    group.add_argument(
        "--time-points", type=int, default=sampling.time_points, metavar="N",
        help="points of the time grid; fewer are faster (%(default)s)",
    )  # fmt: skip
    group.add_argument("--solver", choices=SOLVER_NAMES, default=sampling.solver)
    group.add_argument("--seed", type=int, default=sampling.seed, metavar="N")
    group.add_argument("--fps", type=_fps, default=usual.fps, help="1 to 120 (%(default)s)")


def _fps(text: str) -> Fraction:
    try:
        return exact_fps(Fraction(text) if "/" in text else float(text))
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{error}") from error


def _box(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"expected X,Y,W,H in pixels, got {text!r}")
    return numbers


def _talk(parsed: argparse.Namespace) -> None:
    options = TalkOptions(
        emotion=parsed.emotion,
        sampling=SamplingOptions(
            time_points=parsed.time_points,
            solver=parsed.solver,
            audio_guidance=parsed.audio_guidance,
            emotion_guidance=parsed.emotion_guidance,
            reference_guidance=parsed.reference_guidance,
            seed=parsed.seed,
        ),
        fps=parsed.fps,
        box=parsed.box,
        crop=not parsed.no_crop,
        margin=parsed.margin,
        background=parsed.background,
        batch_size=parsed.batch_size,
        encoding="whole" if parsed.whole_speech else "auto",
    )
    device = _device(parsed.device)
    dtype = DTYPES.get(parsed.dtype) or choose_dtype(device)
    chosen = choose_weights(parsed.weights)
    if chosen == SYNTHETIC:
        print("Synthetic weights: the picture will mean nothing.")
    if chosen == DEMO_FILE:
        print(DEMO_NOTE)

    def load(bar: Callable[[int, int], None]) -> FloatPipeline:
        pipeline = load_pipeline(chosen, device, dtype, parsed.emotion == FROM_SPEECH, bar)
        if parsed.compile:
            pipeline.compile_decoder()
        return pipeline

    with _Bars() as bars:
        report = talk(
            parsed.image,
            parsed.audio,
            parsed.output,
            load,
            options,
            face_models=(weights_folder(), MODELS_FOLDER),
            on_progress=bars.show,
        )
    print(_summary(report, parsed.output, options))


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"Expected a device this torch can use, got {name!r} ({error})."
        ) from error
    return device


def _summary(report: TalkReport, output: str, options: TalkOptions) -> str:
    times = ", ".join(f"{name} {seconds:.1f}" for name, seconds in report.seconds.items())
    return (
        f"Wrote {output}: {report.frames} frames at {float(options.fps):g} fps. Face framed by: "
        f"{report.framed_by}. Emotion: {report.emotion}.\nSeconds: {times}."
    )


class _Bars:
    """One progress bar a stage, shown for those that last more than a second."""

    def __init__(self) -> None:
        self._name = ""
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_error: object) -> None:
        self._close()

    def show(self, stage: str, done: int, total: int) -> None:
        if stage != self._name or self._bar is None:
            self._close()
            self._name = stage
            self._bar = tqdm(total=total, desc=stage, delay=1, leave=False)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _info(parsed: argparse.Namespace) -> None:
    print(describe(open_weights(existing(parsed.weights))))


def _convert(parsed: argparse.Namespace) -> None:
    weights = open_weights(existing(parsed.weights))
    pipeline = FloatPipeline(weights)  # refuses weights that are not whole
    if weights.has("emotion_classifier"):
        pipeline.read_emotion_network()
    convert(weights, parsed.output, DTYPES.get(parsed.dtype))
    print(f"Wrote {parsed.output}. Licence: {weights.licence}")


def _train_demo(parsed: argparse.Namespace) -> None:
    from .training import command

    order = command.DemoOrder(
        output=Path(parsed.output),
        folder=Path(parsed.folder) if parsed.folder else None,
        minutes=parsed.minutes,
        effort=parsed.effort,
        resume=parsed.resume,
        seed=parsed.seed,
        figures=not parsed.no_figures,
        half_precision=parsed.dtype == "bf16",
    )
    with _Bars() as bars:
        outcome = command.train_demo(order, _device(parsed.device), bars.show)
    print(outcome)


def _judge(parsed: argparse.Namespace) -> None:
    from .training import command

    weights, recordings = existing(parsed.weights), [Path(name) for name in parsed.recording]
    with _Bars() as bars:
        figures = command.evaluate_weights(weights, recordings, _device(parsed.device), bars.show)
    print(figures)
