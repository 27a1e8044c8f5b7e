"""The run folder: every path of a run, and the only code that writes there.

A file is written under a temporary name and renamed. A folder counts only once its manifest is
there and agrees with what lies beside it. So a kill at any moment leaves what was complete before.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
LATEST = "LATEST"
SUPERSEDED = ".superseded.tmp"
HASH_CHUNK_BYTES = 1 << 20

Permit = Callable[[], None]
"""Asked right before something published is changed; it raises to refuse (cluster/fence.py)."""


def anyone() -> None:
    """The permit of what belongs to no attempt."""


class BrokenFolder(ValueError):
    """A published folder that is incomplete or differs from its manifest."""


class RunFolder:
    """Where everything of one run lies (docs/design.md, "The run folder")."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()
        self.recipe = self.root / "recipe.yaml"
        self.code = self.root / "code"
        self.state = self.root / "state.json"
        self.job_script = self.root / "job.sh"
        self.farm_script = self.root / "farm.sh"
        self.stop_request = self.root / "STOP"
        self.attempts = self.root / "attempts"
        self.checkpoints = self.root / "checkpoints"
        self.exports = self.root / "exports"
        self.tensorboard = self.root / "tensorboard"
        self.evaluations = self.root / "eval"
        self.farm_heads = self.evaluations / "heads"
        self.farm_log = self.evaluations / "farm.log"

    @classmethod
    def existing(cls, root: str | Path) -> "RunFolder":
        """The run folder at `root`; ValueError if there is none."""
        run = cls(root)
        if not run.recipe.is_file():
            raise ValueError(f"{root} is not a run folder: it holds no recipe.yaml")
        return run

    def attempt(self, number: int) -> "AttemptFolder":
        """The folder of one attempt to run; attempts are never reused."""
        return AttemptFolder(self.attempts / f"{number:03d}")

    def begin_attempt(self) -> int:
        """Make the next attempt's folder and return its number, also when two begin at once."""
        number = 0
        while True:
            try:
                self.attempt(number).root.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return number

    def last_attempt(self) -> int | None:
        """The number of the newest attempt; None before the first."""
        numbers = [int(path.name) for path in self.attempts.glob("[0-9]*")]
        return max(numbers, default=None)

    def checkpoint(self, step: int) -> Path:
        """Everything needed to resume after `step` optimizer steps."""
        return self.checkpoints / step_name(step)

    def export(self, step: int) -> Path:
        """Inference weights after `step` optimizer steps."""
        return self.exports / step_name(step)

    def evaluation(self, suite: str) -> Path:
        """Ledger, images and report of one suite."""
        return self.evaluations / suite

    def verdict(self, suite: str) -> Path:
        """A suite's numbers by step, as the trainer reads them: to stop early, to keep the best."""
        return self.evaluation(suite) / "verdict.json"

    def request_stop(self, reason: str) -> None:
        """Ask the ranks to save at the next step boundary and leave; the first to ask is kept."""
        if not self.stop_request.exists():
            write_text(self.stop_request, reason + "\n")

    def clear_stop_request(self) -> None:
        """Forget a stop that has been obeyed."""
        self.stop_request.unlink(missing_ok=True)


class AttemptFolder:
    """Where one attempt leaves its logs and records."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.number = int(root.name)
        self.events = root / "events.jsonl"
        self.rendezvous = root / "rendezvous.json"
        self.hang = root / "hang.json"
        self.preflight = root / "preflight.json"

    def preflight_of(self, host: str) -> Path:
        """What a node found out about itself before the attempt."""
        return self.root / f"preflight-{host}.json"

    def preflight_log(self, host: str) -> Path:
        """What a node's all-reduces printed before the attempt."""
        return self.root / f"preflight-{host}.log"

    def node_record(self, host: str) -> Path:
        """How each rank of one node ended."""
        return self.root / f"node-{host}.json"

    def node_records(self) -> list[dict[str, Any]]:
        """The records of the nodes that have ended."""
        return [read_json(path) for path in sorted(self.root.glob("node-*.json"))]

    def has_ended(self) -> bool:
        """Whether a node has ended, and so all will."""
        return bool(self.node_records())

    def rank_log(self, rank: int) -> Path:
        """What a rank printed."""
        return self.root / f"rank-{rank:04d}.log"

    def stacks(self, rank: int) -> Path:
        """Where a rank stood when the ranks hung."""
        return self.root / f"stacks-rank-{rank:04d}.txt"

    def heartbeat(self, rank: int) -> Path:
        """What a rank is doing: step, phase, loss, speed."""
        return self.root / "heartbeat" / f"rank-{rank:04d}.json"


def step_name(step: int) -> str:
    """The folder name of a step: names sort as steps do."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step in a folder's name."""
    return int(folder.name.removeprefix("step-"))


