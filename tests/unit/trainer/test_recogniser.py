"""The recogniser against onnxruntime, PaddleOCR, transformers and finite differences."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from paddleocr import TextRecognition
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForTextRecognition

from trainer.data.config import WordsConfig
from trainer.data.words import draw_sample
from trainer.models.networks import MissingNetwork
from trainer.models.ocr import DETECTION, RECOGNITION, model_folder, onnx_file
from trainer.models.recogniser import Reading, Recogniser, in_batches, load_recogniser
from trainer.models.rgb import rgb_pixels

HEIGHT_PX = 48
TOLERANCE = 5e-5
"""Of probabilities; the largest difference seen was 1.6e-5, in crops of noise."""
LATIN = tuple("abcdefgh")


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    """The one that rapidocr carries."""
    return load_recogniser(None)


@pytest.fixture(scope="module")
def run_onnx() -> Callable[[Tensor], Sequence[Tensor]]:
    """onnxruntime on the same file: probabilities, and what the last MatMul sees."""
    model = onnx.load(onnx_file(RECOGNITION))
    last = [node for node in model.graph.node if node.op_type == "MatMul"][-1]
    model.graph.output.append(onnx.ValueInfoProto(name=last.input[0]))
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(crops: Tensor) -> Sequence[Tensor]:
        blue_first = ((crops - 0.5) / 0.5)[:, [2, 1, 0]].numpy()
        return [torch.from_numpy(one) for one in session.run(None, {"x": blue_first})]

    return run


def drawn(width: int, numbers: Sequence[int]) -> list[Image.Image]:
    """Pictures of words of the height that the network reads."""
    config = WordsConfig(samples=1, height=HEIGHT_PX, width=width, backgrounds=("gradient",))
    return [draw_sample(config, number).image for number in numbers]


@pytest.mark.parametrize("kind", ["words", "noise"])
@pytest.mark.parametrize(("batch", "width"), [(1, 320), (3, 320), (2, 101), (1, 16), (1, 600)])
def test_probabilities_and_features_are_onnxruntimes(
    recogniser: Recogniser,
    run_onnx: Callable[[Tensor], Sequence[Tensor]],
    kind: str,
    batch: int,
    width: int,
) -> None:
    chance = torch.Generator().manual_seed(width)
    crops = torch.rand(batch, 3, HEIGHT_PX, width, generator=chance) * 1.4 - 0.2
    if kind == "words" and width > 16:
        crops = torch.stack([rgb_pixels(image) for image in drawn(width, range(batch))])
    reading, (probabilities, features) = recogniser(crops), run_onnx(crops)
    assert reading.log_probabilities.dtype == reading.features.dtype == torch.float32
    torch.testing.assert_close(
        reading.log_probabilities.exp(), probabilities, atol=TOLERANCE, rtol=0
    )
    torch.testing.assert_close(reading.features, features, atol=1e-3, rtol=1e-4)


@pytest.fixture(scope="module")
def paddle(tmp_path_factory: pytest.TempPathFactory) -> TextRecognition:
    """PaddleOCR's own recogniser, of the same file."""
    folder = model_folder(tmp_path_factory.mktemp("paddle"), RECOGNITION)
    return TextRecognition(
        model_name=RECOGNITION, model_dir=str(folder), engine="onnxruntime", device="cpu"
    )


@pytest.mark.parametrize("width", [160, 400])
def test_drawn_words_are_read_as_paddleocr_reads_them(
    recogniser: Recogniser, paddle: TextRecognition, width: int
) -> None:
    images = drawn(width, range(6))
    theirs = paddle.predict([np.asarray(image)[:, :, ::-1] for image in images], batch_size=6)
    crops = torch.stack([rgb_pixels(image) for image in images])
    crops = F.pad(crops, (0, max(0, 320 - width)), value=0.5)  # as PaddleOCR pads
    for (text, confidence), expected in zip(
        recogniser.decode(recogniser(crops)), theirs, strict=True
    ):
        assert text == expected["rec_text"]
        assert len(text) > 2
        assert confidence == pytest.approx(expected["rec_score"], abs=1e-4)


