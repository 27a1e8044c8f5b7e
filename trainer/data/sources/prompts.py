"""Lists of prompts, for tuning by rewards: samples without a picture."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cluster.rows import Row, read_rows
from trainer.data.config import PromptsConfig
from trainer.data.shards import SAMPLES_PER_SHARD
from trainer.data.tars import Job, Part, write_part

PROMPT_COLUMNS = ("prompt", "prompts", "text", "caption")
Prompt = tuple[str, str, Row]  # key, prompt, the other columns


def inputs(config: PromptsConfig) -> list[Path]:
    """The list."""
    return [config.path]


def plan(config: PromptsConfig, _: Path) -> list[Job]:
    """A job for each shard of prompts to write."""
    prompts, left_out = _read(config)
    jobs: list[Job] = []
    for start in range(0, max(len(prompts), 1), SAMPLES_PER_SHARD):
        chunk = prompts[start : start + SAMPLES_PER_SHARD]
        jobs.append(partial(_write, chunk, left_out if start == 0 else Counter()))
    return jobs


def _read(config: PromptsConfig) -> tuple[list[Prompt], Counter[str]]:
    rows = list(read_rows(config.path))
    column = _column(config, rows)
    seen: set[str] = set()
    prompts: list[Prompt] = []
    left_out: Counter[str] = Counter()
    for number, row in enumerate(rows):
        prompt = " ".join(str(row.get(column) or "").split())
        if not prompt or prompt in seen:
            left_out["repeated" if prompt else "empty"] += 1
            continue
        seen.add(prompt)
        others = {key: value for key, value in row.items() if key != column}
        prompts.append((f"{number:09d}", prompt, others))
    return prompts, left_out


def _column(config: PromptsConfig, rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if config.column:
        found = [column for column in columns if column == config.column]
    else:
        known = {column.lower(): column for column in reversed(columns)}
        found = [known[name] for name in PROMPT_COLUMNS if name in known]
    if found:
        return found[0]
    raise ValueError(
        f"{config.path} has no column {config.column or ' or '.join(PROMPT_COLUMNS)}: set "
        f"prompts.column to one of {', '.join(columns) or 'none, for it is empty'}"
    )


def _write(prompts: Sequence[Prompt], left_out: Counter[str], tar: Path) -> Part:
    samples = (
        (key, {"txt": prompt.encode(), "json": _info(others)}) for key, prompt, others in prompts
    )
    return write_part(tar, samples, Counter(left_out), pictures=False)


def _info(others: Row) -> bytes:
    return json.dumps({"metadata": others}, default=str).encode()
