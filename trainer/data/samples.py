"""The samples of a run: where they are, which are kept from training, what they warn of."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.config import TrainConfig
from trainer.data.cache.reading import Cache
from trainer.data.config import DataConfig, Truth
from trainer.data.framing import Size, quotes_words, spoils_text
from trainer.data.loader import BROKEN, Batch, Stream, fixed_batches, open_batches
from trainer.data.shards import ShardFolder

CAPTIONS_LOOKED_AT = 100
WHAT_IT_IS: dict[Truth, str] = {
    "masks": "where the text is",
    "lines": "which words are where",
    "characters": "which character is where (charseg.png)",
}
NOBODY: NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a run trains and validates on."""

    config: TrainConfig
    training: ShardFolder
    held_out: NDArray[np.int64]
    """Numbers of the samples in `training` that are not trained on."""
    validation: ShardFolder
    """Where those that are validated on lie; the same folder, or another."""
    validated: NDArray[np.int64]
    """Their numbers there."""
    cache: Cache | None
    """What they are read from in place of pictures and captions."""
    warning: str | None
    """What spoils the samples for this run, in one line."""

    def batches(self, positions: Iterator[list[int]]) -> Iterator[Batch]:
        """The batches at these positions of the run's stream, with what the loss has to know."""
        return open_batches(self._stream(), positions)

    def validation_batches(self, batch: int) -> list[Batch]:
        """All that is validated on, in batches of at most so many."""
        return fixed_batches(self.validation, self.config.data, self.validated, batch)

    def names(self, positions: Iterable[int]) -> list[str]:
        """The samples at these positions, for people: shard and key."""
        stream = self._stream()
        return [self.training.key(stream.number(position)) for position in positions]

    def _stream(self) -> Stream:
        return Stream(
            self.training,
            self.config.data,
            seed=self.config.seed,
            global_batch=self.config.global_batch,
            truth=tuple(self.config.objective.truth),
            held_out=self.held_out,
            cache=self.cache,
            drawn=_drawn(self.config),
        )


def open_samples(config: TrainConfig, cache: Cache | None = None) -> Samples:
    """The samples that a recipe names; what is in `cache` is read from there.

    ValueError if there are too few to validate on, or if they lack what the recipe's loss needs.
    """
    training = ShardFolder(config.data.path, pictures=config.reward is None)
    for truth, key in config.objective.truth.items():
        if not training.knows(truth):
            raise ValueError(
                f"train.objective.{key} needs to know {WHAT_IT_IS[truth]}, and {config.data.path} "
                "does not tell: leave it out, or take samples with words, built again if an older "
                "version drew them"
            )
    validation, validated, held_out = training, NOBODY, NOBODY
    if config.validation:
        path, count = config.validation.path, config.validation.samples
        validation = ShardFolder(path) if path else training
        validated = chosen(len(validation), count, most=1.0 if path else 0.5)
        held_out = NOBODY if path else validated
    return Samples(
        config=config,
        training=training,
        held_out=held_out,
        validation=validation,
        validated=validated,
        cache=cache,
        warning=_warning(config.data, training),
    )


def chosen(samples: int, count: int, most: float) -> NDArray[np.int64]:
    """`count` numbers of `samples`, always the same.

    By lot, since the order in a folder may be that of its sources. ValueError if that is more than
    the share `most` of them.
    """
    if count > samples * most:
        raise ValueError(
            f"train.validation.samples {count} is more than "
            f"{'half of ' if most < 1 else ''}the {samples} samples there: take fewer, or name "
            "another folder in train.validation.path"
        )
    return np.sort(np.random.default_rng(0x76616C).permutation(samples)[:count])


def _drawn(config: TrainConfig) -> Size | None:
    return Size(config.reward.width, config.reward.height) if config.reward else None


def _warning(config: DataConfig, shards: ShardFolder) -> str | None:
    warning = spoils_text(config, has_words=True)  # reading captions only where they matter
    return warning if warning and _shows_words(shards) else None


def _shows_words(shards: ShardFolder) -> bool:
    return shards.has_text_truth or any(map(quotes_words, _first_captions(shards)))


def _first_captions(shards: ShardFolder) -> Iterator[str]:
    for number in range(min(CAPTIONS_LOOKED_AT, len(shards))):
        with suppress(*BROKEN):
            yield shards.caption(number)
