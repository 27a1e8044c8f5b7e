"""The page that voters open: static, beside its pictures, which do not say whose they are."""

import json
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment
from PIL import Image

from cluster.run_folder import write_text
from evalfarm.vote.pairs import Key


def write_page(key: Key, out: Path) -> None:
    """Make the folder `out`: page.html and pictures/ for voters, key.json for whoever counts.

    ValueError if something is there already.
    """
    if out.exists():
        raise ValueError(f"{out} is there already: name a new folder by --out")
    shown = out / "page"
    (shown / "pictures").mkdir(parents=True)
    for number, pair in enumerate(key.pairs):
        for side, checkpoint, file in zip("ab", (pair.left, pair.right), pair.files, strict=True):
            with Image.open(Path(key.folders[checkpoint], file)) as picture:
                # Written anew, without its texts: those may say which weights made it.
                picture.convert("RGB").save(shown / "pictures" / f"{number:05d}{side}.png")
    template = files("evalfarm.vote").joinpath("page.html.j2").read_text()
    # Inside a script no text may end it.
    prompts = json.dumps([pair.text for pair in key.pairs]).replace("<", "\\u003c")
    page = (
        Environment(autoescape=True)
        .from_string(template)
        .render(suite=key.suite, seed=key.seed, digest=key.digest, prompts=prompts)
    )
    write_text(shown / "index.html", page)
    key.write(out)