def test_a_line_is_read_the_same_whatever_stands_beside_it(recogniser: Recogniser) -> None:
    words = [drawn(width, [number])[0] for number, width in enumerate((101, 200, 128, 97))]
    crops = [rgb_pixels(image) for image in words]
    batches = list(in_batches(crops))
    assert sorted(batch.shape[-1] for _, batch in batches) == [128, 224]
    assert sorted(number for numbers, _ in batches for number in numbers) == [0, 1, 2, 3]
    for numbers, batch in batches:
        together = recogniser(batch)
        for row, number in enumerate(numbers):
            ((_, alone),) = in_batches([crops[number]])
            expected = recogniser(alone).log_probabilities[0]
            torch.testing.assert_close(together.log_probabilities[row], expected)


def test_words_are_read_without_paddleocrs_padding_too(recogniser: Recogniser) -> None:
    for number in range(12):
        sample = draw_sample(WordsConfig(samples=1), number)
        crop = rgb_pixels(sample.image.resize((144, HEIGHT_PX)))
        ((_, batch),) = in_batches([crop])
        ((text, confidence),) = recogniser.decode(recogniser(batch))
        assert text.lower() == sample.words[0].text
        assert confidence > 0.9


def test_the_gradient_is_that_of_finite_differences(recogniser: Recogniser) -> None:
    precise = copy.deepcopy(recogniser).double()
    chance = torch.Generator().manual_seed(0)
    crop = rgb_pixels(drawn(96, [0])[0])[None].double()
    # On flat paper the places of a maximum are many, and the slopes to its two sides differ.
    crop += 0.02 * torch.randn(crop.shape, generator=chance, dtype=torch.float64)

    def value(pixels: Tensor) -> Tensor:
        reading = precise(pixels)
        return reading.log_probabilities[..., 0].sum() + reading.features.square().sum()

    pixels = crop.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(pixels), pixels)
    for _ in range(3):
        way = torch.randn(crop.shape, generator=chance, dtype=torch.float64)
        way *= 1e-5 / way.norm()
        with torch.no_grad():
            rise = float(value(crop + way) - value(crop - way)) / 2
        assert rise == pytest.approx(float((gradient * way).sum()), rel=1e-5)


def test_climbing_the_gradient_writes_a_word_into_the_picture(recogniser: Recogniser) -> None:
    picture = rgb_pixels(drawn(128, [0])[0])[None]
    wanted = torch.tensor([recogniser.encode("SPELL")])
    read = []
    for _ in range(40):
        picture = picture.requires_grad_()
        reading = recogniser(picture)
        read.append(recogniser.decode(reading)[0][0])
        times = reading.log_probabilities.transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(times, wanted, (len(times),), (5,))
        (gradient,) = torch.autograd.grad(loss, picture)
        picture = (picture - 0.01 * gradient.sign()).detach().clamp(0, 1)
    assert read[0] == "BADGE"
    assert read[-1] == "SPELL"


def test_the_network_stays_as_it_is_while_the_gradient_passes(recogniser: Recogniser) -> None:
    before = {name: weight.clone() for name, weight in recogniser.state_dict().items()}
    crops = torch.rand(1, 3, HEIGHT_PX, 64).requires_grad_()
    recogniser.train()
    recogniser(crops).log_probabilities[..., 1].sum().backward()
    assert crops.grad is not None
    assert crops.grad.abs().sum() > 0
    assert before
    for name, weight in recogniser.state_dict().items():
        assert torch.equal(weight, before[name])
    assert not any(part.training for part in recogniser.modules())
    assert not any(w.requires_grad or w.grad is not None for w in recogniser.parameters())


def test_the_arithmetic_is_fp32_whatever_is_around_it(recogniser: Recogniser) -> None:
    crops = torch.rand(1, 3, HEIGHT_PX, 64)
    expected = recogniser(crops).log_probabilities
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(recogniser(crops).log_probabilities, expected)
    rounded = copy.deepcopy(recogniser).bfloat16()
    assert rounded(crops.bfloat16()).log_probabilities.dtype == torch.float32


def test_nothing_stays_behind_when_it_is_moved(recogniser: Recogniser) -> None:
    # Nothing is computed on the meta device, and what lies elsewhere does not mix with it.
    moved = copy.deepcopy(recogniser).to("meta")
    logits, features = moved.network(torch.rand(2, 3, HEIGHT_PX, 101, device="meta"))
    assert logits.device.type == features.device.type == "meta"
    assert logits.shape[::2] == (2, len(moved.characters) + 1)


def test_a_text_is_encoded_by_the_list_of_characters(recogniser: Recogniser) -> None:
    for text in ("Paper", "42 %", "é", "字"):
        classes = recogniser.encode(text)
        assert classes is not None
        assert "".join(recogniser.characters[one - 1] for one in classes) == text
    assert recogniser.encode("") == []
    assert recogniser.characters[-1] == " "
    assert recogniser.encode("a\u13a0") is None  # Cherokee


