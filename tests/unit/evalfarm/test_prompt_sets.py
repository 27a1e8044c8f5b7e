"""Published prompts are read as their authors lay them out, and what is missing is one line."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.results.results import summarize
from evalfarm.rows import Checkpoint, Picture, Score
from evalfarm.suite import Suite
from evalfarm.suite_files import load_suite, read_suite, suite_names
from tests.unit.trainer.sources import REAL_SAMPLES, needs_real_samples
from trainer.models.config import NetworksConfig

METRICS = "metrics: [ocr]"


def load(tmp_path: Path, prompts: str, metrics: str = METRICS) -> Suite:
    """A suite whose prompts come from the published data in `tmp_path`."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"{{name: mine, {metrics}, {prompts}, height: 32, width: 96}}")
    return load_suite(str(path), tmp_path)


def write_mario(data: Path, **subsets: list[str]) -> None:
    """MARIO-Eval's folders, of these prompts; a picture each in those that have real ones."""
    for name, lines in subsets.items():
        folder = data / "MARIOEval" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
        if name.endswith("500"):
            (folder / "images").mkdir()
            for number in range(len(lines)):
                image = Image.new("RGB", (8, 8), (number, len(name), 0))
                image.save(folder / "images" / f"{number}.jpg")


def test_mario_eval_is_a_line_for_each_prompt_and_a_group_for_each_subset(tmp_path: Path) -> None:
    write_mario(
        tmp_path,
        TMDBEval500=["a film called 'Heat'", "a film called 'Heat'", "<b>../../etc</b> 'x'"],
        OpenLibraryEval500=["a book called 'Emma'"],
        DrawBenchText=["a sign that says 'NeurIPS'"],
    )
    subsets = "[TMDBEval500, OpenLibraryEval500, DrawBenchText]"
    suite = load(tmp_path, f"mario: {{subsets: {subsets}}}, samples_per_prompt: 4")
    assert [prompt.group for prompt in suite.prompts] == [
        *["TMDBEval500"] * 3,
        "OpenLibraryEval500",
        "DrawBenchText",
    ]
    assert suite.prompts[0].text == suite.prompts[1].text  # two prompts, each with its own noise
    assert len(suite.items()) == 20
    assert list(suite.has_real) == [True, True, True, True, False]
    assert suite.references is not None
    assert suite.references.names() == [
        *(f"TMDBEval500/images/{number}.jpg" for number in range(3)),
        "OpenLibraryEval500/images/0.jpg",
    ]
    before = suite.references.digest()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "MARIOEval/TMDBEval500/images/0.jpg")
    assert suite.references.digest() != before


def test_distances_to_real_pictures_leave_out_prompts_that_have_none(tmp_path: Path) -> None:
    write_mario(tmp_path, TMDBEval500=["a 'a'", "a 'b'"], DrawBenchText=["a 'c'"])
    suite = load(
        tmp_path, "mario: {subsets: [TMDBEval500, DrawBenchText]}", "metrics: [ocr, frechet]"
    )
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "weights").write_text("only their digest is asked for")
    config = EvalConfig(networks=NetworksConfig(clip=str(clip)))
    evaluation = Evaluation(suite, config, tmp_path / "out")
    features = np.array([[0.0, 1.0], [2.0, 1.0], [90.0, 70.0]], dtype=np.float32)
    metric = evaluation.metrics["frechet"].rows
    assert evaluation.references is not None
    evaluation.ledger.add_checkpoint(
        Checkpoint(checkpoint="a", kind="weights", step=1, name="a", path="a")
    )
    for checkpoint, count in (("a", 3), (evaluation.references.checkpoint, 2)):
        for number in range(count):
            key = {"checkpoint": checkpoint, "prompt": number, "sample": 0, "status": "ok"}
            score = Score(**key, metric=metric, features=features[number])
            evaluation.ledger.commit([Picture(**key, file="x")], [score])
    (row,) = summarize(evaluation)["rows"]
    (distance,) = [value for name, value in row["values"].items() if "frechet" in name]
    assert distance == pytest.approx(0.0, abs=1e-6)  # the two that have real pictures equal them
    evaluation.close()


def test_real_pictures_that_are_missing_make_a_metric_absent_and_keep_the_others(
    tmp_path: Path,
) -> None:
    write_mario(tmp_path, TMDBEval500=["a 'a'"], OpenLibraryEval500=["a 'b'"])
    folder = tmp_path / "MARIOEval/OpenLibraryEval500/images"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    suite = load(
        tmp_path, "mario: {subsets: [TMDBEval500, OpenLibraryEval500]}", "metrics: [ocr, frechet]"
    )
    evaluation = Evaluation(suite, EvalConfig(), tmp_path / "out")
    assert evaluation.absent == {"frechet": f"the real pictures {folder} do not exist"}
    assert list(evaluation.metrics) == ["ocr"]
    evaluation.close()


