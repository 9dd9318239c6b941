"""The benchmark runs to its end, on a small model; its times are not looked at."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from core.weights import SMALL

from float_core.modules.fused_linear import fused_linear

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("run"), importlib.import_module("measuring")
    for name in ("run", "measuring"):
        sys.modules.pop(name)


@pytest.mark.slow
def test_the_report_has_every_row(modules, capsys) -> None:
    run, measuring = modules
    ceilings = measuring.Ceilings({torch.float32: 1e11, torch.bfloat16: 2e11}, 1e10)
    bench = run.Bench(torch.device("cpu"), torch.bfloat16, 1, ceilings, SMALL)
    with torch.no_grad():
        run.bench_decoder(bench, (1, 2))
        run.bench_motion(bench)
        run.bench_clips(bench, quick=True)
        page = run.report(bench, measuring.describe_machine(bench.device))
    capsys.readouterr()
    stages = [row[0] for row in bench.rows]
    assert stages == [
        *["decoder"] * 5, *["sampler, a window of 12 frames"] * 3, *["speech of 10 s"] * 3,
        *["emotion of 10 s"] * 3, *["clip of 10 s"] * 3, "clip of 60 s",
    ]  # fmt: skip
    assert "extrapolated: 30 x a clip of 2 s" in page
    assert "dB PSNR" in page
    assert "| operation | calls | share |" in page


def test_products_are_counted_once(modules) -> None:
    _, measuring = modules
    x, weight = torch.zeros(2, 3, 8, 8), torch.zeros(5, 3, 3, 3)
    count = measuring.counted(lambda: measuring.conv(x, weight))
    assert count.operations == 2 * 2 * 8 * 8 * 5 * 3 * 9
    assert count.bytes == 4 * (x.numel() + weight.numel() + 2 * 5 * 8 * 8)
    ceilings = measuring.Ceilings({torch.float32: count.operations / 3}, count.bytes / 2)
    assert ceilings.floor(count, torch.float32) == pytest.approx(3)


def test_linear_layers_count_the_same_by_either_library(modules) -> None:
    _, measuring = modules
    x, weight, bias = torch.zeros(2, 3, 8), torch.zeros(5, 8), torch.zeros(5)
    for layer in (torch.nn.functional.linear, fused_linear):
        count = measuring.counted(lambda layer=layer: layer(x, weight, bias))
        assert count.operations == 2 * 6 * 8 * 5
