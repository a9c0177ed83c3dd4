"""`model.toml` merged with what a version's own files say."""

import json
from pathlib import Path

import pytest

from server.model_config import ModelConfig
from server.repository.config import ConfigInvalid, read_model_config, version_config
from server.repository.huggingface import ProcessorInvalid, class_names, preprocess_section
from server.repository.scan import scan_repository


def write(folder: Path, name: str, content: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")


def load(model: Path, version: Path | None = None):
    return version_config(read_model_config(model), model, version or model / "1")


VIT = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 224, "width": 224},
}


def test_an_empty_folder_has_the_defaults(tmp_path: Path):
    found = load(tmp_path)
    assert found.config == ModelConfig()
    assert found.labels is None


def test_model_toml_is_read(tmp_path: Path):
    write(tmp_path, "model.toml", 'task = "classification"\n[preprocess]\nresize_short = 256\n')
    config = load(tmp_path).config
    assert config.task == "classification"
    assert config.preprocess is not None and config.preprocess.resize_short == 256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task = 3", r"model.toml: task: .*'classification'.* got 3"),
        ("[batching]\nmax_batch = 3", r"batching.max_batch: unknown key; .* max_batch_size"),
        ("[preprocess]\nsize = 3", r"preprocess.size: unknown key; .* resize_short"),
        ("colour = 3", r"model.toml: colour: unknown key; expected one of .*preprocess"),
        ("[batching]\nmax_batch_size = 0", r"batching.max_batch_size: .*greater than or equal"),
        ("[preprocess]\nmean = [1.0, 2.0]", r"preprocess: .*expected 1 or 3 numbers"),
        ("[preprocess]\nstd = [0.0]", r"other than 0"),
        ("[preprocess]\nresize = [2, 2]\nresize_short = 3", r"either resize"),
        ('class_labels = "../../etc/passwd"', r"class_labels: .*file in the model's folder"),
        ("task = ", r"model.toml: not valid TOML"),
        ("task = " + "[" * 100_000, r"model.toml: not valid TOML"),
        ("version_policy = {latest = 0}", r"version_policy"),
    ],
)
def test_errors_name_file_key_and_what_is_expected(tmp_path: Path, text: str, message: str):
    write(tmp_path, "model.toml", text)
    with pytest.raises(ConfigInvalid, match=message):
        load(tmp_path)


def test_labels_come_from_the_version_then_from_beside_model_toml(tmp_path: Path):
    write(tmp_path, "labels.txt", "a\nb\n\n")
    assert load(tmp_path).labels == ("a", "b")
    write(tmp_path / "1", "labels.txt", "\ufeffcat\n dog \n")
    assert load(tmp_path).labels == ("cat", "dog")
    write(tmp_path, "model.toml", 'class_labels = "names/fr.txt"')
    with pytest.raises(ConfigInvalid, match=r"class_labels: no file 'names/fr.txt'"):
        load(tmp_path)
    write(tmp_path / "1" / "names", "fr.txt", "chat\nchien")
    assert load(tmp_path).labels == ("chat", "chien")
    (tmp_path / "1" / "names" / "fr.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigInvalid, match="expected UTF-8"):
        load(tmp_path)


def test_a_hugging_face_folder_is_understood(tmp_path: Path):
    write(tmp_path / "1", "preprocessor_config.json", VIT)
    hf = {
        "architectures": ["ViTForImageClassification"],
        "id2label": {"1": "dog", "0": "cat"},
        "problem_type": "multi_label_classification",
    }
    write(tmp_path / "1", "config.json", hf)
    found = load(tmp_path)
    assert found.labels == ("cat", "dog")
    assert found.config.task == "classification"
    assert found.config.classification.multi_label
    assert found.config.classification.activation == "sigmoid"
    preprocess = found.config.preprocess
    assert preprocess is not None
    assert preprocess.resize == (224, 224) and preprocess.resample == "bilinear"
    assert preprocess.mean == (0.5, 0.5, 0.5) and preprocess.scale == pytest.approx(1 / 255)


def test_model_toml_wins_and_its_preprocess_wins_whole(tmp_path: Path):
    write(tmp_path, "preprocessor_config.json", VIT)
    write(tmp_path, "config.json", {"problem_type": "multi_label_classification"})
    write(
        tmp_path,
        "model.toml",
        '[preprocess]\nresize = [32, 32]\n[classification]\nthreshold = 0.9\nactivation = "none"\n',
    )
    config = load(tmp_path).config
    assert config.preprocess is not None and config.preprocess.mean == (0.0,)
    assert config.classification.multi_label and config.classification.threshold == 0.9
    assert config.classification.activation == "none"


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"size": 224}, {"resize": (224, 224)}),
        ({"size": 224, "do_center_crop": True}, {"resize_short": 224, "crop": (224, 224)}),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224},
            {"resize_short": 256, "crop": (224, 224)},
        ),
        (
            {
                "size": {"shortest_edge": 256},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 200},
                "resample": 3,
            },
            {"resize_short": 256, "crop": (224, 200), "resample": "bicubic"},
        ),
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
            {"resize_short": 256, "crop": (224, 224)},
        ),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, {"resize": (384, 384)}),
        ({"do_resize": False, "size": 224}, {}),
        (
            {"rescale_factor": 1 / 127.5, "rescale_offset": True},
            {"scale": 1 / 127.5, "mean": (1.0,)},
        ),
        ({"do_rescale": False, "image_mean": [0.3]}, {"scale": 1.0, "mean": (0.0,)}),
        (
            {"do_normalize": True, "image_mean": [1, 2, 3], "image_std": [4, 5, 6]},
            {"mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0)},
        ),
        ({"size": 8, "do_center_crop": True, "crop_size": {"shortest_edge": 4}}, {"crop": (4, 4)}),
    ],
)
def test_forms_of_preprocessor_config(processor: dict, expected: dict):
    section = preprocess_section(processor)
    defaults = {"scale": 1 / 255, "mean": (0.0,), "std": (1.0,)}
    if "crop" in expected and "resize_short" not in expected:
        section.pop("resize_short", None)
    assert section == {**defaults, **expected}
    ModelConfig.model_validate({"preprocess": section})


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"resample": 9}, "resample: expected a code"),
        ({"size": "large"}, "size: expected a number"),
        ({"size": {"shortest_edge": True}}, "size: expected"),
        ({"size": {"shortest_edge": 100}, "crop_pct": 7}, "crop_pct"),
        ({"do_center_crop": True}, "crop_size: expected"),
        ({"do_normalize": True, "image_mean": "x"}, "image_mean: expected a list"),
    ],
)
def test_unknown_forms_are_refused(tmp_path: Path, processor: dict, message: str):
    with pytest.raises(ProcessorInvalid, match=message):
        preprocess_section(processor)
    write(tmp_path / "1", "preprocessor_config.json", processor)
    with pytest.raises(ConfigInvalid, match=message):
        load(tmp_path)


