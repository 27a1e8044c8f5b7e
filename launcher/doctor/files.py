"""What the recipe names: its model, data and networks, its suites, and OCR's models."""

import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from cluster.ask import Answer, ask
from cluster.config import to_yaml
from cluster.run_folder import MANIFEST, write_text
from launcher.doctor.finding import Finding, lacks, not_needed, ok, unanswered
from launcher.missing import missing_files
from launcher.recipe import Recipe

CODE = Path(__file__).parents[2]
OCR_FILES = "PP-OCRv6_*_small.onnx"  # detection and recognition, trainer/models/ocr.py
OCR_NETWORKS = 2
ON_THE_HUB = re.compile(r"(?:^|: )(\S+/\S+) is neither a path nor in the Hugging Face cache")


def ask_farm(recipe: Recipe, folder: Path, timeout_s: float) -> Answer:
    """What the farm says that the recipe's suites lack; nothing if it has none."""
    if recipe.eval is None:
        return Answer(text="")
    config = folder / "recipe.yaml"
    write_text(config, to_yaml(recipe))
    command = [sys.executable, "-m", "evalfarm", "suites", *recipe.eval.suites]
    return ask(
        [*command, "--config", str(config)],
        timeout_s=timeout_s,
        environment={"PYTHONPATH": str(CODE)},
    )


def file_findings(recipe: Recipe, farm: Answer) -> Iterator[Finding]:
    """Rows on what the recipe names, those that are there first."""
    missing = [_as_finding(line) for line in missing_files(recipe)]
    lacking = {finding.what for finding in missing}
    if "train.model" not in lacking:
        yield ok("train.model", _short(recipe.train.model))
    if not any(what.startswith("train.data") for what in lacking):
        yield ok("train.data", _data(recipe.train.data.path))
    yield from missing
    yield from farm_findings(recipe, farm)
    yield _ocr_models(recipe)


def farm_findings(recipe: Recipe, farm: Answer) -> Iterator[Finding]:
    """A row for each suite of the recipe, or for each thing that one lacks."""
    if recipe.eval is None:
        yield not_needed("suites", "the recipe has no eval section")
    elif farm.text is None:
        yield unanswered("suites", farm, "`python -m evalfarm suites` says what is wrong")
    else:
        lines = re.findall(r"^(suite .*)$", farm.text, re.MULTILINE)
        yield from (_as_finding(line, r"suite [\w-]+") for line in lines)
        if not lines:
            yield ok("suites", f"{', '.join(recipe.eval.suites)}: prompts and networks are there")


def _as_finding(line: str, name: str = r"\S+") -> Finding:
    """A line that names a thing, says what is wrong with it, and after a last colon what to do."""
    named = re.match(name, line)
    assert named is not None, line
    fault, _, mend = line[named.end() :].lstrip(": ").rpartition(": ")
    fault = fault or "it is not whole"
    hub = ON_THE_HUB.search(fault)
    if hub:
        owner, model, *file = hub[1].split("/")
        mend = f"`hf download {' '.join([f'{owner}/{model}', '/'.join(file)]).strip()}`, or {mend}"
    return lacks(named[0], fault, mend)


def _ocr_models(recipe: Recipe) -> Finding:
    reward, what = recipe.train.reward, "OCR models"
    wanted = recipe.eval or recipe.train.objective.ocr or (reward and "ocr" in reward.rewards)
    spec = find_spec("rapidocr")
    models = Path(spec.origin).parent / "models" if spec and spec.origin else None
    found = sorted(models.glob(OCR_FILES)) if models else []
    if len(found) == OCR_NETWORKS:
        return ok(what, f"PP-OCRv6 small, {_megabytes(found)}, in the rapidocr wheel")
    if not wanted:
        return not_needed(what, "rapidocr, whose wheel has them, is not whole here")
    return lacks(what, "they come with rapidocr", "pip install -c constraints.txt rapidocr")


def _data(path: Path) -> str:
    """Where the samples are; what is not there is built from its sources."""
    built = (path / MANIFEST).is_file()
    return _short(path) + ("" if built else ", which is made when the run starts")


def _short(path: str | Path) -> str:
    """A path as it would be typed here; a hub name as it is."""
    below = Path(path).is_relative_to(Path.cwd())
    return str(Path(path).relative_to(Path.cwd()) if below else path)


def _megabytes(files: list[Path]) -> str:
    return f"{sum(file.stat().st_size for file in files) / 1e6:.0f} MB"
