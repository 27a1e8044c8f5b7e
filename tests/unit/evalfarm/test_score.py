"""A scorer: what one picture's metric stumbles over is that picture's row, and no other's."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from evalfarm.farm.score import Scorer
from evalfarm.metrics.base import get
from evalfarm.rows import Picture
from evalfarm.suite import Prompt
from evalfarm.work import Look
from trainer.models.config import NetworksConfig
from trainer.models.ocr import Line


def look(
    folder: Path, spec: str, prompts: list[Prompt], networks: NetworksConfig | None = None
) -> Look:
    """A unit of grey pictures of these prompts."""
    pictures = []
    for number in range(len(prompts)):
        Image.new("RGB", (32, 32), (number, number, number)).save(folder / f"{number}.png")
        pictures.append(
            Picture(checkpoint="c", prompt=number, sample=0, status="ok", file=f"{number}.png")
        )
    return Look(
        suite="s",
        checkpoint="c",
        folder=folder,
        pictures=tuple(pictures),
        prompts=tuple(prompts),
        metrics=((spec, get(spec, networks or NetworksConfig()).rows),),
    )


@pytest.mark.parametrize("spec", ["ssim", "psnr"])
def test_a_prompt_without_a_real_picture_fails_alone(tmp_path: Path, spec: str) -> None:
    real = tmp_path / "real.png"
    Image.new("RGB", (64, 64), "white").save(real)
    prompts = [Prompt(text="a", target=real), Prompt(text="b"), Prompt(text="c", target=real)]
    scores = Scorer(NetworksConfig()).run(look(tmp_path, spec, prompts)).scores
    assert [score.status for score in scores] == ["ok", "failed", "ok"]
    assert scores[1].error == "ValueError: prompt 'b' names no real picture to compare with"
    assert scores[1].numbers == {}


def test_a_picture_that_ocr_breaks_on_fails_alone(tmp_path: Path) -> None:
    class Reader:
        def read(self, images: list[Image.Image]) -> list[list[Line]]:
            if any(image.getpixel((0, 0)) == (1, 1, 1) for image in images):
                raise RuntimeError("PaddleOCR: it broke")
            return [[Line(text="hi", confidence=1.0, polygon=[])] for _ in images]

    scorer = Scorer(NetworksConfig())
    scorer.networks.keep("ocr", Reader)
    unit = look(tmp_path, "ocr", [Prompt(text="'hi'")] * 3)
    scores = scorer.run(unit).scores
    assert [score.status for score in scores] == ["ok", "failed", "ok"]
    assert scores[1].error == "RuntimeError: PaddleOCR: it broke"
    assert scores[0].numbers["sentence_right"] == 1


def test_a_number_that_is_not_finite_fails_alone(tmp_path: Path, tiny_model: Path) -> None:
    class Broken:
        def images(self, images: list[Image.Image]) -> torch.Tensor:
            rows = [[float("nan") if i.getpixel((0, 0)) == (1, 1, 1) else 1.0] for i in images]
            return torch.tensor(rows)

        def texts(self, texts: list[str]) -> torch.Tensor:
            return torch.ones(len(texts), 1)

    networks = NetworksConfig(clip=str(tiny_model / "clip"))
    scorer = Scorer(networks)
    scorer.networks.keep("clip", Broken)
    unit = look(tmp_path, "clip_score", [Prompt(text="a")] * 3, networks)
    scores = scorer.run(unit).scores
    assert [score.status for score in scores] == ["ok", "failed", "ok"]
    assert scores[1].error == "ValueError: score not finite"


def test_a_picture_that_cannot_be_decoded_fails_alone(tmp_path: Path) -> None:
    real, broken = tmp_path / "real.png", tmp_path / "broken.png"
    Image.effect_noise((64, 64), 50).save(real)  # grey
    broken.write_bytes(real.read_bytes()[:2000])
    prompts = [Prompt(text="a", target=real), Prompt(text="b", target=broken)]
    unit = look(tmp_path, "psnr", [*prompts, Prompt(text="c", target=real)])
    (tmp_path / "2.png").write_bytes(b"no picture")
    scores = Scorer(NetworksConfig()).run(unit).scores
    assert [score.error for score in scores] == [
        None,
        f"OSError: {broken} cannot be decoded (OSError)",
        f"OSError: {tmp_path / '2.png'} cannot be decoded (UnidentifiedImageError)",
    ]
    (tmp_path / "0.png").unlink()
    with pytest.raises(FileNotFoundError):  # that may pass: the unit is tried again
        Scorer(NetworksConfig()).run(unit)