def write_text(path: Path, text: str) -> None:
    """Replace a file whole: readers see the old text or the new, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes, permit: Permit = anyone) -> None:
    """As `write_text`, for bytes. `permit` may refuse at the last moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of two nodes may have one number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        permit()
        temporary.replace(path)
    except Exception:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """As `write_text`, for a value that JSON can hold."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text())


def staging_folder(final: Path, attempt: int) -> Path:
    """Where to write what will be published as `final`; names of attempts do not meet."""
    return final.with_name(f".{final.name}.attempt-{attempt:03d}.tmp")


def recover(parent: Path) -> None:
    """Undo what killed attempts had half done among the step folders in `parent`."""
    for superseded in parent.glob(f".step-*{SUPERSEDED}"):
        final = parent / superseded.name.removeprefix(".").removesuffix(SUPERSEDED)
        if not final.exists():  # the kill came before its successor was in its place
            superseded.rename(final)
    for path in parent.glob(".step-*.tmp"):
        # At once: a superseded attempt could publish what is half removed.
        swept = path.with_name(f"{path.name.removesuffix('.tmp')}.swept.tmp")
        with contextlib.suppress(FileNotFoundError):  # it has published it before we came
            path.rename(swept)
        shutil.rmtree(swept, ignore_errors=True)
    for path in parent.glob(f".{LATEST}.*.tmp"):
        path.unlink(missing_ok=True)


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, which is on the disk for good when this returns."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def files_below(folder: Path) -> list[str]:
    """The relative names of all files in a folder, its manifest left out."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MANIFEST)


def publish(
    staging: Path,
    final: Path,
    facts: Mapping[str, Any],
    fingerprints: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    latest: bool = True,
    permit: Permit = anyone,
) -> None:
    """Turn a staged folder into `final` with its manifest, and point LATEST beside it there.

    `facts` are what a reader wants to know without opening the files. `fingerprints` spares
    hashing here what the ranks have hashed already. `permit` may refuse at the last moment.
    """
    if fingerprints is None:
        fingerprints = {name: fingerprint(staging / name) for name in files_below(staging)}
    write_json(staging / MANIFEST, {**facts, "files": dict(sorted(fingerprints.items()))})
    final.parent.mkdir(parents=True, exist_ok=True)
    superseded = final.with_name(f".{final.name}{SUPERSEDED}")
    permit()
    with contextlib.suppress(FileNotFoundError):
        final.rename(superseded)
    try:
        staging.rename(final)
    except FileNotFoundError:  # a newer attempt has just swept it away
        with contextlib.suppress(FileNotFoundError):
            superseded.rename(final)
        permit()
        raise
    _sync_folder(final.parent)
    if latest:
        point_latest(final, permit)
    shutil.rmtree(superseded, ignore_errors=True)


def point_latest(folder: Path, permit: Permit = anyone) -> None:
    """Make LATEST name `folder`, if it does not yet."""
    latest, name = folder.parent / LATEST, folder.name + "\n"
    if not latest.exists() or latest.read_text() != name:
        # Once it is permitted a newer attempt sweeps away what would set back its own.
        try:
            write_bytes(latest, name.encode(), permit)
        except FileNotFoundError:
            permit()
            raise


def remove_step(folder: Path, permit: Permit = anyone) -> None:
    """Remove a published folder; after a kill it is there, whole, or it is not."""
    removed = folder.with_name(f".{folder.name}.removed.tmp")
    permit()
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """A published folder's manifest; BrokenFolder if there is none that can be read."""
    try:
        manifest = read_json(folder / MANIFEST)
    except FileNotFoundError:
        raise BrokenFolder(f"{folder} has no {MANIFEST}: it was never published") from None
    except ValueError:
        raise BrokenFolder(f"{folder / MANIFEST} is not JSON") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise BrokenFolder(f"{folder / MANIFEST} lists no files")
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, if all its files agree with it; else BrokenFolder names one."""
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise BrokenFolder(f"{path} is missing, though the manifest lists it")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise BrokenFolder(f"{path} has {size} bytes, the manifest says {expected['bytes']}")
        if fingerprint(path)["sha256"] != expected["sha256"]:
            raise BrokenFolder(f"{path} is not the file that was published: its SHA-256 differs")
    return manifest


def published_steps(parent: Path) -> list[tuple[int, Path]]:
    """The published step folders, oldest first; none of their files is checked."""
    folders = [path for path in parent.glob("step-*") if (path / MANIFEST).is_file()]
    return sorted((step_of(path), path) for path in folders if re.fullmatch(r"step-\d+", path.name))


def newest_complete(parent: Path) -> tuple[Path | None, list[str]]:
    """The newest step folder that agrees with its manifest, and why newer ones were passed over."""
    passed_over: list[str] = []
    for _, folder in reversed(published_steps(parent)):
        try:
            verify(folder)
        except BrokenFolder as error:
            passed_over.append(str(error))
        else:
            return folder, passed_over
    return None, passed_over


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
