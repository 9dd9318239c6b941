"""What `info` prints and what `convert` writes."""

import json
import resource
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from core import weights as synthetic_weights
from core.weights import SMALL, State

from float_core.checkpoint import CONFIG_KEY, LICENCE_KEY, UNSTATED_LICENCE, Weights, open_weights
from float_core.checkpoint_export import convert, describe
from float_core.config import FloatConfig


@pytest.fixture
def state() -> State:
    return synthetic_weights.synthetic_state_dict(SMALL)


@pytest.fixture
def published(state, tmp_path) -> Path:
    return synthetic_weights.save_published(state, tmp_path / "published")


def metadata_of(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata()


def test_converted_file_carries_config_and_licence(published, tmp_path) -> None:
    out = tmp_path / "out.safetensors"
    convert(open_weights(published, SMALL), out)
    metadata = metadata_of(out)
    assert FloatConfig.from_dict(json.loads(metadata[CONFIG_KEY])) == SMALL
    assert metadata[LICENCE_KEY] == UNSTATED_LICENCE
    assert metadata["format"] == "pt"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.safetensors"]
    plain = tmp_path / "plain"
    plain.touch()
    assert out.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("word", ["CC BY-NC-ND 4.0", "CC BY-NC 4.0", "may be shared"])
def test_released_licence_says_both(word) -> None:
    assert word in UNSTATED_LICENCE


def test_a_files_own_licence_and_texts_are_kept(state, tmp_path) -> None:
    texts = {LICENCE_KEY: "MIT", CONFIG_KEY: json.dumps(SMALL.to_dict()), "note": "drawn world"}
    path = synthetic_weights.save_one_file(state, tmp_path, metadata=texts)
    weights = open_weights(path)
    assert weights.licence == "MIT"
    convert(weights, tmp_path / "out.safetensors")
    metadata = metadata_of(tmp_path / "out.safetensors")
    assert metadata[LICENCE_KEY] == "MIT"
    assert metadata["note"] == "drawn world"


def test_licences_of_parts_are_all_named(state, tmp_path) -> None:
    folder = synthetic_weights.save_parts(state, tmp_path, metadata={LICENCE_KEY: "MIT"})
    encoder = folder / "motion_autoencoder" / "encoder.safetensors"
    tensors = safetensors.torch.load_file(encoder)
    synthetic_weights.save(tensors, encoder, metadata={LICENCE_KEY: "CC BY 4.0"})
    assert open_weights(folder, SMALL).licence == "CC BY 4.0; MIT"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_converting_the_precision(dtype, published, state, tmp_path) -> None:
    out = tmp_path / "half.safetensors"
    convert(open_weights(published, SMALL), out, dtype)
    converted = open_weights(out).state_dict()
    for key, tensor in state.items():
        expected = tensor.to(dtype) if tensor.is_floating_point() else tensor
        assert torch.equal(converted[key], expected), key
    assert converted["fmt.alignment_mask"].dtype == torch.bool


def test_tensors_stored_as_views_are_written_whole(state, tmp_path) -> None:
    key = "fmt.c_embedder.weight"
    views = {**state, key: state[key].t().contiguous().t()}
    path = synthetic_weights.save(views, tmp_path / "float.pth")
    convert(open_weights(path, SMALL), tmp_path / "out.safetensors")
    assert torch.equal(open_weights(tmp_path / "out.safetensors").state_dict()[key], state[key])


def test_tensors_that_share_memory_are_written_each(state, tmp_path) -> None:
    both = ["motion_autoencoder.enc.fc.0.weight", "motion_autoencoder.enc.fc.1.weight"]
    tied = {**state, both[1]: state[both[0]]}
    path = synthetic_weights.save(tied, tmp_path / "float.pth")
    convert(open_weights(path, SMALL), tmp_path / "out.safetensors")
    converted = open_weights(tmp_path / "out.safetensors").state_dict()
    assert torch.equal(converted[both[0]], converted[both[1]])


def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(published, tmp_path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"what was there")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=f"Could not write {out}"):
            convert(open_weights(published, SMALL), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert out.read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.safetensors"]


def test_names_that_are_refused(published, state, tmp_path) -> None:
    weights = open_weights(published, SMALL)
    with pytest.raises(ValueError, match=r"ending in \.safetensors, got 'out\.pth'"):
        convert(weights, tmp_path / "out.pth")
    with pytest.raises(FileNotFoundError, match="no folder"):
        convert(weights, tmp_path / "absent" / "out.safetensors")
    path = synthetic_weights.save_one_file(state, tmp_path)
    with pytest.raises(ValueError, match="is being read: choose another name"):
        convert(open_weights(path, SMALL), path)


def test_description(published, state) -> None:
    parameters = sum(
        v.numel() for k, v in state.items() if k.startswith("fmt.") and "mask" not in k
    )
    text = describe(open_weights(published, SMALL))
    lines = text.splitlines()
    assert f"weights: {published}" in lines
    assert "layout: published" in lines
    assert f"file: {published / 'float.pth'}" in lines
    assert f"  flow_transformer: {parameters:,}" in lines
    assert any(line.startswith("precision: float32 (") for line in lines)
    assert any(line.startswith("  transformer: hidden 32, depth 3, heads 2") for line in lines)
    assert f"licence: {UNSTATED_LICENCE}" in lines


def test_description_counts_the_released_parameters() -> None:
    shapes = synthetic_weights.keys_file().items()
    state = {key: torch.empty(shape, device="meta") for key, (shape, _) in shapes}
    lines = describe(Weights.from_state_dict(state)).splitlines()
    assert "parameters: 617,521,658" in lines
    assert "  emotion_classifier: 316,494,471" in lines
    assert "tensors no network reads: 56" in lines
    assert "size: 2.47 GB" in lines


def test_description_without_an_emotion_network(state, tmp_path) -> None:
    some = {k: v for k, v in state.items() if not k.startswith("emotion_encoder.")}
    weights = open_weights(synthetic_weights.save_one_file(some, tmp_path), SMALL)
    assert "  emotion_classifier: none" in describe(weights)
