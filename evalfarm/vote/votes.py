"""Reading votes back: who is preferred, how surely, and which metrics say the same.

Intervals are 95 %, and prompts are what is drawn by chance: a bootstrap over them for strengths
(value ± z SE), clustered by them for shares.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.table import align
from evalfarm.results.statistics import Estimate, mean, resamples, whole_set
from evalfarm.vote.bradley_terry import strengths
from evalfarm.vote.pairs import Key

LEFT_WINS = {"left": 1.0, "tie": 0.5, "right": 0.0}
RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Votes:
    """Votes that count, one per voter and pair, and what was left out."""

    pairs: NDArray[np.int64]
    """Number of each vote's pair in the key."""
    left_wins: NDArray[np.float64]
    """1, or 0.5 for a tie, or 0."""
    voters: int
    left_out: list[str]
    """A line for each kind of thing that does not count."""


def read_votes(key: Key, paths: Sequence[Path]) -> Votes:
    """The votes in some files; of a voter's several votes on a pair the last counts."""
    votes: dict[tuple[str, int], float] = {}
    problems: Counter[str] = Counter()
    for path, line in _lines(paths):
        vote = _vote(key, line)
        if isinstance(vote, str):
            problems[f"{path} {vote}"] += 1
            continue
        voter, pair, wins = vote
        if (voter, pair) in votes:
            problems[f"{path} has a vote by {voter} on a pair again: the last counts"] += 1
        votes[voter, pair] = wins
    return Votes(
        pairs=np.array([pair for _, pair in votes], np.int64),
        left_wins=np.array(list(votes.values()), np.float64),
        voters=len({voter for voter, _ in votes}),
        left_out=[text if n == 1 else f"{text}: {n} times" for text, n in problems.items()],
    )


def votes_report(key: Key, votes: Votes) -> str:
    """Strengths, win rates and what the metrics say, as text."""
    if not len(votes.pairs):
        raise ValueError(f"no vote counts: {'; '.join(votes.left_out) or 'the files are empty'}")
    prompts = np.array([pair.prompt for pair in key.pairs])[votes.pairs]
    voters = "1 voter" if votes.voters == 1 else f"{votes.voters} voters"
    seen = f"{len(set(votes.pairs))} of {len(key.pairs)} pairs"
    parts = [
        [f"{len(votes.pairs)} votes by {voters} on {seen}, suite {key.suite}"],
        align([["", "strength", "95 %", "votes"], *_strength_lines(key, votes, prompts)]),
        align([["", "preferred", "95 %", "votes"], *_win_rate_lines(key, votes, prompts)]),
        align([["", "agrees", "95 %", "votes"], *_agreement_lines(key, votes, prompts)]),
        votes.left_out,
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _strength_lines(key: Key, votes: Votes, prompts: NDArray[np.int64]) -> list[list[str]]:
    """Bradley and Terry's strengths, the strongest first."""
    sides = _sides(key, votes)
    found = strengths(_wins(sides, votes.left_wins, len(key.checkpoints)))
    resampled = np.array(
        [
            strengths(_wins(sides[places], votes.left_wins[places], len(key.checkpoints)))
            for places in resamples(prompts, RESAMPLES)
        ]
    ).reshape(-1, len(found))
    counts = np.bincount(sides.reshape(-1), minlength=len(found))
    return [
        [
            key.checkpoints[number],
            f"{found[number]:+.0f}",
            _between(whole_set(float(found[number]), resampled[:, number]), "+.0f"),
            str(counts[number]),
        ]
        for number in np.argsort(-found, kind="stable")
    ]


def _win_rate_lines(key: Key, votes: Votes, prompts: NDArray[np.int64]) -> list[list[str]]:
    """How often the first of each two checkpoints is preferred, a tie as half."""
    sides = _sides(key, votes)
    lines = []
    for first, second in combinations(range(len(key.checkpoints)), 2):
        there = (sides == (first, second)).all(axis=1)
        turned = (sides == (second, first)).all(axis=1)
        wins = np.where(turned, 1 - votes.left_wins, votes.left_wins)[there | turned]
        if len(wins):
            names = f"{key.checkpoints[first]} over {key.checkpoints[second]}"
            lines.append([names, *_share(wins, prompts[there | turned])])
    return lines


def _agreement_lines(key: Key, votes: Votes, prompts: NDArray[np.int64]) -> list[list[str]]:
    """Of the votes that are no ties, how often each metric prefers the same picture.

    A metric that calls the two equal agrees by half.
    """
    lines = []
    for column, higher in key.higher_is_better.items():
        there = [
            place
            for place, pair in enumerate(votes.pairs)
            if votes.left_wins[place] != 0.5 and column in key.pairs[pair].numbers
        ]
        if there:
            numbers = np.array([key.pairs[pair].numbers[column] for pair in votes.pairs[there]])
            says = np.sign(numbers[:, 0] - numbers[:, 1]) * (1 if higher else -1)
            agrees = (1 + says * np.sign(votes.left_wins[there] - 0.5)) / 2
            lines.append([column, *_share(agrees, prompts[there])])
    return lines


def _lines(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each line that is not empty, with its file."""
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path} does not exist: name the files that voters saved")
        lines = path.read_text(errors="replace").splitlines()
        yield from ((path, line) for line in lines if line.strip())


def _vote(key: Key, line: str) -> tuple[str, int, float] | str:
    """Voter, pair and what the left one wins; or what is wrong with the line."""
    try:
        found = json.loads(line)
        vote, voter, pair, choice = (found[k] for k in ("vote", "voter", "pair", "choice"))
    except (ValueError, KeyError, TypeError):
        return "has a line that is no vote"
    if not isinstance(voter, str) or type(pair) is not int or choice not in LEFT_WINS:
        return "has a line that is no vote"
    if vote != key.digest:
        return "has a vote on the pairs of another page"
    if not 0 <= pair < len(key.pairs):
        return "has a vote on a pair that the key does not have"
    return voter, pair, LEFT_WINS[choice]


def _sides(key: Key, votes: Votes) -> NDArray[np.int64]:
    """Numbers of the checkpoints left and right of each vote."""
    return np.array([(key.pairs[pair].left, key.pairs[pair].right) for pair in votes.pairs])


def _wins(
    sides: NDArray[np.int64], left_wins: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """How often each checkpoint was preferred to each other."""
    wins = np.zeros((count, count))
    np.add.at(wins, (sides[:, 0], sides[:, 1]), left_wins)
    np.add.at(wins, (sides[:, 1], sides[:, 0]), 1 - left_wins)
    return wins


def _share(values: NDArray[np.float64], prompts: NDArray[np.int64]) -> list[str]:
    interval = _between(mean(values, prompts), ".0%")
    return [f"{values.mean():.0%}", interval, str(len(values))]


def _between(estimate: Estimate | None, form: str) -> str:
    return "–" if estimate is None else f"{estimate.low:{form}} … {estimate.high:{form}}"
