"""People are asked without being led, and their votes are counted as what they are."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.report.report import write_reports
from evalfarm.results.record import find_checkpoint
from evalfarm.suite import Prompt, Sampling, Suite
from evalfarm.vote.bradley_terry import strengths
from evalfarm.vote.page import write_page
from evalfarm.vote.pairs import Key, draw_pairs, read_key
from evalfarm.vote.votes import read_votes, votes_report
from tests.unit.evalfarm.conftest import ocr_key, write_checkpoint

PROMPTS = tuple(Prompt(text=f"</script><b>'{n}'") for n in range(12))
SUITE = Suite(
    name="twelve", prompts=PROMPTS, metrics=("ocr",), sampling=Sampling(height=32, width=96)
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Results of two checkpoints; 20 scores more than 10 on every prompt, and lacks the last."""
    evaluation = Evaluation(SUITE, EvalConfig(), tmp_path / "out" / "twelve")
    write_checkpoint(evaluation, 10, [0.1 + n / 100 for n in range(12)])
    write_checkpoint(evaluation, 20, [*(0.6 + n / 100 for n in range(11)), None])
    write_reports(evaluation)
    evaluation.close()
    return tmp_path / "out"


def key_of(out: Path, count: int = 100, seed: int = 0) -> Key:
    sides = [find_checkpoint(f"{out}@{step}", None) for step in (10, 20)]
    return draw_pairs(sides, count=count, seed=seed)


