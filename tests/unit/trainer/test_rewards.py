"""Rewards: the farm's own scores as functions of pixels, and how surely a word is read."""

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from evalfarm.metrics.aesthetic import Aesthetic
from evalfarm.metrics.base import Asked, Batch
from evalfarm.metrics.clip_score import ClipScore
from evalfarm.metrics.hps import Hps
from evalfarm.metrics.pick_score import PickScore
from evalfarm.networks import Networks
from tests.unit.trainer.test_hps import SIDE as HPS_SIDE
from tests.unit.trainer.test_hps import new_reference
from trainer.data.config import WordsConfig
from trainer.data.framing import quoted_texts
from trainer.data.words import draw_sample
from trainer.models.config import NetworksConfig
from trainer.models.networks import MissingNetwork
from trainer.models.ocr import Line
from trainer.models.recogniser import Recogniser, load_recogniser
from trainer.models.recogniser_files import RecogniserFiles
from trainer.models.rgb import rgb_pixels
from trainer.objectives.reward_config import RewardConfig, RewardName
from trainer.objectives.rewards.lines import DetectedLines
from trainer.objectives.rewards.loading import open_rewards
from trainer.objectives.rewards.ocr import Classes, OcrReward, log_likelihood

CLIP_SIDE = 96
CPU = torch.device("cpu")
GRADIENTS = [Image.radial_gradient("L").convert("RGB"), Image.linear_gradient("L").convert("RGB")]
PROMPTS = ["'hi' in grey", "'a' in red"]


def write_networks(folder: Path, clip: Path) -> NetworksConfig:
    """Networks for every reward, random and tiny; `clip` is one of 8 numbers a vector."""
    torch.manual_seed(0)
    widths = (8, 12, 10, 6, 4, 1)
    head = {}
    for place, (wide, next_wide) in zip((0, 2, 4, 6, 7), pairwise(widths), strict=True):
        layer = nn.Linear(wide, next_wide)
        head |= {f"layers.{place}.{name}": value for name, value in layer.state_dict().items()}
    torch.save(head, folder / "head.pth")
    for seed in (0, 1):
        torch.save({"state_dict": new_reference(seed).state_dict()}, folder / f"hps{seed}.pt")
    return NetworksConfig(
        clip=str(clip),
        clip_l14=str(clip),
        pick_score=str(clip),
        aesthetic=str(folder / "head.pth"),
        hps_v2=str(folder / "hps0.pt"),
        hps_v2_1=str(folder / "hps1.pt"),
    )


@pytest.fixture
def networks(tiny_model: Path, tmp_path: Path) -> NetworksConfig:
    return write_networks(tmp_path, tiny_model / "clip")


def reward_of(name: RewardName, **keys: Any) -> Any:
    return open_rewards(RewardConfig(rewards={name: 1.0}, **keys), CPU)[name]


@pytest.mark.parametrize(
    ("name", "metric", "number"),
    [
        ("clip", (ClipScore, "clip"), "score"),
        ("aesthetic", (Aesthetic, "v2"), "aesthetic"),
        ("pick_score", (PickScore, "diagonal"), "score"),
        ("hps_v2", (Hps, "v2"), "hps"),
        ("hps_v2_1", (Hps, "v2.1"), "hps"),
    ],
)
def test_a_reward_is_the_farms_score_and_its_gradient_reaches_the_pixels(
    name: RewardName, metric: Any, number: str, networks: NetworksConfig
) -> None:
    kind, mode = metric
    # Of the network's own size: neither resizes, and only the metric would round.
    side = HPS_SIDE if name.startswith("hps") else CLIP_SIDE
    pictures = [one.resize((side, side)) for one in GRADIENTS]
    batch = Batch(
        [Asked(image=i, prompt=p) for i, p in zip(pictures, PROMPTS, strict=True)],
        Networks(networks),
    )
    expected = [seen.numbers[number] for seen in kind(mode, networks).look(batch)]
    pixels = torch.stack([rgb_pixels(picture) for picture in pictures]).requires_grad_()
    judged = reward_of(name, networks=networks)(pixels, PROMPTS)
    assert judged.values.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert judged.judged.all()
    judged.values.sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("name", "lacking", "message"),
    [
        (
            "aesthetic",
            {"aesthetic": "/no/such.pth"},
            r"the reward aesthetic needs a network, and /no/such\.pth does not exist: put it "
            r"there, or set train\.reward\.networks\.aesthetic",
        ),
        ("hps_v2", {"hps_v2": "/no/such.pt"}, r"reward hps_v2 .* train\.reward\.networks\.hps_v2$"),
    ],
)
def test_a_reward_without_its_weights_is_told_in_one_line(
    name: RewardName, lacking: dict[str, str], message: str
) -> None:
    with pytest.raises(MissingNetwork, match=message):
        reward_of(name, networks=NetworksConfig(**lacking))
    with pytest.raises(ValueError, match=r"the reward clip needs a network: set networks\.clip"):
        RewardConfig(rewards={"ocr": 1.0}, watched=("clip",))


