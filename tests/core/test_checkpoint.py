"""Weights in every layout: found, translated, read and put into the networks."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from core import weights as synthetic_weights
from core.weights import LAYOUTS, SMALL, TINY, State

from float_core import checkpoint_files
from float_core.checkpoint import (
    CONFIG_KEY,
    Weights,
    fill_module,
    infer_config,
    open_weights,
)
from float_core.checkpoint_export import convert
from float_core.config import FloatConfig
from float_core.pipeline import NETWORKS, FloatPipeline

FULL = FloatConfig()
NARROW = replace(TINY, channels=(8,) * 5)
"""The golden files' tiny preset with a motion autoencoder of 8 channels: 1 MB for 180."""


@pytest.fixture
def state() -> State:
    return synthetic_weights.synthetic_state_dict(SMALL)


def assert_equal(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key


def build(name: str, config: FloatConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return NETWORKS[name](config)


def test_helper_writes_the_released_keys() -> None:
    shapes = synthetic_weights.layout_shapes(FULL)
    assert shapes == {key: shape for key, (shape, _) in synthetic_weights.keys_file().items()}


def test_full_size_shapes_give_the_released_config() -> None:
    shapes = {key: shape for key, (shape, _) in synthetic_weights.keys_file().items()}
    assert infer_config(shapes, FULL) == FULL


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", [SMALL, NARROW], ids=["small", "narrow"])
def test_each_layout_holds_the_same_weights(layout, config, tmp_path) -> None:
    state = synthetic_weights.synthetic_state_dict(config)
    weights = open_weights(LAYOUTS[layout](state, tmp_path), config)
    assert weights.layout == layout
    assert weights.config == config
    assert_equal(weights.state_dict(), state)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        NARROW,
        pytest.param(TINY, marks=pytest.mark.slow),
        pytest.param(FULL, marks=pytest.mark.full),
    ],
    ids=["small", "narrow", "tiny", "full"],
)
def test_round_trip_through_all_layouts_is_bit_equal(config, tmp_path) -> None:
    state = synthetic_weights.synthetic_state_dict(config)
    path = synthetic_weights.save(state, tmp_path / "start" / "FLOAT.safetensors")
    for layout, save in LAYOUTS.items():
        folder = tmp_path / layout
        saved = save(open_weights(path, config).state_dict(), folder / "saved")
        shutil.rmtree(path.parent)  # a full-size copy takes 2.5 GB
        path = folder / "FLOAT.safetensors"
        convert(open_weights(saved, config), path)
        shutil.rmtree(folder / "saved")
        after = open_weights(path)
        assert after.config == config
        assert_equal(after.state_dict(), state)
    path.unlink()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older pickle"])
@pytest.mark.parametrize("old_names", [True, False], ids=["weight_g", "parametrizations"])
def test_both_namings_and_both_pickles(zipped, old_names, state, tmp_path) -> None:
    stored = synthetic_weights.old_names(state) if old_names else state
    synthetic_weights.save_published(stored, tmp_path, zipped=zipped)
    weights = open_weights(tmp_path, SMALL)
    for name in NETWORKS:
        module = build(name, weights.config)
        weights.fill(name, module)
        assert module.state_dict().keys() <= weights.network(name).keys()
    assert_equal(weights.state_dict(), state)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "norm", [torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm]
)
@pytest.mark.parametrize(
    "names",
    [("weight_g", "weight_v"), tuple(f"parametrizations.weight.original{i}" for i in (0, 1))],
)
def test_a_module_of_either_naming_is_filled(norm, names) -> None:
    gain, direction = torch.rand(1, 1, 3), torch.rand(4, 2, 3)
    module = torch.nn.Sequential()
    module.conv = norm(torch.nn.Conv1d(2, 4, 3, bias=False), dim=2)
    fill_module(module, {f"conv.{names[0]}": gain, f"conv.{names[1]}": direction}, "a test")
    x = torch.rand(1, 2, 9)
    weight = direction * gain / direction.norm(dim=(0, 1), keepdim=True)
    torch.testing.assert_close(module(x), torch.nn.functional.conv1d(x, weight))


