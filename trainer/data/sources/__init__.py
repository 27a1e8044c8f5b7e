"""Where samples come from: a file for each kind of source.

A source has two functions of its config: `inputs`, the files that decide what it holds, and
`plan`, the jobs that make its shards. `plan` may leave files for its jobs in a scratch folder.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from trainer.data.sources import imagefolder, laion, mario, prompts, webdataset, words
from trainer.data.tars import Job


class Source(NamedTuple):
    """How one kind of source is read."""

    inputs: Callable[[Any], list[Path]]
    plan: Callable[[Any, Path], list[Job]]


READERS = {
    "words": Source(lambda _: [], words.plan),
    "imagefolder": Source(imagefolder.inputs, imagefolder.plan),
    "webdataset": Source(webdataset.inputs, webdataset.plan),
    "laion": Source(laion.inputs, laion.plan),
    "mario": Source(mario.inputs, mario.plan),
    "prompts": Source(prompts.inputs, prompts.plan),
}