def test_the_text_is_the_likeliest_path_without_blanks_and_repeats(recogniser: Recogniser) -> None:
    a, b = recogniser.encode("ab") or ()
    path = [0, a, a, 0, a, b, b, 0]
    sure = [0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.9, 0.9]
    probabilities = torch.full((2, 8, len(recogniser.characters) + 1), 1e-9)
    probabilities[1, :, 0] = 1
    for time, (one, probability) in enumerate(zip(path, sure, strict=True)):
        probabilities[0, time, one] = probability
    first, nothing = recogniser.decode(Reading(probabilities.log(), torch.zeros(2, 8, 1)))
    assert first == ("aab", pytest.approx((0.8 + 0.6 + 0.5) / 3))
    assert nothing == ("", 0.0)


def write_recogniser(path: Path, classes: int, characters: Sequence[str] = ()) -> Path:
    """A network that tells colours, with its characters in it if there are any."""
    chance = np.random.default_rng(0)
    weight = chance.normal(size=(3, classes)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["columns"], axes=[2], keepdims=0),
        helper.make_node("Transpose", ["columns"], ["times"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["times", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"], axis=2),
    ]
    shown = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, 32, None])
    constants = [numpy_helper.from_array(weight, "weight")]
    made = [onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph(nodes, "colours", [shown], made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    if characters:
        helper.set_model_props(model, {"character": "\n".join(characters)})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


LISTS = {
    "latin": ("a", "é", "ß", "ñ"),
    "greek": ("β", "ώ", "λ"),
    "cyrillic": ("я", "ё", "№"),
    "korean": ("가", "힣", "ㄱ"),
    "devanagari": ("अ", "ि", "्"),
    "numbers": ("0", "1", "~", "'"),
}


@pytest.mark.parametrize("language", LISTS)
@pytest.mark.parametrize("place", ["metadata", "dictionary", "any.txt", "inference.yml"])
def test_characters_of_any_language_come_from_the_file_or_from_beside_it(
    language: str, place: str, tmp_path: Path
) -> None:
    listed = LISTS[language]
    inside = listed if place == "metadata" else ()
    path = write_recogniser(tmp_path / "rec.onnx", len(listed) + 2, inside)
    if place == "dictionary":
        (tmp_path / "rec.txt").write_text("".join(f"{one}\n" for one in listed), "utf-8")
        (tmp_path / "notes.txt").write_text("of something else")
    elif place == "any.txt":
        (tmp_path / f"{language}_dict.txt").write_text("\n".join(listed), "utf-8")
    elif place == "inference.yml":
        settings = {"PostProcess": {"name": "CTCLabelDecode", "character_dict": listed}}
        (tmp_path / "inference.yml").write_text(json.dumps(settings))  # JSON is YAML
    loaded = load_recogniser(str(path))
    assert loaded.characters == (*listed, " ")
    assert loaded.height_px == 32
    assert loaded.encode(f"{listed[1]} {listed[0]}") == [2, len(listed) + 1, 1]
    assert loaded(torch.rand(1, 3, 32, 50)).log_probabilities.shape == (1, 50, len(listed) + 2)


def test_the_name_tells_weights_and_characters(recogniser: Recogniser, tmp_path: Path) -> None:
    assert recogniser.name.startswith("PP-OCRv6_rec_small@")
    path = write_recogniser(tmp_path / "folder" / "inference.onnx", len(LATIN) + 1)
    names = []
    for listed in (LATIN, LATIN[::-1]):
        path.with_name("keys.txt").write_text("\n".join(listed))
        names.append(load_recogniser(str(path.parent)).name)
        assert load_recogniser(str(path.parent)).characters == listed
    assert len(set(names)) == 2
    assert all(name.startswith("folder@") for name in names)


def test_what_is_no_recogniser_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(MissingNetwork, match=r"nowhere\.onnx does not exist"):
        load_recogniser(str(tmp_path / "nowhere.onnx"))
    with pytest.raises(ValueError, match="no text recogniser: it ends in Sigmoid, not in a Soft"):
        load_recogniser(str(onnx_file(DETECTION)))
    (tmp_path / "cut.onnx").write_bytes(onnx_file(RECOGNITION).read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"cut\.onnx is no whole ONNX file"):
        load_recogniser(str(tmp_path / "cut.onnx"))
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ValueError, match=r"empty\.onnx is no whole ONNX file"):
        load_recogniser(str(tmp_path / "empty.onnx"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"folder is no text recogniser: give an \.onnx file"):
        load_recogniser(str(tmp_path / "folder"))


def test_a_recogniser_without_its_characters_says_what_it_wants(tmp_path: Path) -> None:
    path = write_recogniser(tmp_path / "rec.onnx", 10)
    with pytest.raises(MissingNetwork, match=r"put its dictionary beside it, as rec\.txt"):
        load_recogniser(str(path))
    (tmp_path / "rec.txt").write_text("a\nb\nc\n")
    with pytest.raises(ValueError, match=r"rec\.txt lists 3 characters, the network has 10 class"):
        load_recogniser(str(path))


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    path = write_recogniser(tmp_path / "rec.onnx", len(LATIN) + 2, LATIN)
    model = onnx.load(path)
    model.graph.node[0].input[0] = "turned"
    for kind, given, made in (("Sinh", "x", "waves"), ("Elu", "waves", "turned")):
        model.graph.node.insert(0, helper.make_node(kind, [given], [made]))
    nodes = sorted(model.graph.node, key=lambda node: node.op_type != "Sinh")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"rec\.onnx has operators not known here: Elu, Sinh"):
        load_recogniser(str(path))


V5_STRIDES = (1, [2, 1], [1, 2], [2, 1], [2, 1])
FAMILIES: dict[str, dict[str, Any]] = {
    "pp_ocrv6_small_rec": {},
    "pp_ocrv5_mobile_rec": {
        "backbone_config": {
            "model_type": "pp_lcnet_v3",
            "block_configs": [[[3, 16, 16, stride, True]] for stride in V5_STRIDES],
        }
    },
}


@pytest.fixture(scope="module", params=FAMILIES)
def transformers_model(request: pytest.FixtureRequest) -> Any:
    """A recogniser of transformers with random weights that tell pictures apart."""
    torch.manual_seed(0)
    classes = len(LATIN) + 2
    settings = {**FAMILIES[request.param], "head_out_channels": classes, "depth": 1}
    config = AutoConfig.for_model(request.param, **settings)
    model = AutoModelForTextRecognition.from_config(config)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1  # what it sees now is what it normalises by
        elif isinstance(part, torch.nn.Linear):
            torch.nn.init.xavier_normal_(part.weight)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, HEIGHT_PX, 100))
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    """As a recogniser is published."""
    model.save_pretrained(folder)
    settings = {
        "character_list": ["blank", *LATIN, " "],
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.6, 0.7],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_a_recogniser_of_transformers_says_the_same(
    transformers_model: Any, tmp_path: Path
) -> None:
    loaded = load_recogniser(str(save(transformers_model, tmp_path / "small_rec")))
    crops = torch.rand(2, 3, HEIGHT_PX, 100)
    # As the processors of transformers do.
    order = [2, 1, 0] if "v6" in transformers_model.config.model_type else [0, 1, 2]
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    inputs = (crops[:, order] - mean[:, None, None]) / std[:, None, None]
    expected = transformers_model(inputs).last_hidden_state
    reading = loaded(crops.requires_grad_())
    assert expected.std() > 0.01
    torch.testing.assert_close(reading.log_probabilities.exp(), expected, atol=1e-5, rtol=0)
    head = transformers_model.head.head
    torch.testing.assert_close(head(reading.features).softmax(-1), expected, atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(reading.log_probabilities[..., 1].sum(), crops)
    assert gradient.abs().sum() > 0
    assert loaded.characters == (*LATIN, " ")
    assert loaded.name.startswith("small_rec@")


def test_a_folder_of_transformers_that_is_not_whole_is_refused(
    transformers_model: Any, tmp_path: Path
) -> None:
    folder = save(transformers_model, tmp_path / "a")
    weights = load_file(folder / "model.safetensors")
    lost = weights.pop("head.head.bias")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"a is not whole: it lacks head\.head\.bias"):
        load_recogniser(str(folder))
    save_file({**weights, "head.head.bias": lost}, folder / "model.safetensors", {"format": "pt"})
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0], "image_std": [1]}')
    with pytest.raises(ValueError, match=r"a is not whole: it lacks character_list"):
        load_recogniser(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingNetwork, match=r"a is not whole \(.*: fetch it again"):
        load_recogniser(str(folder))


def test_another_network_of_transformers_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"clip is no text recogniser: its config.json says clip"):
        load_recogniser(str(tiny_model / "clip"))
