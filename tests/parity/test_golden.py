"""The golden files hold, by the same tool a person runs."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from parity.model import GOLDEN, ROOT

COMPARE = ROOT / "tests" / "parity" / "compare.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COMPARE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check(*arguments: object) -> None:
    result = run(*arguments)
    print(result.stdout)  # noqa: T201 - the table is what a failure needs
    assert result.returncode == 0, result.stdout + result.stderr


def test_tiny_and_crops() -> None:
    check(GOLDEN / "tiny.npz", GOLDEN / "crops.npz")


def test_tiny_by_the_plain_decoder() -> None:
    check(GOLDEN / "tiny.npz", "--plain")


def test_tiny_in_float64_is_limited_by_storage_alone() -> None:
    result = run(GOLDEN / "tiny.npz", "--dtype", "float64")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if "e-" in line]
    assert max(float(row[-1]) for row in rows) < 1e-7


@pytest.mark.full
@pytest.mark.parametrize("form", [[], ["--plain"]])
def test_full(form) -> None:
    check(GOLDEN / "full.npz", *form)


def rewrite(tmp_path, **changes: np.ndarray):
    with np.load(GOLDEN / "tiny.npz") as file:
        arrays = {"meta": file["meta"], "s_r": file["s_r"], "r_s": file["r_s"], **changes}
    np.savez(tmp_path / "file.npz", **arrays)
    return tmp_path / "file.npz"


def test_a_wrong_array_fails(tmp_path) -> None:
    with np.load(GOLDEN / "tiny.npz") as file:
        wrong = file["r_s"] * (1 + 1e-4)
    result = run(rewrite(tmp_path, r_s=wrong))
    assert result.returncode == 1
    assert "OVER" in result.stdout


def test_an_array_of_unknown_name_fails(tmp_path) -> None:
    result = run(rewrite(tmp_path, surprise=np.zeros(3, np.float32)))
    assert result.returncode == 1
    assert "not compared" in result.stdout


def test_an_array_of_another_shape_fails(tmp_path) -> None:
    result = run(rewrite(tmp_path, s_r=np.zeros((1, 4), np.float32)))
    assert result.returncode == 1


@pytest.mark.slow
def test_a_file_never_seen(tmp_path) -> None:
    """Another tag, length, emotion, guidance, solver, window and width: made here, in float64."""
    from parity import compare

    with np.load(GOLDEN / "tiny.npz") as file:
        meta = json.loads(file["meta"].tobytes().decode().replace("tiny/", "other/"))
    meta["seconds"] = 1.3
    meta["config"]["image_size"] = 32
    meta["config"]["transformer"].update(hidden=48, heads=3, window=20, context=5, depth=3)
    meta["config"]["audio"].update(hidden=32, layers=2, intermediate=64, pos_conv_groups=2)
    meta["inputs"]["fmt"] = meta["inputs"]["fmt"].replace("e_cfg 3", "e_cfg 1.5")
    meta["cases"] = {
        "odd": {"a_cfg": 0.0, "e_cfg": 3.0, "emotion": "fear", "solver": "heun3", "nfe": 3},
        "off": {"a_cfg": 3.0, "e_cfg": 0.0, "emotion": None, "solver": "rk4", "nfe": 2},
    }
    meta["steps"] = {"motion_odd": [1, 3, 2]}
    model = compare.GoldenModel(meta, torch.float64)
    names = ["s_r", "feat2", "wa", "we", "fmt_t0.81", "fmt_guided", "motion_odd", "motion_off",
             "decoded", "video_off"]  # fmt: skip
    arrays = {name: model.compute(name).numpy().astype(np.float32) for name in names}
    arrays["motion_odd"] = arrays["motion_odd"][:, ::3, ::2]
    path = tmp_path / "other.npz"
    np.savez(path, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    check(path)
