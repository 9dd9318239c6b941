"""Measure the memory that loading weights takes, in each layout.

For each layout, full-size synthetic weights are written into a temporary folder, and a fresh
process loads them: everything is imported first, then the process's peak is reset
(`/proc/self/clear_refs`) and its resident memory noted; the rise is the peak (`VmHWM`) after a
step less that note. Loading memory-maps, so little is resident after it; every value of every
tensor is then summed, which makes all of them resident. Then the same for the emotion network,
which is read only when asked for. Each rise is given over the bytes of the tensors loaded by then;
the bound is 1.15, and 2 for the pickles that torch wrote before 1.6, which cannot be mapped.

    python benchmarks/memory.py [--folder DIR] [--dtype float16]

Linux only. Needs 2.5 GB of disk at a time, 5 GB of memory to write that, and two minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from core import weights as synthetic_weights  # noqa: E402
from core.weights import State  # noqa: E402

from float_core.checkpoint import open_weights  # noqa: E402
from float_core.config import FloatConfig  # noqa: E402
from float_core.pipeline import FloatPipeline  # noqa: E402

BOUND = 1.15
OLDER_BOUND = 2.0
CONFIG = FloatConfig()
CASES: dict[str, tuple[float, Callable[[State, Path], Path]]] = {
    "one file, .safetensors": (BOUND, synthetic_weights.save_one_file),
    "published, zip .pth and .bin": (BOUND, synthetic_weights.save_published),
    "parts, .safetensors": (BOUND, synthetic_weights.save_parts),
    "published, older .pth and .bin": (
        OLDER_BOUND,
        lambda state, folder: synthetic_weights.save_published(state, folder, zipped=False),
    ),
}


def main() -> None:
    """Write, load and measure each layout, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write the weights meanwhile")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load is not None:
        print(json.dumps(measure(arguments.load)))
        return
    print(f"Stored and run in {arguments.dtype}; GB are 1e9 bytes; rise over the tensors' bytes\n")
    print("| layout | tensors | after loading | all touched | with emotion | bound |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (bound, save) in CASES.items():
        steps = run(save, arguments)
        print(row(name, bound, steps), flush=True)


def run(save: Callable[[State, Path], Path], arguments: argparse.Namespace) -> dict[str, list[int]]:
    """Write one layout, measure a process that loads it, and remove the files."""
    folder = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="float-memory-"))
    dtype = getattr(torch, arguments.dtype)
    try:
        state = {
            key: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for key, tensor in synthetic_weights.synthetic_state_dict(CONFIG).items()
        }
        path = save(state, folder)
        command = [sys.executable, __file__, "--load", str(path)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        steps: dict[str, list[int]] = json.loads(result.stdout)
        return steps
    finally:
        shutil.rmtree(folder)


def measure(path: Path) -> dict[str, list[int]]:
    """Load weights in this process; return rise and tensor bytes after each step, in bytes."""
    import transformers.models.wav2vec2.modeling_wav2vec2  # noqa: F401 - libraries before the note

    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    pipeline = FloatPipeline(open_weights(path))
    networks: list[torch.nn.Module] = [
        pipeline.motion_encoder,
        pipeline.motion_decoder,
        pipeline.audio_encoder,
        pipeline.flow_transformer,
    ]
    steps = {"loaded": [status("VmHWM") - before, tensor_bytes(networks)]}
    touch(networks)
    steps["touched"] = [status("VmHWM") - before, tensor_bytes(networks)]
    networks.append(pipeline.emotion_classifier)
    touch(networks)
    steps["with emotion"] = [status("VmHWM") - before, tensor_bytes(networks)]
    return steps


def status(name: str) -> int:
    """Return a figure of this process in bytes, such as `VmRSS` or `VmHWM`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}: this benchmark needs Linux")


def tensor_bytes(networks: list[torch.nn.Module]) -> int:
    """Return the bytes of all parameters and stored buffers."""
    return sum(t.nbytes for network in networks for t in network.state_dict().values())


def touch(networks: list[torch.nn.Module]) -> None:
    """Read every value of every tensor."""
    for network in networks:
        for tensor in network.state_dict().values():
            tensor.sum()


def row(name: str, bound: float, steps: dict[str, list[int]]) -> str:
    """Return a line of the table."""
    cells = [f"{rise / 1e9:.2f} GB, {rise / size:.2f}" for rise, size in steps.values()]
    worst = max(rise / size for rise, size in steps.values())
    sizes = f"{steps['touched'][1] / 1e9:.2f} + {_last(steps) / 1e9:.2f} GB"
    verdict = "holds" if worst <= bound else "EXCEEDED"
    return f"| {name} | {sizes} | {' | '.join(cells)} | {bound:g} {verdict} |"


def _last(steps: dict[str, list[int]]) -> int:
    return steps["with emotion"][1] - steps["touched"][1]


if __name__ == "__main__":
    main()