def vote_file(path: Path, key: Key, choices: dict[int, str], voter: str = "ann") -> Path:
    lines = [
        json.dumps({"vote": key.digest, "voter": voter, "pair": pair, "choice": choice})
        for pair, choice in choices.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_sides_and_order_are_by_chance_and_the_seed_tells_which(out: Path) -> None:
    key = key_of(out)
    assert len(key.pairs) == 11  # the picture that failed has no pair
    assert 0 < sum(pair.left == 0 for pair in key.pairs) < 11
    assert [pair.prompt for pair in key.pairs] != sorted(pair.prompt for pair in key.pairs)
    assert key_of(out).pairs == key.pairs
    assert key_of(out, seed=1).pairs != key.pairs
    assert len(key_of(out, count=4).pairs) == 4


def test_nobody_votes_on_what_only_fills_a_grid(tmp_path: Path) -> None:
    prompts = (Prompt(text="asked"), Prompt(text="to fill the grid", filler=True))
    evaluation = Evaluation(replace(SUITE, prompts=prompts), EvalConfig(), tmp_path / "twelve")
    for step in (10, 20):
        write_checkpoint(evaluation, step, [0.5, 0.5])
    write_reports(evaluation)
    evaluation.close()
    assert [pair.text for pair in key_of(tmp_path).pairs] == ["asked"]


def test_the_page_tells_voters_nothing_and_its_texts_are_no_markup(
    out: Path, tmp_path: Path
) -> None:
    facts = PngInfo()
    facts.add_text("parameters", "Model: step 10")
    for path in (out / "twelve" / "images" / "10").iterdir():
        Image.open(path).save(path, pnginfo=facts)
    key = key_of(out)
    write_page(key, tmp_path / "vote")
    page = (tmp_path / "vote" / "page" / "index.html").read_text()
    assert page.count("</script>") == 1
    assert "step 10" not in page
    assert "https://" not in page
    names = Counter(path.name[-5] for path in (tmp_path / "vote" / "page" / "pictures").iterdir())
    assert names == {"a": 11, "b": 11}
    left = Image.open(tmp_path / "vote" / "page" / "pictures" / "00000a.png")
    assert left.getpixel((0, 0)) == ((10, 20)[key.pairs[0].left], key.pairs[0].prompt, 0)
    assert left.text == {}  # type: ignore[attr-defined]
    assert read_key(tmp_path / "vote") == Key(**vars(key))
    with pytest.raises(ValueError, match=r"vote is there already: name a new folder by --out"):
        write_page(key, tmp_path / "vote")


def test_votes_give_strengths_win_rates_and_agreement(out: Path, tmp_path: Path) -> None:
    key = key_of(out)
    better = {n: "left" if pair.left == 1 else "right" for n, pair in enumerate(key.pairs)}
    worse = {"left": "right", "right": "left"}
    choices = {
        n: worse[choice] if n < 2 else "tie" if n == 2 else choice for n, choice in better.items()
    }
    votes = read_votes(key, [vote_file(tmp_path / "votes.jsonl", key, choices)])
    report = votes_report(key, votes)
    assert "11 votes by 1 voter on 11 of 11 pairs, suite twelve" in report
    lines = {line.split("  ")[0]: line for line in report.splitlines()}
    assert " 23% " in lines["step 10 over step 20"]  # (2 + 1/2) / 11
    assert " 80% " in next(line for name, line in lines.items() if name.startswith("ocr_ned"))
    points = 400 * np.log10((8.5 + 0.5) / (2.5 + 0.5)) / 2  # two players have a closed form
    assert f"{points:+.0f}" in lines["step 20"]
    assert f"{-points:+.0f}" in lines["step 10"]


def test_what_is_no_vote_here_is_counted_and_told(out: Path, tmp_path: Path) -> None:
    key = key_of(out)
    path = vote_file(tmp_path / "votes.jsonl", key, {0: "left", 1: "right", 99: "left"})
    again = {"vote": key.digest, "voter": "ann", "pair": 0, "choice": "tie"}
    other = {**again, "vote": "another"}
    lines = ["{broken", "[]", json.dumps({**again, "choice": "up"}), json.dumps(again)]
    path.write_text(path.read_text() + "\n".join([*lines, json.dumps(other)]))
    votes = read_votes(key, [path])
    assert votes.left_wins.tolist() == [0.5, 0.0]  # the last vote of a voter counts
    assert votes.left_out == [
        f"{path} has a vote on a pair that the key does not have",
        f"{path} has a line that is no vote: 3 times",
        f"{path} has a vote by ann on a pair again: the last counts",
        f"{path} has a vote on the pairs of another page",
    ]
    two = read_votes(key, [path, vote_file(tmp_path / "bob.jsonl", key, {0: "left"}, voter="bob")])
    assert (two.voters, len(two.pairs)) == (2, 3)


def test_no_votes_and_no_pairs_are_refused_in_one_line(out: Path, tmp_path: Path) -> None:
    key = key_of(out)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ValueError, match="no vote counts: the files are empty"):
        votes_report(key, read_votes(key, [empty]))
    with pytest.raises(ValueError, match=r"gone.jsonl does not exist: name the files"):
        read_votes(key, [tmp_path / "gone.jsonl"])
    with pytest.raises(ValueError, match="name two checkpoints or more, no weights twice"):
        draw_pairs([find_checkpoint(f"{out}@10", None)] * 2, count=5, seed=0)
    with pytest.raises(ValueError, match="name the folder that `vote make` wrote"):
        read_key(tmp_path)


def test_strengths_are_found_again_from_votes_that_they_made() -> None:
    true = np.array([200.0, 50.0, -50.0, -200.0])
    odds = 10 ** (true / 400)
    wins = 4000 * odds[:, None] / (odds[:, None] + odds[None, :])
    np.fill_diagonal(wins, 0)
    np.testing.assert_allclose(strengths(wins), true, atol=0.2)


def test_one_that_never_won_has_a_strength() -> None:
    found = strengths(np.array([[0.0, 10.0], [0.0, 0.0]]))
    assert found == pytest.approx([200 * np.log10(21), -200 * np.log10(21)])


def test_the_columns_that_agree_are_those_of_the_ledger(out: Path) -> None:
    evaluation = Evaluation(SUITE, EvalConfig(), out / "twelve")
    pair = key_of(out).pairs[0]
    left, right = pair.numbers[ocr_key(evaluation, "ned")]
    assert (right > left) == (pair.right == 1)
    assert ocr_key(evaluation, "f1") not in pair.numbers  # no picture has one