@needs_real_samples
def test_parti_prompts_are_read_whole_with_their_quotes() -> None:
    suite = load_suite("parti", REAL_SAMPLES)
    texts = [prompt.text for prompt in suite.prompts]
    assert len(texts) == len(set(texts)) == 1632
    assert [text for text in texts if text.startswith('"')] == [
        '"G I G G L E" painted in thick colorful lettering as graffiti on a faded red brick wall'
        " with a splotch of exploding white paint."
    ]
    assert max(map(len, texts)) == 389
    groups = Counter(prompt.group for prompt in suite.prompts)
    assert (len(groups), groups["Animals"], groups["World Knowledge"]) == (12, 314, 214)


def test_the_styles_of_hps_are_groups(tmp_path: Path) -> None:
    folder = tmp_path / "HPSv2" / "benchmark"
    folder.mkdir(parents=True)
    for style in ("anime", "photo"):
        (folder / f"{style}.json").write_text(json.dumps([f"{style} of a \u00e9", "a 'cat'"]))
    suite = load(tmp_path, "hpsv2: {styles: [anime, photo]}")
    assert [(prompt.group, prompt.text) for prompt in suite.prompts] == [
        ("anime", "anime of a \u00e9"),
        ("anime", "a 'cat'"),
        ("photo", "photo of a \u00e9"),
        ("photo", "a 'cat'"),
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_captions_of_an_imagefolder_have_their_pictures_as_targets(
    tmp_path: Path, kind: str
) -> None:
    write_imagefolder(tmp_path / "held", kind, {"sub/a.png": "a dune", "b.png": "a lake"})
    suite = load(tmp_path, "imagefolder: {path: held}")
    assert [(prompt.text, prompt.target) for prompt in suite.prompts] == [
        ("a dune", tmp_path / "held" / "sub" / "a.png"),
        ("a lake", tmp_path / "held" / "b.png"),
    ]
    assert suite.references is not None
    assert suite.references.names() == ["sub/a.png", "b.png"]  # not all that lie there
    before = suite.digest
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "held" / "b.png")
    assert load(tmp_path, "imagefolder: {path: held}").digest != before


def write_imagefolder(folder: Path, kind: str, captions: dict[str, str]) -> None:
    """A folder of red pictures with their captions, and one that is not listed."""
    for name in (*captions, "unlisted.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(folder / name)
    rows = [{"file_name": name, "text": text} for name, text in captions.items()]
    lines = [json.dumps(row) for row in rows]
    if kind == "csv":
        lines = ["file_name,text", *(f"{row['file_name']},{row['text']}" for row in rows)]
    (folder / f"metadata.{kind}").write_text("\n".join(lines))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "gone.png"])
def test_an_imagefolder_lists_only_files_of_its_own(tmp_path: Path, name: str) -> None:
    write_imagefolder(tmp_path / "held", "jsonl", {"a.png": "a dune"})
    (tmp_path / "secret.png").write_bytes(b"")
    row = json.dumps({"file_name": name, "text": "x"})
    with (tmp_path / "held" / "metadata.jsonl").open("a") as file:
        file.write(f"\n{row}")
    with pytest.raises(ValueError, match=rf"row 2 names '{re.escape(name)}', which is no file in"):
        load(tmp_path, "imagefolder: {path: held}")


def test_lines_are_prompts_and_the_empty_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a 'cat'\n\na 'cat'\n  a dog\n")
    suite = load(tmp_path, "lines: {path: list.txt}")
    assert [prompt.text for prompt in suite.prompts] == ["a 'cat'", "a 'cat'", "a dog"]


def test_where_a_set_lies_does_not_change_the_digest(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        write_mario(tmp_path / name, DrawBenchText=["a 'a'"])
        digests.add(load_suite("drawbench_text", tmp_path / name).digest)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mario_eval", "MARIOEval/TMDBEval500/TMDBEval500.txt"),
        ("drawbench_text", "MARIOEval/DrawBenchText/DrawBenchText.txt"),
        ("parti", "PartiPrompts.tsv"),
        ("hpsv2", "HPSv2/benchmark/anime.json"),
        ("unsplash_heldout", "unsplash_heldout"),
    ],
)
def test_a_set_that_is_not_there_is_one_line_with_its_place(
    tmp_path: Path, name: str, place: str
) -> None:
    message = (
        rf"suite {name}: {re.escape(str(tmp_path / place))} does not exist \(.*\): put it there"
    )
    with pytest.raises(ValueError, match=message) as error:
        load_suite(name, tmp_path)
    assert "\n" not in str(error.value)


def test_every_suite_asks_what_its_protocol_publishes() -> None:
    asked = {}
    for name in suite_names():
        suite = read_suite(name)
        assert suite.name == name
        asked[name] = (suite.samples_per_prompt, suite.sampler, suite.sampler_steps, suite.guidance)
    assert asked == {
        "drawbench_text": (4, "pndm", 50, 7.5),
        "hpsv2": (1, "ddim", 25, 7.5),
        "mario_eval": (4, "pndm", 50, 7.5),
        "mini": (1, "ddim", 20, 3.0),
        "mini_base": (1, "ddim", 20, 3.0),
        "mini_spell": (2, "ddim", 20, 3.0),
        "parti": (1, "ddim", 25, 7.5),
        "unsplash_heldout": (1, "pndm", 50, 7.5),
        "wikiart_grid": (1, "euler", 4, 1.0),
    }
