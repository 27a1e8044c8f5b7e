"""Small sources, made up for the tests."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import CHECKOUT

# Files of other projects, which are not ours to carry along.
REAL_SAMPLES = Path(os.environ.get("LETTERPRESS_SAMPLES", CHECKOUT.parent / "shared" / "data"))
needs_real_samples = pytest.mark.skipif(
    not REAL_SAMPLES.exists(), reason=f"LETTERPRESS_SAMPLES: no real samples in {REAL_SAMPLES}"
)


def picture(kind: str = "png", width: int = 20, height: int = 10) -> bytes:
    """A red picture of this format."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def write_download(folder: Path, shard: int, rows: list[dict[str, Any]], failed: int = 0) -> Path:
    """A shard as img2dataset writes it: the tar, and beside it the record of the shard."""
    files: dict[str, bytes] = {}
    for number, row in enumerate(rows):
        key = f"{shard:05d}{number:04d}"
        info = {"url": f"http://x/{key}", "caption": "red", "key": key, "status": "success", **row}
        files[f"{key}.jpg"] = picture("jpeg")
        files[f"{key}.txt"] = str(info["caption"]).encode()
        files[f"{key}.json"] = json.dumps(info).encode()
    stats = {"count": len(rows) + failed, "successes": len(rows), "failed_to_download": failed}
    tar = write_tar(folder / f"{shard:05d}.tar", files)
    (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats | {"failed_to_resize": 0}))
    return tar