def test_tensors_are_taken_over_not_copied(state) -> None:
    weights = Weights.from_state_dict(state, SMALL)
    tensors = weights.network("flow_transformer")
    module = build("flow_transformer", SMALL)
    fill_module(module, tensors, "a test", torch.float32)
    for key, value in module.state_dict().items():
        assert value.data_ptr() == tensors[key].data_ptr(), key
        assert value.data_ptr() == state[f"fmt.{key}"].data_ptr(), key
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_casting_happens_only_where_precision_differs(state) -> None:
    half = {key: value.half() if "bias" in key else value for key, value in state.items()}
    tensors = Weights.from_state_dict(half, SMALL).network("motion_encoder")
    module = build("motion_encoder", SMALL)
    fill_module(module, tensors, "a test", torch.float16)
    assert {value.dtype for value in module.state_dict().values()} == {torch.float16}
    assert module.fc[0].bias.data_ptr() == half["motion_autoencoder.enc.fc.0.bias"].data_ptr()
    mixed = build("motion_encoder", SMALL)
    fill_module(mixed, tensors, "a test")
    assert {value.dtype for value in mixed.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_stored_precision_is_kept(dtype, layout, state, tmp_path) -> None:
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    pipeline = FloatPipeline.from_checkpoint(LAYOUTS[layout](stored, tmp_path), config=SMALL)
    # Half precision halves what takes the time, and nothing else.
    assert pipeline.flow_transformer.blocks[0].attn.qkv.weight.dtype == dtype
    assert pipeline.audio_encoder.wav2vec2.encoder.layers[0].attention.q_proj.weight.dtype == dtype
    assert pipeline.flow_transformer.pos_embed.dtype == torch.float32
    assert pipeline.motion_decoder.constant.dtype == dtype


def test_emotion_network_is_read_only_when_asked(state, tmp_path, monkeypatch) -> None:
    read: list[str] = []
    plain = checkpoint_files._SafetensorsFile.read

    def recording(self, names):
        read.extend(names := list(names))
        return plain(self, names)

    monkeypatch.setattr(checkpoint_files._SafetensorsFile, "read", recording)
    path = synthetic_weights.save_one_file(state, tmp_path)
    pipeline = FloatPipeline.from_checkpoint(path, config=SMALL)
    assert any(name.startswith("fmt.") for name in read)
    assert not any(name.startswith("emotion_encoder.") for name in read)
    pipeline.classify_emotion(torch.randn(1, 1, 16000), 16000)
    assert any(name.startswith("emotion_encoder.") for name in read)


def test_weights_without_an_emotion_network(state, tmp_path) -> None:
    some = {k: v for k, v in state.items() if not k.startswith("emotion_encoder.")}
    weights = open_weights(synthetic_weights.save_published(some, tmp_path), SMALL)
    assert not weights.has("emotion_classifier")
    assert weights.has("audio_encoder")
    assert weights.config.emotion == SMALL.emotion


def test_wav2vec2_folders_are_found_elsewhere(state, tmp_path) -> None:
    file = synthetic_weights.save_published(state, tmp_path / "float") / "float.pth"
    elsewhere = tmp_path / "audio"
    elsewhere.mkdir()
    for name in (synthetic_weights.SPEECH_FOLDER, synthetic_weights.EMOTION_FOLDER):
        (tmp_path / "float" / name).rename(elsewhere / name)
    assert_equal(open_weights(file, SMALL, search=[elsewhere]).state_dict(), state)
    each = [
        elsewhere / synthetic_weights.EMOTION_FOLDER,
        elsewhere / synthetic_weights.SPEECH_FOLDER,
    ]
    assert_equal(open_weights(file.parent, SMALL, search=each).state_dict(), state)


def test_wav2vec2_folders_tell_what_shapes_cannot(tmp_path) -> None:
    transformer = replace(FULL.transformer, hidden=32, depth=3)
    config = replace(SMALL, fps=25, transformer=transformer)
    state = synthetic_weights.synthetic_state_dict(config)
    synthetic_weights.save_published(state, tmp_path)
    for name, shape in (
        (synthetic_weights.SPEECH_FOLDER, SMALL.speech),
        (synthetic_weights.EMOTION_FOLDER, SMALL.emotion),
    ):
        told = {
            "hidden_size": shape.hidden,
            "num_attention_heads": shape.heads,
            "conv_dim": shape.conv_dim,
            "conv_kernel": shape.conv_kernel,
            "conv_stride": shape.conv_stride,
            "num_conv_pos_embedding_groups": shape.pos_conv_groups,
            "do_stable_layer_norm": shape.stable_layer_norm,
            "architectures": ["Wav2Vec2ForCTC"],
        }
        (tmp_path / name / "config.json").write_text(json.dumps(told))
    assert open_weights(tmp_path).config == config


def test_safetensors_is_preferred(state, tmp_path) -> None:
    for suffix in (".pth", ".safetensors"):
        synthetic_weights.save_published(state, tmp_path, suffix=suffix)
    weights = open_weights(tmp_path, SMALL)
    assert {file.suffix for file in weights.files} == {".safetensors"}
    assert len(weights.files) == 3


def test_parts_are_preferred_to_a_pickle_and_to_a_strange_file(state, tmp_path) -> None:
    synthetic_weights.save_parts(state, tmp_path)
    synthetic_weights.save({"decoder.weight": torch.ones(1)}, tmp_path / "vae.safetensors")
    assert open_weights(tmp_path, SMALL).layout == "parts"
    synthetic_weights.save(state, tmp_path / "float.pth")
    assert open_weights(tmp_path, SMALL).layout == "parts"
    (tmp_path / "fmt" / "fmt.safetensors").unlink()
    assert open_weights(tmp_path, SMALL).layout == "one file"


def test_metadata_config_is_used_and_a_given_one_wins(state, tmp_path) -> None:
    metadata = {CONFIG_KEY: json.dumps(SMALL.to_dict())}
    path = synthetic_weights.save_one_file(state, tmp_path, metadata=metadata)
    assert open_weights(path).config == SMALL
    other = replace(SMALL, fps=25)
    assert open_weights(path, other).config == other


def test_extra_keys_are_one_warning(state, tmp_path, caplog) -> None:
    stored = {**state, "fmt.blocks.0.gate": torch.ones(2), "optimizer.step": torch.ones(1)}
    synthetic_weights.save_published(stored, tmp_path)
    with caplog.at_level(logging.WARNING):
        pipeline = FloatPipeline.from_checkpoint(tmp_path, config=SMALL)
        pipeline.classify_emotion(torch.randn(1, 1, 16000), 16000)
    (record,) = [r for r in caplog.records if r.name.startswith("float_core")]
    for name in ("fmt.blocks.0.gate", "optimizer.step", "lm_head.weight", "lm_head.bias"):
        assert name in record.getMessage()
    assert "kernel" not in record.getMessage()


def test_pretraining_keys_and_missing_unread_tensors_load(state, tmp_path) -> None:
    unread = ("kernel", "noise.weight", "alignment_mask", "masked_spec_embed")
    bare = {k: v for k, v in state.items() if not k.endswith(unread) and ".to_rgb1." not in k}
    bare["quantizer.codevectors"] = torch.ones(1, 4)
    bare["project_q.weight"] = torch.ones(2, 2)
    weights = open_weights(synthetic_weights.save_one_file(bare, tmp_path), SMALL)
    assert set(weights.extra) == {"quantizer.codevectors", "project_q.weight"}
    FloatPipeline(weights)


def test_fill_module_names_extra_tensors_given_directly(caplog) -> None:
    tensors = {"weight": torch.ones(2, 3), "bias": torch.ones(2), "more": torch.ones(1)}
    fill_module(torch.nn.Linear(3, 2), tensors, "a test", prefix="fmt.")
    assert "fmt.more" in caplog.text


def test_same_frames_from_every_layout(state, tmp_path) -> None:
    image = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    portraits = [
        FloatPipeline.from_checkpoint(save(state, tmp_path / name), config=SMALL).encode_portrait(
            image
        )
        for name, save in LAYOUTS.items()
    ]
    for portrait in portraits[1:]:
        assert torch.equal(portrait.motion, portraits[0].motion)


def test_a_folder_with_one_weight_file_under_any_name(state, tmp_path: Path) -> None:
    path = synthetic_weights.save(state, tmp_path / "demo.safetensors")
    (tmp_path / "README.md").write_text("weights")
    assert open_weights(tmp_path, SMALL).files == (path,)
