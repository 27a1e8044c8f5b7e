"""The driver's own decisions, with pools that start nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.exit_codes import MachineFault
from evalfarm.config import EvalConfig
from evalfarm.evaluation import GENERATORS, REPORTERS, SCORERS, picture_folder
from evalfarm.farm.driver import Farm, Plan
from evalfarm.farm.pool import Pool
from evalfarm.rows import Checkpoint
from evalfarm.work import Result
from trainer.models.named import find_named


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """Of the suite mini, with nothing to score yet."""
    names = (GENERATORS, SCORERS, REPORTERS)
    pools = [Pool(name, object, most=1, recycle_after=1) for name in names]
    opened = Farm(EvalConfig(suites=("mini",)), tmp_path, pools)
    yield opened
    opened.close()


def finish(farm: Farm, digest: str) -> None:
    """Let a checkpoint be one of which nothing is left to do."""
    checkpoint = Checkpoint(checkpoint=digest, kind="weights", step=0, name=digest, path="p")
    farm._plans["mini", digest] = Plan(checkpoint, 1)
    farm._conclude("mini")


def report(**complete: bool) -> Result:
    """One that says which checkpoints are complete."""
    row = {"name": "a", "values": {}, "n_scored": 1, "n_expected": 1}
    rows = [{**row, "checkpoint": name, "complete": done} for name, done in complete.items()]
    return Result(results={"columns": [], "rows": rows})


def reports_asked(farm: Farm) -> int:
    return farm.dispatcher.pools[REPORTERS].waiting


def test_what_becomes_whole_while_a_report_is_made_is_told_by_the_next(farm: Farm) -> None:
    finish(farm, "a")
    finish(farm, "b")
    assert reports_asked(farm) == 1
    farm._tell("mini", report(a=True, b=False))
    assert reports_asked(farm) == 2
    farm._tell("mini", report(a=True, b=True))
    assert reports_asked(farm) == 2
    farm.check_told()


def test_a_report_that_tells_nothing_new_is_not_made_again_and_again(farm: Farm) -> None:
    finish(farm, "a")
    farm._tell("mini", report(a=False))
    assert reports_asked(farm) == 1
    with pytest.raises(MachineFault, match="its report could not be made"):
        farm.check_told()


def test_a_blend_is_a_checkpoint_of_its_own_with_pictures_of_its_own(
    farm: Farm, tiny_model: Path
) -> None:
    blends = [f"{tiny_model}*{share}+{tiny_model}*{rest}" for share, rest in ((0.7, 0.3), (2, -1))]
    for path in (str(tiny_model), *blends):
        farm.add(path, step=None, name=find_named(path).name)
    plans = {plan.checkpoint.name: plan for plan in farm._plans.values()}
    assert [*plans] == ["tiny", "tiny*0.7+tiny*0.3", "tiny*2.0+tiny*-1.0"]
    assert {plan.to_make for plan in plans.values()} == {plans["tiny"].expected}
    assert len({picture_folder(plan.checkpoint) for plan in plans.values()}) == len(plans)
    farm.add(f"{tiny_model}*.70+{tiny_model}*0.30", step=None, name="spelt in another way")
    assert len(farm._plans) == len(plans)
