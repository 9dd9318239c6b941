"""What the benchmark measures with: clocks, counters, ceilings, a table."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

COPY_BYTES = 2**28


def linear_operations(x: torch.Tensor, weight: torch.Tensor, *_rest: Any, **_result: Any) -> int:
    """Return the operations of a linear layer."""
    return 2 * x.numel() * len(weight)


OPERATIONS = dict(flop_registry)
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    # What float_core.modules.fused_linear calls; torch has no count of it.
    OPERATIONS[torch.ops.mkldnn._linear_pointwise] = linear_operations


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that a call takes."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def alternate(
    calls: Mapping[str, Callable[[], Any]], device: torch.device, rounds: int
) -> dict[str, float]:
    """Return the shortest time of each call in seconds; a round runs each once, one by one."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best[name], timed(call, device))
    return best


class Count(TorchDispatchMode):
    """Count the operations of all products, and the bytes they must read and write.

    Attributes:
        operations: Multiplications and additions of convolutions and matrix products.
        bytes: Their inputs read once and outputs written once; what lies between them is free.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count it if it is a product."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = OPERATIONS.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **kwargs, out_val=result)
            tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
            self.bytes += sum(value.numel() * value.element_size() for value in tensors)
        return result


def counted(call: Callable[[], Any]) -> Count:
    """Return what a call computes."""
    count = Count()
    with torch.no_grad(), count:
        call()
    return count


@dataclass(frozen=True)
class Ceilings:
    """What a device reaches at best, measured.

    Attributes:
        operations: Operations a second of products, by precision.
        bandwidth: Bytes a second read and written by a copy.
    """

    operations: Mapping[torch.dtype, float]
    bandwidth: float

    def floor(self, count: Count, dtype: torch.dtype) -> float:
        """Return the seconds below which a computation cannot go at these ceilings."""
        return max(count.operations / self.operations[dtype], count.bytes / self.bandwidth)


def measure_ceilings(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> Ceilings:
    """Measure products and copies.

    The ceiling of a precision is the faster of a large matrix product and a large convolution: on
    a CPU they come from different libraries, of which either may be the faster.
    """
    operations = {}
    for dtype in dtypes:
        size, batch = (8192, 64) if device.type == "cuda" else (2048, 4)
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        x = torch.randn(batch, 256, 64, 64, device=device).to(dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(256, 256, 3, 3, device=device).to(dtype)
        weight = weight.contiguous(memory_format=torch.channels_last)
        calls = {"matrix": lambda a=a, b=b: a @ b, "convolution": lambda x=x, w=weight: conv(x, w)}
        times = alternate(calls, device, 12)
        work = {"matrix": 2 * size**3, "convolution": 2 * 9 * 256 * 256 * 64 * 64 * batch}
        operations[dtype] = max(work[name] / times[name] for name in calls)
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    seconds = alternate({"copy": lambda: target.copy_(source)}, device, 12)["copy"]
    return Ceilings(operations, 2 * COPY_BYTES / seconds)


def conv(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Convolve 3x3 with padding."""
    return F.conv2d(x, weight, padding=1)


def describe_machine(device: torch.device) -> list[str]:
    """Return device, versions, date and load in lines."""
    lines = [f"CPU: {cpu_name()}, {torch.get_num_threads()} threads"]
    if device.type == "cuda":
        lines.append(f"GPU: {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    lines.append(
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    load = f", load before the run {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    lines.append(f"{now:%Y-%m-%d %H:%M} UTC{load}")
    return lines


def cpu_name() -> str:
    """Return the CPU's model and those of its instructions that matter here."""
    if not os.path.exists("/proc/cpuinfo"):
        return platform.processor() or platform.machine()
    run = subprocess.run(["lscpu"], capture_output=True, text=True, check=False)
    fields = dict(line.split(":", 1) for line in run.stdout.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("Flags", "").split()
    matter = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    name = fields.get("Model name", platform.machine())
    family = f"family {fields.get('CPU family')} model {fields.get('Model')}"
    return f"{name} ({family}; {', '.join(matter)})"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table; the first two columns are text, the others numbers."""
    ruler = ("---", "---", *("---:" for _ in header[2:]))
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ruler, *rows))
