"""What is refused, and with which sentence: the sentences here are the ones a user reads."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from core import weights as synthetic_weights
from core.weights import SMALL, State
from safetensors.torch import save_file

from float_core.checkpoint import CONFIG_KEY, CheckpointError, WeightsNotFoundError, open_weights
from float_core.checkpoint_files import open_tensors
from float_core.pipeline import FloatPipeline

ATTENTION = "fmt.blocks.1.attn.qkv.weight"
HEARD = "emotion_encoder.wav2vec2_for_emotion.classifier.out_proj.bias"


@pytest.fixture
def state() -> State:
    return synthetic_weights.synthetic_state_dict(SMALL)


@pytest.fixture
def one_file(state, tmp_path) -> Path:
    return synthetic_weights.save_one_file(state, tmp_path)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        action()
    return str(caught.value)


def load(path: Path) -> FloatPipeline:
    pipeline = FloatPipeline.from_checkpoint(path, config=SMALL)
    pipeline.emotion_classifier  # noqa: B018 - reads the network that waits until asked
    return pipeline


def test_one_missing_key(state, tmp_path) -> None:
    del state[ATTENTION]
    path = synthetic_weights.save_one_file(state, tmp_path)
    assert refusal(lambda: load(path)) == (
        f"{path} does not fill the FlowTransformer: 1 of 43 weights missing: {ATTENTION}. Fetch "
        "the file again, or choose weights of FLOAT"
    )


def test_one_missing_key_that_widths_are_read_off(state, tmp_path) -> None:
    del state["fmt.x_embedder.proj.weight"]
    path = synthetic_weights.save_one_file(state, tmp_path)
    assert refusal(lambda: load(path)) == (
        f"{path}: expected a weight named fmt.x_embedder.proj.weight, found none among "
        f"{len(state)}; the names most resemble the one-file layout. Fetch the file again, or "
        "choose weights of FLOAT"
    )


def test_one_missing_key_of_the_network_that_waits(state, tmp_path) -> None:
    del state[HEARD]
    folder = synthetic_weights.save_published(state, tmp_path)
    file = folder / synthetic_weights.EMOTION_FOLDER / "pytorch_model.bin"
    FloatPipeline.from_checkpoint(folder, config=SMALL)
    assert refusal(lambda: load(folder)).startswith(
        f"{file} does not fill the EmotionClassifier: 1 of 69 weights missing: {HEARD}."
    )


def test_many_missing_keys_name_the_first_few(state, tmp_path) -> None:
    some = {k: v for k, v in state.items() if ".attn.proj." not in k}
    path = synthetic_weights.save_one_file(some, tmp_path)
    message = refusal(lambda: load(path))
    assert "6 of 43 weights missing: fmt.blocks.0.attn.proj.weight, " in message
    assert message.count("attn.proj") == 4
    assert ", …. Fetch" in message


@pytest.mark.parametrize("layout", synthetic_weights.LAYOUTS)
def test_one_misshapen_key(layout, state, tmp_path) -> None:
    state[ATTENTION] = torch.zeros(96, 33)
    path = synthetic_weights.LAYOUTS[layout](state, tmp_path)
    files = {"published": path / "float.pth", "parts": path / "fmt" / "fmt.safetensors"}
    assert refusal(lambda: load(path)) == (
        f"{files.get(layout, path)} does not fill the FlowTransformer: 1 of another shape or kind: "
        f"{ATTENTION} expected (96, 32), got (96, 33) of float32. Fetch the file again, or "
        "choose weights of FLOAT"
    )


def test_quantised_weights(state, tmp_path) -> None:
    state[ATTENTION] = torch.zeros(96, 32, dtype=torch.int8)
    path = synthetic_weights.save_one_file(state, tmp_path)
    assert "expected (96, 32), got (96, 32) of int8" in refusal(lambda: load(path))


def test_a_precision_safetensors_knows_and_we_do_not(state, tmp_path) -> None:
    state[ATTENTION] = state[ATTENTION].to(torch.float8_e4m3fn)
    path = synthetic_weights.save_one_file(state, tmp_path)
    assert refusal(lambda: load(path)) == (
        f"{path}: expected float32, float16 or bfloat16, got F8_E4M3 for {ATTENTION}; use a file "
        "in one of these precisions"
    )


def test_truncated_safetensors(one_file) -> None:
    one_file.write_bytes(one_file.read_bytes()[:300_000])
    assert refusal(lambda: load(one_file)) == (
        f"{one_file} (300,000 bytes) is cut short or damaged: safetensors says «Error while "
        "deserializing header: incomplete metadata, file not fully covered»; fetch it again"
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older pickle"])
@pytest.mark.parametrize("size", [120, 20_000])
def test_truncated_pickle(zipped, size, state, tmp_path) -> None:
    path = synthetic_weights.save(state, tmp_path / "FLOAT.pth", zipped=zipped)
    path.write_bytes(path.read_bytes()[:size])
    message = refusal(lambda: load(path))
    assert message.startswith(f"{path} ({size:,} bytes) is cut short or damaged: torch says «")
    assert message.endswith("»; fetch it again")


def test_another_models_file(tmp_path) -> None:
    path = tmp_path / "v1-5.safetensors"
    save_file({f"model.diffusion_model.{i}.weight": torch.ones(2) for i in range(9)}, path)
    assert refusal(lambda: load(path)) == (
        f"{path} holds no FLOAT weights: expected names such as fmt.blocks.0.attn.qkv.weight, "
        "found model.diffusion_model.0.weight, model.diffusion_model.1.weight, "
        "model.diffusion_model.2.weight; its names most resemble none of the layouts of FLOAT's "
        "weights. Choose the file or folder of FLOAT's weights"
    )


@pytest.mark.parametrize(
    ("file", "resembles"),
    [
        ("fmt/fmt.safetensors", "fmt/fmt.safetensors of the parts layout"),
        ("motion_autoencoder/encoder.safetensors", "motion_autoencoder/encoder.safetensors of"),
        ("motion_autoencoder/decoder.safetensors", "motion_autoencoder/decoder.safetensors of"),
        ("audio_projections/projection.safetensors", "audio_projections/projection.safetensors of"),
        ("wav2vec2-base-960h/model.safetensors", "the speech network's own folder"),
        (
            "wav2vec-english-speech-emotion-recognition/model.safetensors",
            "the emotion network's own folder",
        ),
    ],
)
def test_one_part_alone_is_recognised(file, resembles, state, tmp_path) -> None:
    path = synthetic_weights.save_parts(state, tmp_path) / file
    assert f"its names most resemble {resembles}" in refusal(lambda: load(path))


def test_text_file(tmp_path) -> None:
    path = tmp_path / "float.pth"
    path.write_text("Weights go here.\n")
    assert refusal(lambda: load(path)) == (
        f"{path} is no weight file: expected safetensors or a file written by torch.save, got text "
        "(17 bytes); choose the weight file or the folder that holds it"
    )


def test_pointer_of_git_lfs(tmp_path) -> None:
    path = tmp_path / "FLOAT.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2470000000\n")
    assert refusal(lambda: load(path)) == (
        f"{path} is no weight file: it is the 72-byte pointer that git leaves in its place; run "
        "`git lfs pull`, or fetch the file itself again"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "it is a web page (37 bytes), saved instead of"),
        (b"", "it is empty; fetch the file itself again"),
        (b"\x00\x01\x02" * 100, "got something else (300 bytes)"),
        (b"cposix\nsystem\n(S'touch run'\ntR.", "got text (31 bytes)"),
    ],
    ids=["web page", "empty", "bytes", "pickle of protocol 0"],
)
def test_other_files(content, sentence, tmp_path) -> None:
    path = tmp_path / "float.pth"
    path.write_bytes(content)
    assert sentence in refusal(lambda: load(path))


def test_folder_without_weights(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("none here")
    assert refusal(lambda: load(tmp_path)) == (
        f"{tmp_path} holds no FLOAT weights: expected FLOAT.safetensors, or float.pth with the "
        "folders wav2vec2-base-960h and wav2vec-english-speech-emotion-recognition, or the parts "
        "motion_autoencoder/encoder.safetensors, motion_autoencoder/decoder.safetensors, "
        "audio_projections/projection.safetensors, fmt/fmt.safetensors; found notes.txt"
    )


def test_nothing_there(tmp_path) -> None:
    path = tmp_path / "absent.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        load(path)
    assert isinstance(caught.value, WeightsNotFoundError)
    assert str(caught.value) == f"Expected a weight file at {path}, found none"


def test_parts_that_are_not_all_there(state, tmp_path) -> None:
    folder = synthetic_weights.save_parts(state, tmp_path)
    (folder / "fmt" / "fmt.safetensors").unlink()
    assert refusal(lambda: load(folder)) == (
        f"{folder} looks like the parts layout, but lacks fmt/fmt.safetensors: add what is missing"
    )


def test_published_without_the_speech_network(state, tmp_path) -> None:
    folder = synthetic_weights.save_published(state, tmp_path / "float")
    (folder / synthetic_weights.SPEECH_FOLDER).rename(tmp_path / "renamed")
    assert refusal(lambda: open_weights(folder, SMALL, search=[tmp_path])) == (
        f"{folder / 'float.pth'} needs the folder wav2vec2-base-960h with model.safetensors or "
        f"pytorch_model.bin in it; looked in {folder}, {tmp_path}: put it there"
    )


class _Code:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "older pickle", "plain pickle", "protocol 5", "module"])
def test_pickle_with_code_runs_nothing(kind, state, tmp_path) -> None:
    path, trace = tmp_path / "float.pth", tmp_path / "run"
    content = {**state, "fmt.hook": _Code(trace)}
    if kind == "module":
        torch.save(torch.nn.Linear(2, 2), path)
    elif kind in ("zip", "older pickle"):
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    else:
        protocol = 5 if kind == "protocol 5" else 2
        path.write_bytes(pickle.dumps({"fmt.hook": _Code(trace)}, protocol=protocol))
    message = refusal(lambda: load(path))
    assert not trace.exists()
    if kind in ("zip", "older pickle"):
        assert message == (
            f"{path} holds more than tensors (it asks for {os.mkdir.__module__}.mkdir), so reading "
            "it could run code in it; nothing was run. Expected a state dict or safetensors: fetch "
            "the file from its publisher"
        )
    else:
        assert message.startswith(f"{path} ")
        assert "nothing was run" in message or "cut short or damaged" in message


def test_code_in_a_wav2vec2_folder_runs_nothing(state, tmp_path) -> None:
    folder, trace = synthetic_weights.save_published(state, tmp_path), tmp_path / "run"
    file = folder / synthetic_weights.EMOTION_FOLDER / "pytorch_model.bin"
    torch.save({"classifier.dense.weight": _Code(trace)}, file)
    assert refusal(lambda: load(folder)).startswith(f"{file} holds more than tensors")
    assert not trace.exists()


def test_pickle_named_safetensors(state, tmp_path) -> None:
    path = synthetic_weights.save(state, tmp_path / "float.pth").rename(tmp_path / "f.safetensors")
    assert refusal(lambda: load(path)) == (
        f"{path} is named .safetensors but holds a pickle: rename it to .pth if you trust where it "
        "comes from (it is read without running code in it), or fetch it again"
    )


def test_safetensors_named_pth_is_read(one_file) -> None:
    path = one_file.rename(one_file.with_name("float.pth"))
    assert load(path).config == SMALL


@pytest.mark.parametrize("version", ["2.5.1+cu124", "1.13.0", "unknown"])
def test_pickles_are_refused_before_torch_2_6(version, state, tmp_path, monkeypatch) -> None:
    path = synthetic_weights.save(state, tmp_path / "float.pth")
    monkeypatch.setattr(torch, "__version__", version)
    assert refusal(lambda: load(path)) == (
        f"{path} is a pickle, and torch {version} can be made to run code in one: update torch to "
        "2.6 or later, or use the weights as .safetensors"
    )


@pytest.mark.parametrize("version", ["2.6.0", "2.10.0+cpu", "3.0.0a0"])
def test_pickles_are_read_from_torch_2_6_on(version, state, tmp_path, monkeypatch) -> None:
    path = synthetic_weights.save(state, tmp_path / "float.pth")
    monkeypatch.setattr(torch, "__version__", version)
    assert open_tensors(path).info[ATTENTION].shape == (96, 32)


@pytest.mark.parametrize("loaded", [[torch.ones(2)], torch.ones(2)], ids=["list", "tensor"])
def test_pickle_without_names(loaded, tmp_path) -> None:
    path = tmp_path / "float.pth"
    torch.save(loaded, path)
    assert f"{path}: expected tensors by name (a state dict), got a " in refusal(lambda: load(path))


def test_state_dict_with_something_else_in_it(state) -> None:
    assert refusal(lambda: FloatPipeline.from_state_dict({**state, "epoch": 3})) == (
        "the state dict: expected tensors by name, got int for 'epoch'"
    )


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", "Expecting property name"),
        ("[]", "FloatConfig must be names and values, got []"),
        ("[" * 100_000, "recursion"),
        ('{"depth": 3}', "FloatConfig has no field named 'depth'"),
        ('{"fps": 0}', "FloatConfig.fps must be a whole number above 0, got 0"),
        ('{"fps": "25"}', "FloatConfig.fps must be a whole number, got '25'"),
        ('{"fps": true}', "FloatConfig.fps must be a whole number, got True"),
        ('{"channels": 3}', "FloatConfig.channels must be a list, got 3"),
        ('{"transformer": 3}', "FloatConfig.transformer must be names and values, got 3"),
        (
            '{"transformer": {"heads": 3}}',
            "TransformerConfig.hidden must be even and a multiple of heads 3, got 1024",
        ),
        (
            '{"transformer": {"mlp_ratio": "4"}}',
            "FloatConfig.transformer.mlp_ratio must be a number, got '4'",
        ),
        ('{"transformer": {"mlp_ratio": NaN}}', "TransformerConfig.mlp_ratio must be above 0"),
        (
            '{"speech": {"stable_layer_norm": "no"}}',
            "FloatConfig.speech.stable_layer_norm must be true or false, got 'no'",
        ),
        ('{"speech": {"conv_stride": ["a"]}}', "Wav2Vec2Shape.conv_stride must be whole numbers"),
        ('{"emotion": {"extractor_norm": 1}}', "FloatConfig.emotion.extractor_norm must be a text"),
    ],
)
def test_wrong_config_in_metadata(text, field, state, tmp_path) -> None:
    path = synthetic_weights.save_one_file(state, tmp_path, metadata={CONFIG_KEY: text})
    message = refusal(lambda: open_weights(path))
    assert message.startswith(f"{path}: the configuration in its metadata cannot be used: ")
    assert field in message
    assert message.endswith("Pass a config, or fetch the file from its publisher")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("not JSON", "Expecting value"),
        ("[]", "expected names and values, got list"),
        ('{"num_attention_heads": "12"}', "Wav2Vec2Shape.heads must be a whole number, got '12'"),
        ('{"num_attention_heads": 7}', "Wav2Vec2Shape.heads must divide hidden 768, got 7"),
    ],
)
def test_wrong_config_of_a_wav2vec2_folder(text, field, state, tmp_path) -> None:
    folder = synthetic_weights.save_published(state, tmp_path)
    file = folder / synthetic_weights.SPEECH_FOLDER / "config.json"
    file.write_text(text)
    message = refusal(lambda: open_weights(folder))
    assert message.startswith(f"{file} cannot be used: ")
    assert field in message


def test_config_that_does_not_fit_the_shapes(state, tmp_path) -> None:
    path = synthetic_weights.save_one_file(state, tmp_path)
    assert refusal(lambda: open_weights(path)) == (
        f"{path}: expected fmt.pos_embed for 60 frames (10 of context and 50 of window), got 16; "
        "pass a config with the window and context the weights were trained with"
    )
    heads = {**SMALL.to_dict(), "speech": {"heads": 16, "conv_stride": [5, 4, 2]}}
    heads["speech"] |= {"conv_dim": [8] * 3, "conv_kernel": [10, 4, 3]}
    path = synthetic_weights.save_one_file(
        state, tmp_path, metadata={CONFIG_KEY: json.dumps(heads)}
    )
    assert refusal(lambda: open_weights(path)) == (
        f"{path}: the weights' shapes do not fit the rest of the configuration: "
        "Wav2Vec2Shape.heads must divide hidden 24, got 16. Shapes cannot tell heads, strides, "
        "window, context and frame rate: pass a config that does"
    )
