"""What a submission would start, without starting it."""

from pathlib import Path

from cluster.config import to_yaml
from launcher.recipe import Recipe
from launcher.slurm.farm import farm_script
from launcher.slurm.submit import job_script
from launcher.slurm.sweep import array_script
from launcher.sweep import Sweep


def show(recipe: Recipe, root: Path, on: str) -> None:
    """What would run: the job's script, or the recipe with every default spelled out."""
    if on == "slurm":
        print(job_script(recipe, root.absolute()), end="", flush=True)
        if recipe.eval and recipe.slurm and recipe.slurm.farm:
            print(f"\n{farm_script(recipe, root.absolute())}", end="", flush=True)
    else:
        where = f"each of {recipe.ranks.nodes} nodes of Ray" if on == "ray" else "this machine"
        print(f"# would run in {root.absolute()}, {recipe.ranks.per_node} ranks on {where}")
        print(to_yaml(recipe), end="", flush=True)


def show_sweep(sweep: Sweep, root: Path, on: str, at_once: int | None) -> None:
    """What would run: the array's script, and the runs' own; or their recipes."""
    recipes = sweep.recipes
    if on == "slurm":
        print(array_script(sweep, root.absolute(), at_once))
        print("# And in the folder of each of them its own job.sh, such as the first one's:\n")
        recipes = recipes[:1]
    for number, recipe in enumerate(recipes):
        print("---\n" if number else "", end="")
        show(recipe, root / recipe.name, on)
