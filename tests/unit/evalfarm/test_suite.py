"""Suites: files that fix what is asked, and a digest that says whether two ask the same."""

from dataclasses import replace
from pathlib import Path

import pytest

from evalfarm.suite import Prompt, Suite
from evalfarm.suite_files import load_suite
from trainer.data.words import word_list


@pytest.mark.parametrize("name", ["mini", "mini_base"])
def test_the_mini_suites_ask_only_for_words_that_no_recipe_trains_on(name: str) -> None:
    suite = load_suite(name)
    words = [word for prompt in suite.prompts for word in prompt.words]
    assert len(words) == len(set(words)) == len(suite.prompts)
    assert set(words) <= set(word_list("held_out"))


def test_the_digest_follows_the_pictures_and_not_the_metrics() -> None:
    suite = load_suite("mini")
    assert replace(suite, metrics=("ocr",)).digest == suite.digest
    for changed in (
        replace(suite, sampling=replace(suite.sampling, seed=1)),
        replace(suite, sampling=replace(suite.sampling, sampler="pndm")),
        replace(suite, sampling=replace(suite.sampling, negative_prompt="blurred")),
        replace(suite, prompts=suite.prompts[:-1]),
    ):
        assert changed.digest != suite.digest


def test_a_suite_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{name: mine, prompts: [\"a 'cat'\"], metrics: [ocr], samples_per_prompt: 2}")
    suite = load_suite(str(path))
    assert [(item.prompt, item.sample) for item in suite.items()] == [(0, 0), (0, 1)]
    assert (suite.sampling.height, suite.sampling.sampler_steps) == (512, 50)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: a/b, prompts: [a], metrics: [ocr]}", "name 'a/b' must be letters, digits"),
        ("{name: a, prompts: [], metrics: [ocr]}", "prompts must hold at least one"),
        ("{name: a, promts: [a], metrics: [ocr]}", "promts is not a key: did you mean"),
        ("{name: a, prompts: [a], parti: {}, metrics: [ocr]}", "one place, got prompts and parti"),
        ("{name: a, prompts: [a], metrics: [ocr], width: 100}", "width must be a multiple of 8"),
        (
            "{name: a, prompts: [a], metrics: [ocr], sampler: plms}",
            r"sampler: expected Literal.* got plms",
        ),
        ("{name: a, mario: {subsets: [TMDB]}, metrics: [ocr]}", r"subsets \['TMDB'\] are unknown"),
    ],
)
def test_a_mistake_in_a_suite_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_suite(str(path))


def test_a_suite_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"there is no suite mni: did you mean mini\?"):
        load_suite("mni")
    assert isinstance(load_suite("mini"), Suite)


def test_what_a_prompt_is_compared_with_and_whether_it_is_scored_is_part_of_the_digest(
    tmp_path: Path,
) -> None:
    real = tmp_path / "real.png"
    real.write_bytes(b"a picture")
    first, second = Prompt(text="a", target=real), Prompt(text="b")
    suite = replace(load_suite("mini"), prompts=(first, second))
    others = [
        (replace(first, target=None), replace(second, target=real)),
        (first, replace(second, filler=True)),
        (first, replace(second, has_real=False)),
    ]
    digests = {replace(suite, prompts=prompts).digest for prompts in others}
    assert len({*digests, suite.digest}) == 4
