"""slurm/evalfarm.sh as typed: one job over three nodes, or jobs that join, leave and are lost."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from cluster.config import build
from cluster.run_folder import RunFolder, published_steps, read_json
from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.farm.generate import Generator
from evalfarm.farm.score import Scorer
from evalfarm.suite_files import load_suite
from tests.conftest import CHECKOUT, publish_lora_export, wait_until
from tests.integration.test_farm import rows
from tests.integration.test_slurm import START_TIMEOUT_S, Cluster, cluster, pytestmark

__all__ = ["cluster", "pytestmark"]  # the fixture, and where it is skipped

PROMPTS = [f"'{word}' in {ink}" for word in ("eel", "few", "gem", "net") for ink in "abcdefghij"]


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> RunFolder:
    """A run folder whose only export is its last."""
    suite = {
        "name": "quick",
        "prompts": PROMPTS,
        "metrics": ["clip_score"],
        "sampler_steps": 2,
        "height": 32,
        "width": 96,
    }
    (tmp_path / "quick.yaml").write_text(json.dumps(suite))
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.code.symlink_to(CHECKOUT)
    section = {
        "suites": [str(tmp_path / "quick.yaml")],
        "networks": {"clip": str(tiny_model / "clip")},
        "device": "cpu",
        "precision": "fp32",
        "batch": 2,
    }
    run.recipe.write_text(json.dumps({"name": "run", "eval": section}))
    publish_lora_export(run.export(8), tiny_model, 8, final=True, strength=0.5)
    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes as in Ray's actors: digits hang on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_farm_over_three_nodes_goes_on_when_one_is_lost(cluster: Cluster, run: RunFolder) -> None:
    number = cluster.sbatch(
        *("--nodes=3", "--gpus-per-node=0", "--cpus-per-task=1"),  # an actor takes a core
        *("slurm/evalfarm.sh", str(run.root)),
    )
    output = cluster.checkout / f"slurm-{number}.out"
    wait_until(lambda: scored(run) >= 4, START_TIMEOUT_S)
    assert output.read_text().count(" has joined") == 3
    head = cluster.job(number)["BatchHost"]
    lost, *_ = nodes_at_work(cluster) - {head}
    cluster.type("slurm/testbed", "crash", lost)
    assert scored(run) < len(PROMPTS)
    wait_until(lambda: (run.evaluation("quick") / "results.json").exists(), START_TIMEOUT_S)
    job = cluster.wait(number)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "0"), output.read_text()
    assert scored(run) == len(PROMPTS)
    assert '"event": "lost"' in (run.evaluations / "work.jsonl").read_text()
    wait_until(lambda: not nodes_at_work(cluster))  # no Ray is left behind
    wait_until(lambda: is_down(cluster, lost))  # until then SLURM would give it to the next test


@pytest.mark.usefixtures("one_thread")
def test_jobs_of_a_farm_join_leave_and_take_over_and_its_ledger_is_as_if_none_had(
    cluster: Cluster, run: RunFolder, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.rmtree(run.exports)  # they come while we watch
    recipe = read_json(run.recipe)
    run.recipe.write_text(json.dumps({**recipe, "eval": {**recipe["eval"], "scorers": 2}}))
    array = cluster.sbatch(
        # Three actors: too many for one node, but there is room for one of each kind.
        *("--array=0-1", "--exclusive", "--gpus-per-node=0", "--cpus-per-task=2"),
        *("--output=task-%a.out", "slurm/evalfarm.sh", str(run.root)),
    )
    wait_until(lambda: printed(cluster, "task-*", " has joined") == 2, START_TIMEOUT_S)
    (leads,) = (task for task in (0, 1) if printed(cluster, f"task-{task}", "the head of Ray is"))
    (other,) = {0, 1} - {leads}
    assert printed(cluster, f"task-{other}", f"job {array}_{leads} leads the farm") == 1

    # The other gives its actors; when its time is up it leaves, and comes back.
    places = {task: cluster.nodes_of(f"{array}_{task}")[0] for task in (0, 1)}
    publish_lora_export(run.export(8), tiny_model, 8, final=False, strength=0.5)
    wait_until(lambda: nodes_at_work(cluster) == set(places.values()), START_TIMEOUT_S)
    cluster.type("scancel", "--batch", "--signal=USR1", f"{array}_{other}")
    wait_until(lambda: scored(run) == len(PROMPTS), START_TIMEOUT_S)
    wait_until(lambda: printed(cluster, f"task-{other}", " has joined") == 2, START_TIMEOUT_S)

    # The first loses its node, and waits for another in vain: the other leads, and goes on alone.
    (spare,) = {*cluster.nodes} - {places[leads], *cluster.nodes_of(f"{array}_{other}")}
    cluster.type("scontrol", "update", f"nodename={spare}", "state=drain", "reason=kept")
    cluster.type("slurm/testbed", "crash", places[leads])
    # As SLURM says itself after half a minute.
    cluster.type("scontrol", "update", f"nodename={places[leads]}", "state=down", "reason=power")
    wait_until(lambda: printed(cluster, f"task-{other}", "the head of Ray is"), START_TIMEOUT_S)
    cluster.type("scancel", f"{array}_{leads}")
    publish_lora_export(run.export(16), tiny_model, 16, final=True, strength=0.5)
    job = cluster.wait(f"{array}_{other}", START_TIMEOUT_S)
    told = [(cluster.checkout / f"task-{other}.out").read_text(), run.farm_log.read_text()]
    told.append(cluster.controller_log())
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), "\n\n".join(told)
    assert rows(run) == rows(score_alone(run, tmp_path / "alone"))
    wait_until(lambda: not nodes_at_work(cluster))  # no Ray is left behind


def is_down(cluster: Cluster, node: str) -> bool:
    """Whether SLURM has found that a node is lost."""
    return "down" in cluster.type("sinfo", "-h", "--Node", "--nodes", node, "--format=%T")


def printed(cluster: Cluster, output: str, line: str) -> int:
    """How often jobs have printed something, into files of that name."""
    return sum(path.read_text().count(line) for path in cluster.checkout.glob(f"{output}.out"))


def score_alone(run: RunFolder, root: Path) -> RunFolder:
    """The exports of a run scored by one generator and one scorer, one after the other."""
    alone = RunFolder(root)
    config = build(EvalConfig, read_json(run.recipe)["eval"])
    generator, scorer = Generator(config), Scorer(config.networks)
    suite = load_suite(config.suites[0], config.suite_data)
    evaluation = Evaluation(suite, config, alone.evaluation(suite.name))
    for step, export in published_steps(run.exports):
        for _, unit in evaluation.units(evaluation.add_checkpoint(export, step, f"step {step}")):
            made = generator.run(unit)
            evaluation.ledger.commit(made.pictures, made.scores, made.worker)
            for _, look in evaluation.follow_up(unit):
                seen = scorer.run(look)
                evaluation.ledger.commit(seen.pictures, seen.scores, seen.worker)
    evaluation.close()
    return alone


def scored(run: RunFolder) -> int:
    """Pictures that have their score in the ledger."""
    path = run.evaluation("quick") / "ledger.sqlite"
    if not path.exists():
        return 0
    ledger = sqlite3.connect(path, timeout=30)
    try:
        query = "SELECT count(*) FROM scores WHERE status = 'ok'"
        return int(ledger.execute(query).fetchone()[0])
    except sqlite3.OperationalError:  # the table is not there yet
        return 0
    finally:
        ledger.close()


def nodes_at_work(cluster: Cluster) -> set[str]:
    """Where the farm's actors are that make and score pictures."""
    nodes = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended
            if " ".join(process.cmdline()).startswith(("ray::Generator", "ray::Scorer")):
                # Its raylet's: Ray writes an actor's title over the environment that one can see.
                variables = process.parent().environ()  # type: ignore[union-attr]
                if variables.get("SLURM_CONF") == cluster.environment["SLURM_CONF"]:
                    nodes.add(variables["SLURMD_NODENAME"])
    return nodes
