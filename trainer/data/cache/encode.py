"""Encoding a recipe's samples once, by any number of processes, killed and started at will.

Every process knows all parts from the recipe alone, takes every n-th, and passes over what is done
already (writing.py). Process 0 does last what nobody has done by then, so it waits for no one, and
publishes the folder.
"""

import logging
import multiprocessing
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.run_folder import MANIFEST, read_manifest
from trainer.config import TrainConfig
from trainer.data.alone import alone_at
from trainer.data.cache.captions import plan_captions
from trainer.data.cache.key import folder_of, latents_facts, text_facts
from trainer.data.cache.pictures import plan_pictures
from trainer.data.cache.work import Work
from trainer.data.cache.writing import is_done, publish_parts, undone, write_parts
from trainer.data.shards import ShardFolder
from trainer.distributed import Place, find_device, find_place
from trainer.models.dtypes import DTYPES
from trainer.models.pipeline import load_family

log = logging.getLogger(__name__)

Bar = Callable[[str], Callable[[Iterable[Any], int], Iterable[Any]]]
"""Makes what shows progress on items of which there are so many, from a word on what is done."""


def encode(config: TrainConfig, batch: int, bar: Bar) -> str:
    """Write what `config.data.cache` should hold, `batch` pictures at a time; says what is there.

    Shares the work with the other processes of an agent, torchrun or srun if it was started by one;
    else with one process for each GPU of this machine.
    """
    if config.data.cache is None:
        raise ValueError("train.data.cache names no folder to write to: set it in the recipe")
    place = find_place()
    if place:
        return encode_share(config, batch, bar if place.rank == 0 else silent, place)
    with alone_at(config.data.cache):
        return _encode_here(config, batch, bar)


def _encode_here(config: TrainConfig, batch: int, bar: Bar) -> str:
    """Encode with one process for each GPU of this machine."""
    processes = torch.cuda.device_count() if config.device == "cuda" else 1
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(
            target=encode_share, args=(config, batch, silent, Place(number, number, processes))
        )
        for number in range(1, processes)
    ]
    for process in others:
        process.start()
    try:
        return encode_share(config, batch, bar, Place(0, 0, max(1, processes)))
    finally:  # done, or not to be done; what the others are at has been done or will be again
        for process in others:
            process.terminate()
            process.join()


def encode_share(config: TrainConfig, batch: int, bar: Bar, place: Place) -> str:
    """Do one process's share; says what is there if it is process 0, which knows."""
    assert config.data.cache is not None
    dtype = DTYPES[config.precision]
    device = find_device(config.device, place.local_rank)
    shards = ShardFolder(config.data.path)
    family = load_family(
        config.model,
        device=device,
        dtype_of=lambda _: dtype,
        model_config=config.model_config,
    )
    share = _Share(config.data.cache, shards, bar, place)
    pictures = latents_facts(config.data, family, shards.manifest)
    said = _write(share, pictures, lambda: plan_pictures(config.data, family, shards, batch))
    if config.text_encoder != "frozen":
        return f"{said}\ntext: not cached, since the text encoder is trained"
    text = text_facts(family, shards.manifest)
    progress = bar("reading captions")
    return f"{said}\n{_write(share, text, lambda: plan_captions(family, shards, progress))}"


def silent(_: str) -> Callable[[Iterable[Any], int], Iterable[Any]]:
    """Shows nothing."""
    return lambda items, _: items


@dataclass(frozen=True)
class _Share:
    cache: Path
    shards: ShardFolder
    bar: Bar
    place: Place


def _write(share: _Share, facts: dict[str, Any], plan: Callable[[], Work]) -> str:
    """Do this process's share of one folder; process 0 sees to the rest and publishes it."""
    folder = folder_of(share.cache, facts)
    if (folder / MANIFEST).is_file():
        return f"{facts['kind']}: already in {folder}"
    work = plan()
    staging = folder.with_name(f".{folder.name}.tmp")
    staging.mkdir(parents=True, exist_ok=True)
    is_main = share.place.rank == 0
    if is_main:
        _tell_size(facts["kind"], work, staging)
    mine = undone(staging, work.parts[share.place.rank :: share.place.ranks])
    rows = sum(len(part.rows) for part in mine)
    for _ in share.bar(f"encoding {facts['kind']}")(write_parts(work, mine, staging), rows):
        pass
    if not is_main:
        return f"{facts['kind']}: this process has done its share"
    for part in reversed(undone(staging, work.parts)):  # its owner comes from the other end
        if not is_done(staging, part):
            log.info("%s: doing part %d of another process", facts["kind"], part.number)
            list(write_parts(work, [part], staging))
    publish_parts(work, facts, staging, folder)
    return _describe(folder, share.shards)


def _tell_size(kind: str, work: Work, staging: Path) -> None:
    total = sum(part.bytes for part in work.parts)
    needed = sum(part.bytes for part in undone(staging, work.parts))
    free = shutil.disk_usage(staging).free
    rows = sum(len(part.rows) for part in work.parts)
    there = f", of which {_text(total - needed)} are there" if needed < total else ""
    log.info(f"{kind}: {rows:,} rows in {_text(total)}{there}; {_text(free)} are free")
    if needed > free:
        raise ValueError(
            f"the {kind} take {_text(needed)} more, and {staging.parent} has {_text(free)} free: "
            "set train.data.cache to a folder on another disk"
        )


def _describe(folder: Path, shards: ShardFolder) -> str:
    manifest = read_manifest(folder)
    size = sum(file["bytes"] for file in manifest["files"].values())
    kind, rows = manifest["made_of"]["kind"], manifest["rows"]
    line = f"{kind}: {rows:,} rows, {_text(size)}, in {folder}"
    broken = manifest["broken"]
    if broken:
        number, reason = next(iter(broken.items()))
        line += f"; {len(broken):,} cannot be read, such as {shards.key(int(number))} ({reason})"
    return line


def _text(size: int) -> str:
    return f"{size / 10**9:,.1f} GB" if size >= 10**9 else f"{size / 10**6:,.1f} MB"