def test_ocr_without_its_recogniser_is_told_in_one_line() -> None:
    with pytest.raises(MissingNetwork, match=r"reward ocr .* or set train\.reward\.recogniser"):
        reward_of("ocr", line="whole", recogniser="/no/such.onnx")


def brute_force(log_probabilities: Tensor, text: list[Classes]) -> Tensor:
    """The sum over every path that reads as the text."""
    times, classes = log_probabilities.shape
    kind_of = {one: number for number, kind in enumerate(dict.fromkeys(text), 1) for one in kind}
    wanted = [kind_of[kind[0]] for kind in text]
    total = torch.zeros(())
    for path in product(range(classes), repeat=times):
        kinds = [kind_of.get(one, one and -one) for one in path]
        kept = [k for n, k in enumerate(kinds) if k and (n == 0 or kinds[n - 1] != k)]
        if kept == wanted:
            total = total + log_probabilities[range(times), list(path)].sum().exp()
    return total.log()


@pytest.mark.parametrize(
    "text", [[(1,)], [(1,), (2,)], [(2,), (2,)], [(1, 3)], [(1, 3), (2,), (1, 3)]]
)
def test_the_likelihood_and_its_gradient_are_those_of_all_ways_to_write_a_text(
    text: list[Classes],
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 5, requires_grad=True)
    found = log_likelihood(logits.log_softmax(dim=-1), text)
    expected = brute_force(logits.log_softmax(dim=-1), text)
    assert found is not None
    torch.testing.assert_close(found, expected)
    (ours,) = torch.autograd.grad(found, logits)
    (theirs,) = torch.autograd.grad(expected, logits)
    assert float(theirs.abs().max()) > 0.1
    torch.testing.assert_close(ours, theirs)


def test_a_text_that_needs_more_times_than_there_are_has_no_likelihood() -> None:
    reading = torch.zeros(3, 3).log_softmax(dim=-1)
    assert log_likelihood(reading, [(1,), (1,)]) is not None  # a blank stands between them
    assert log_likelihood(reading, [(1,), (1,), (1,)]) is None


