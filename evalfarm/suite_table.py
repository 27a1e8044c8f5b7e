"""The suites there are, as a table: what each asks, and what it lacks on this machine."""

from collections.abc import Iterator, Sequence

import evalfarm.metrics  # noqa: F401  # registers them
from cluster.table import align
from evalfarm.config import EvalConfig
from evalfarm.metrics.base import get
from evalfarm.suite import Suite
from evalfarm.suite_files import SuiteConfig, read_suite, with_prompts

HEAD = ("", "prompts", "pictures", "sampler", "steps", "guidance", "size", "metrics")
UNKNOWN = "–"


def suite_table(names: Sequence[str], config: EvalConfig) -> str:
    """A row for each suite, and below them a line for each thing that one lacks."""
    configs = [read_suite(name) for name in names]
    rows: list[Sequence[str]] = [HEAD]
    notes: list[str] = []
    for suite_config in configs:
        try:
            suite = with_prompts(suite_config, config.suite_data)
        except ValueError as error:
            suite = None
            notes.append(str(error))
        rows.append(_row(suite_config, suite))
        notes += _lacking_metrics(suite_config, config)
    return "\n".join([*align(rows), *notes])


def _row(config: SuiteConfig, suite: Suite | None) -> tuple[str, ...]:
    return (
        config.name,
        str(len(suite.prompts)) if suite else UNKNOWN,
        str(len(suite.items())) if suite else UNKNOWN,
        config.sampler,
        str(config.sampler_steps),
        f"{config.guidance:g}",
        f"{config.width}x{config.height}",
        " ".join(config.metrics),
    )


def _lacking_metrics(suite: SuiteConfig, config: EvalConfig) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for spec in suite.metrics:
        reason = get(spec, config.networks).absent()
        if reason:
            by_reason.setdefault(reason, []).append(spec)
    for reason, specs in by_reason.items():
        yield f"suite {suite.name}: without {', '.join(specs)}: {reason}"