def test_class_names():
    assert class_names({}) is None
    assert class_names({"id2label": {"0": "a", "1": "b"}}) == ("a", "b")
    with pytest.raises(ProcessorInvalid, match="keys 0 to 1"):
        class_names({"id2label": {"0": "a", "2": "b"}})
    with pytest.raises(ProcessorInvalid, match="numbers as keys"):
        class_names({"id2label": {"zero": "a"}})


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000])
def test_damaged_json_is_refused(tmp_path: Path, content: str):
    write(tmp_path / "1", "config.json", content)
    with pytest.raises(ConfigInvalid, match=r"config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"is_encoder_decoder": True, "architectures": ["MarianMTModel"]}, "translation"),
        ({"is_encoder_decoder": True, "model_type": "t5"}, "translation"),
        ({"is_encoder_decoder": True, "model_type": "whisper"}, None),
        ({"is_encoder_decoder": True, "model_type": "vision-encoder-decoder"}, None),
        ({"is_encoder_decoder": False, "model_type": "bert"}, None),
    ],
)
def test_encoder_decoders_of_text_translate(tmp_path: Path, config: dict, task: str | None):
    write(tmp_path / "1", "config.json", config)
    assert load(tmp_path).config.task == task
    write(tmp_path, "model.toml", 'task = "tensors"\n')
    assert load(tmp_path).config.task == "tensors"


def test_a_version_may_have_a_model_toml_of_its_own(tmp_path: Path):
    write(
        tmp_path,
        "model.toml",
        'task = "embedding"\n[preprocess]\nresize_short = 256\nscale = 2.0\n'
        "[batching]\nmax_batch_size = 7\nmax_queue_size = 9\n",
    )
    write(
        tmp_path / "1",
        "model.toml",
        'task = "classification"\n[preprocess]\nresize = [4, 4]\n[batching]\nmax_batch_size = 3\n',
    )
    own, other = load(tmp_path).config, load(tmp_path, tmp_path / "2").config
    assert (own.task, other.task) == ("classification", "embedding")
    assert own.preprocess is not None and own.preprocess.resize == (4, 4)
    assert own.preprocess.resize_short is None and own.preprocess.scale == 1 / 255
    assert (own.batching.max_batch_size, own.batching.max_queue_size) == (3, 9)
    assert other.batching.max_batch_size == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('version_policy = "all"', r"1/model.toml: version_policy: .*for the whole model"),
        ("colour = 3", r"1/model.toml: colour: unknown key"),
        ("task = ", r"1/model.toml: not valid TOML"),
    ],
)
def test_a_wrong_model_toml_of_a_version_is_named(tmp_path: Path, text: str, message: str):
    write(tmp_path / "1", "model.toml", text)
    with pytest.raises(ConfigInvalid, match=message):
        load(tmp_path)


def test_a_changed_model_toml_of_a_version_is_a_changed_version(tmp_path: Path):
    write(tmp_path / "m" / "1", "model.onnx", "x")
    write(tmp_path / "m" / "1", "model.toml", "")
    before = scan_repository(tmp_path)["m"].versions["1"].key
    write(tmp_path / "m" / "1", "model.toml", 'task = "tensors"')
    assert scan_repository(tmp_path)["m"].versions["1"].key != before