class Columns(nn.Module):
    """Reads a class off the brightness of every eight columns."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.0, -4.0, 4.0]))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        light = inputs.mean(dim=(1, 2)).unfold(1, 8, 8).mean(dim=-1)
        return light[..., None] * self.slope, light[..., None]


@pytest.fixture
def recogniser() -> Recogniser:
    """Knows "d" as dark and "l" as light."""
    return Recogniser(RecogniserFiles(network=Columns(), characters=("d", "l"), name="columns"))


def test_what_cannot_be_judged_is_counted_by_why(recogniser: Recogniser) -> None:
    prompts = ["'d'", "d", "'x'", "'" + "d" * 60 + "'", "'d' and 'l'"]
    pixels = torch.rand(len(prompts), 3, 16, 48)
    judged = OcrReward(recogniser, None)(pixels, prompts)
    assert judged.judged.tolist() == [True, False, False, False, True]
    assert judged.values[1:4].tolist() == [0, 0, 0]
    assert (judged.values[judged.judged] < 0).all()
    assert judged.counts == {"no_quoted_words": 1, "outside_list": 1, "too_long": 1}


def test_a_letter_in_either_case_is_the_same_one_beside_itself_too() -> None:
    network = Columns()
    network.slope = nn.Parameter(torch.tensor([0.0, -4.0, -3.0, 4.0]))
    files = RecogniserFiles(network=network, characters=("d", "D", "l"), name="columns")
    reward, pixels = OcrReward(Recogniser(files), None), torch.rand(1, 3, 16, 48)
    values = [float(reward(pixels, [f"'{text}'"]).values) for text in ("dd", "Dd", "dD", "DD")]
    assert len(set(values)) == 1
    assert values[0] != float(reward(pixels, ["'d'"]).values)


def test_a_picture_is_judged_alike_whatever_it_is_in_a_batch_with(recogniser: Recogniser) -> None:
    prompts, pixels = ["'d'", "'ld'", "none"], torch.rand(3, 3, 16, 48)
    reward = OcrReward(recogniser, None)
    together = reward(pixels, prompts).values
    apart = [reward(pixels[row : row + 1], prompts[row : row + 1]).values[0] for row in range(3)]
    assert together.tolist() == [float(value) for value in apart]


def test_each_text_is_judged_in_the_line_where_it_is_read_best(recogniser: Recogniser) -> None:
    dark, light = torch.zeros(3, 48, 64), torch.ones(3, 48, 64)
    picture = torch.full((1, 3, 16, 48), 0.5)
    both = OcrReward(recogniser, lambda *_: [dark, light])
    one = OcrReward(recogniser, lambda *_: [dark])
    assert both(picture, ["'d' and 'l'"]).values > one(picture, ["'d' and 'l'"]).values
    assert both(picture, ["'d'"]).values == one(picture, ["'d'"]).values


def test_a_picture_in_which_no_line_is_found_is_one_line_and_counted(
    recogniser: Recogniser,
) -> None:
    picture = torch.rand(1, 3, 16, 48)
    nothing = OcrReward(recogniser, lambda *_: [])(picture, ["'d'"])
    assert nothing.counts == {"no_line_found": 1}
    assert nothing.judged.all()
    assert torch.equal(nothing.values, OcrReward(recogniser, None)(picture, ["'d'"]).values)


def test_a_line_that_is_found_and_cannot_be_cut_out_is_counted_by_why(
    recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [[4, 4], [44, 4], [44, 12], [4, 12]]
    found = [
        good,
        [[4, 4], [44, 4], [44, 6], [4, 6]],
        [[30, 4], [70, 4], [70, 12], [30, 12]],
        [[4, 4], [44, 12], [44, 4], [4, 12]],
    ]

    class FoundBefore:
        """Finds these lines in any picture."""

        def read(self, images: list[Image.Image]) -> list[list[Line]]:
            lines = [Line(text="ld", confidence=1.0, polygon=polygon) for polygon in found]
            return [lines for _ in images]

    monkeypatch.setattr("trainer.objectives.rewards.lines.OcrReader", FoundBefore)
    picture = torch.rand(1, 3, 16, 48)
    judged = OcrReward(recogniser, DetectedLines())(picture, ["'ld'"])
    assert judged.counts == {"too_small": 1, "outside_frame": 1, "degenerate": 1}
    found[:] = [good]
    alone = OcrReward(recogniser, DetectedLines())(picture, ["'ld'"])
    assert alone.counts == {}
    assert torch.equal(judged.values, alone.values)
    found.clear()
    nothing = OcrReward(recogniser, DetectedLines())(picture, ["'ld'"])
    assert nothing.counts == {"no_line_found": 1}


def test_a_word_is_climbed_from_another(recogniser: Recogniser) -> None:
    pixels = torch.full((1, 3, 16, 48), 0.6, requires_grad=True)
    reward = OcrReward(recogniser, None)
    before = reward(pixels, ["'d'"]).values.sum()
    before.backward()
    assert pixels.grad is not None
    with torch.no_grad():
        after = reward((pixels + 0.1 * pixels.grad.sign()).clamp(0, 1), ["'d'"]).values
    assert after.item() > before.item()


@pytest.mark.parametrize("line", ["whole", "detected"])
def test_pp_ocr_rates_the_word_that_a_picture_shows_above_its_neighbours(line: str) -> None:
    config = WordsConfig(samples=1, faces=("sans",), inks=("black",), papers=("white",))
    sample = draw_sample(config, 0)
    word = sample.words[0].text
    picture = sample.image.resize((384, 128), Image.Resampling.BICUBIC)
    pixels = rgb_pixels(picture)[None].requires_grad_()
    reward = reward_of("ocr", line=line)
    right = reward(pixels, [f"'{word}' in black"])
    wrong = reward(pixels, [f"'{word[::-1]}' in black"])
    assert right.values.item() > -0.5  # nats per character
    assert wrong.values.item() < right.values.item() - 1
    assert right.counts == {}
    right.values.sum().backward()
    assert pixels.grad is not None
    assert float(pixels.grad.abs().sum()) > 0


def test_the_recogniser_is_frozen() -> None:
    assert not any(weight.requires_grad for weight in load_recogniser(None).parameters())


@pytest.mark.parametrize(
    ("caption", "texts"),
    [
        ("'Moon' in red", ["Moon"]),
        ('a sign that says "Open now"', ["Open now"]),
        ("it's a dog's life", []),
        ("it's 'a dog' \u201chere\u201d", ["a dog", "here"]),
        ("nothing", []),
        ("' '", []),
    ],
)
def test_quoted_texts_are_kept_as_they_are_written(caption: str, texts: list[str]) -> None:
    assert quoted_texts(caption) == texts
