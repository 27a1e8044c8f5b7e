"""How surely a recogniser reads in a picture what its prompt quotes."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data.framing import quoted_texts
from trainer.models.recogniser import Recogniser, in_batches
from trainer.models.rgb import resize
from trainer.objectives.ctc import steps_needed
from trainer.objectives.rewards.reward import Judged

Classes = tuple[int, ...]
"""Of a recogniser, that count as the same character."""
FindLines = Callable[[Tensor, int, Counter[str]], list[Tensor]]
"""The lines in a picture, RGB 3 height width, upright and so high: each 3 height width; those that
cannot be cut out are counted by why."""


class OcrReward:
    """The log-likelihood of the quoted texts by CTC (Graves et al. 2006), per character: at most 0.

    Upper case is as good as lower case. Of several texts it is the mean, each in the line where it
    is read best. Where no line is found, the whole picture is read as one, and counted: a picture
    without text is worth something too, and may be worth more than one with a wrong word.
    """

    def __init__(self, recogniser: Recogniser, find_lines: FindLines | None) -> None:
        """`find_lines` None: the whole picture is one line."""
        self.recogniser = recogniser
        self.find_lines = find_lines

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Judged:
        """How surely each picture's lines say what its prompt quotes."""
        values, counts = [], Counter[str]()
        asked = [self._texts(prompt, counts) for prompt in prompts]
        lines = [
            self._lines(picture, counts) if texts else []
            for picture, texts in zip(pixels, asked, strict=True)
        ]
        readings = iter(self._read([line for of_picture in lines for line in of_picture]))
        for texts, of_picture in zip(asked, lines, strict=True):
            values.append(_value(texts, [next(readings) for _ in of_picture], counts))
        judged = torch.tensor([value is not None for value in values], device=pixels.device)
        zero = pixels.new_zeros((), dtype=torch.float32)
        return Judged(torch.stack([zero if v is None else v for v in values]), judged, counts)

    def _texts(self, prompt: str, counts: Counter[str]) -> list[list[Classes]]:
        """What a prompt quotes; nothing, and counted, if that cannot be read."""
        texts = [self._classes(text) for text in quoted_texts(prompt)]
        if texts and all(map(all, texts)):
            return texts
        counts["outside_list" if texts else "no_quoted_words"] += 1
        return []

    def _classes(self, text: str) -> list[Classes]:
        """What each character may be read as: the farm's metrics do not tell its case either."""
        forms = [dict.fromkeys((one, one.lower(), one.upper())) for one in text]
        codes = [[self.recogniser.encode(form) or [] for form in these] for these in forms]
        # In one order: an upper case letter beside its lower case one is the same one twice.
        return [tuple(sorted(code[0] for code in these if len(code) == 1)) for these in codes]

    def _lines(self, picture: Tensor, counts: Counter[str]) -> list[Tensor]:
        high = self.recogniser.height_px
        if self.find_lines:
            if lines := self.find_lines(picture, high, counts):
                return lines
            counts["no_line_found"] += 1
        height, width = picture.shape[1:]
        return [resize(picture[None], high, max(1, round(width * high / height)))[0]]

    def _read(self, lines: Sequence[Tensor]) -> list[Tensor]:
        """The log probabilities of each line: times classes."""
        found: dict[int, Tensor] = {}
        for numbers, batch in in_batches(lines):
            found |= zip(numbers, self.recogniser(batch).log_probabilities, strict=True)
        return [found[number] for number in range(len(lines))]


def log_likelihood(log_probabilities: Tensor, text: Sequence[Classes]) -> Tensor | None:
    """Of a text under a reading (times classes; class 0 is blank); None if it has too few times.

    On the CPU: the gradient that torch computes on a GPU differs from run to run.
    """
    if steps_needed(text) > len(log_probabilities):
        return None
    kinds = list(dict.fromkeys(text))
    loss = F.ctc_loss(
        _merged(log_probabilities.float().cpu(), kinds),
        torch.tensor([1 + kinds.index(one) for one in text]),
        torch.tensor(len(log_probabilities)),
        torch.tensor(len(text)),
        reduction="sum",
    )
    return -loss.to(log_probabilities.device)


def _merged(log_probabilities: Tensor, kinds: Sequence[Classes]) -> Tensor:
    """Blank, each of these kinds as one class, and all the rest as one: times classes.

    The rest is never asked for, but torch's gradient is right only where all add up to 1.
    """
    rest = log_probabilities.clone()
    rest[:, [0, *(one for kind in kinds for one in kind)]] = -torch.inf
    columns = [log_probabilities[:, list(kind)].logsumexp(dim=-1) for kind in kinds]
    return torch.stack([log_probabilities[:, 0], *columns, rest.logsumexp(dim=-1)], dim=-1)


def _value(
    texts: Sequence[Sequence[Classes]], readings: Sequence[Tensor], counts: Counter[str]
) -> Tensor | None:
    """What a picture is worth; None if that cannot be said, counted if it is not yet."""
    best = [_best(text, readings) for text in texts]
    found = [value for value in best if value is not None]
    if len(found) < len(best):
        counts["too_long"] += 1
    return torch.stack(found).mean() if found and len(found) == len(best) else None


def _best(text: Sequence[Classes], readings: Sequence[Tensor]) -> Tensor | None:
    """The likelihood per character of a text in the line where it is highest."""
    found = [log_likelihood(reading, text) for reading in readings]
    there = [value / len(text) for value in found if value is not None]
    return torch.stack(there).max() if there else None
