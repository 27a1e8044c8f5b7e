"""What the tests share: a tiny model, a few samples, recipes made of both, and programs to run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# Read by libraries when they are first imported.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# More threads than cores: none is to spin while it waits.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray gives its workers the least of a busy machine, and the tests beside would take it all.
os.environ.setdefault("RAY_worker_niceness", "0")

from cluster.exit_codes import ExitCode
from cluster.run_folder import AttemptFolder, RunFolder, read_json

CHECKOUT = Path(__file__).parents[1]
PATIENCE_S = 300.0  # only what hangs takes so long, however slow and busy the machine
# Files whose tests are not to run beside each other's.
TOGETHER = {"test_sweep": "test_slurm"}  # one SLURM of that file's


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest -n 3 --dist loadgroup` runs three files at a time, but only one of each group."""
    for item in items:
        group = TOGETHER.get(item.path.stem) if "integration" in item.path.parts else None
        item.add_marker(pytest.mark.xdist_group(group or item.path.stem))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of the mini model's shape, a hundredth of its size, with a CLIP in it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_model(folder)
    return folder


def save_tiny_model(folder: Path, autoencoder: tuple[int, ...] = (8, 8, 8, 8)) -> None:
    """Write such a model, with so many channels in its autoencoder."""
    import torch

    from trainer.mini.networks import Size, new_autoencoder, new_clip, new_tokenizer, save_model

    torch.manual_seed(0)
    size = Size(
        autoencoder=autoencoder,
        latent_channels=4,
        unet=(32, 32),
        text_dim=32,
        text_layers=1,
        vision_layers=1,
        shared_dim=8,
    )
    tokenizer = new_tokenizer(size.max_tokens)
    clip = new_clip(size, tokenizer)
    save_model(folder, size, new_autoencoder(size), clip, tokenizer)


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Inception in torch-fidelity's layout: random, but different pictures look different."""
    import torch
    from torch import nn

    from trainer.models.inception_v3 import InceptionV3

    torch.manual_seed(0)
    network = InceptionV3()
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.3, 1.3)
            nn.init.normal_(part.bias, std=0.2)
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    path = tmp_path_factory.mktemp("inception") / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(network.state_dict(), path)
    return path


def publish_lora_export(
    folder: Path, model: Path, step: int, *, final: bool, strength: float = 0.0
) -> None:
    """An export as a trainer publishes it, its adapter random and so strong."""
    import torch

    from cluster.run_folder import publish, staging_folder
    from trainer.config import LoraConfig
    from trainer.models.exports import save_export
    from trainer.models.trained import Trained

    config = train_config(model, unet="lora", lora=LoraConfig(rank=2))
    family = load_tiny(model)
    trained = Trained(family, config)
    torch.manual_seed(step)
    weights = {
        name: strength * torch.randn_like(weight)
        for name, weight in trained.named_parameters()
        if weight.requires_grad
    }
    staging = staging_folder(folder, attempt=0)
    staging.mkdir(parents=True)
    facts = save_export(
        staging, family, config, weights, prediction="v_prediction", dtype=torch.float32
    )
    publish(staging, folder, {**facts, "step": step, "final": final})


def load_tiny(model: Path) -> Any:
    """The networks of a model folder in fp32 on the CPU."""
    import torch

    from trainer.models.pipeline import load_family

    return load_family(str(model), device=torch.device("cpu"), dtype_of=lambda _: torch.float32)


def train_config(model: Path, **changes: Any) -> Any:
    """A whole train section around a model, for tests that train nothing."""
    from trainer.config import TrainConfig
    from trainer.data.config import DataConfig

    keys: dict[str, Any] = {
        "model": str(model),
        "data": DataConfig(path=model),
        "device": "cpu",
        "precision": "fp32",
        "steps": 1,
        "global_batch": 1,
    }
    return TrainConfig(**keys | changes)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 samples in two shards."""
    from cluster.config import to_dict
    from trainer.data.config import WordsConfig
    from trainer.data.shards import write_shards
    from trainer.data.words import draw_sample

    words = WordsConfig(samples=64)
    folder = tmp_path_factory.mktemp("data") / "words"
    samples = (draw_sample(words, number) for number in range(64))
    write_shards(samples, folder, {"words": to_dict(words)}, samples_per_shard=40)
    return folder


@pytest.fixture
def train_keys(tiny_model: Path, shards: Path) -> dict[str, Any]:
    """The train section of a recipe that takes seconds."""
    return {
        "model": str(tiny_model),
        "device": "cpu",
        "precision": "fp32",
        "data": {"path": str(shards)},
        "steps": 4,
        "global_batch": 8,
        "micro_batch": 2,
        "save_every": 2,
        "log_every": 1,
        "optim": {"lr": 1e-3},
        # At stage 3 it would look, once for each module, through all later ones: half of its time.
        "deepspeed": {"zero_optimization": {"stage3_max_reuse_distance": 0}},
    }


@pytest.fixture
def make_run(tmp_path: Path, train_keys: dict[str, Any]) -> Callable[..., RunFolder]:
    """Makes a run folder with a recipe in it; keyword arguments change its train section."""

    def make(name: str = "run", **changes: Any) -> RunFolder:
        run = RunFolder(tmp_path / name)
        run.root.mkdir()
        recipe = {"name": name, "train": train_keys | changes}
        run.recipe.write_text(json.dumps(recipe))  # JSON is YAML
        return run

    return make


def read_events(attempt: AttemptFolder, kind: str) -> list[dict[str, Any]]:
    """The events of a kind, in order; a line that is not whole yet is left out."""
    if not attempt.events.exists():
        return []
    lines = attempt.events.read_text().splitlines(keepends=True)
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in events if event["event"] == kind]


class Ranks:
    """Two ranks under a real agent, in the background."""

    def __init__(self, run: RunFolder, ranks: int = 2) -> None:
        self.run = run
        self.number = run.begin_attempt()
        self.attempt = run.attempt(self.number)
        trainer = [sys.executable, "-m", "trainer", "--config", str(run.recipe)]
        self.process = self._start([*trainer, "--attempt", str(self.number)], ranks)

    def _start(self, rank: Sequence[str], ranks: int) -> Any:
        """The agent's process; `rank`: what each rank runs."""
        agent = [sys.executable, "-m", "cluster.agent", "--run", str(self.run.root)]
        attempt = ["--attempt", str(self.number), "--ranks", str(ranks)]
        command = [*agent, *attempt, "--", *rank]
        return subprocess.Popen(command, cwd=CHECKOUT, start_new_session=True)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the end; the agent's exit code."""
        return self.process.wait(timeout_s)

    def wait_for_step(self, step: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait until `step` optimizer steps are done."""
        wait_until(lambda: step in self.losses() or self.process.poll() is not None, timeout_s)
        assert self.process.poll() is None, f"ended before step {step}: {self.log()}"

    def wait_for_checkpoint(self, step: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait until a checkpoint is published: a moment after its step."""
        published = self.run.checkpoint(step) / "manifest.json"
        wait_until(lambda: published.exists() or self.process.poll() is not None, timeout_s)
        assert published.exists(), f"ended before checkpoint {step}: {self.log()}"

    def kill_rank(self, rank: int) -> None:
        """SIGKILL one rank."""
        os.kill(read_json(self.attempt.heartbeat(rank))["pid"], signal.SIGKILL)

    def losses(self) -> dict[int, float]:
        """The loss of each step of this attempt, to the digit."""
        return {event["step"]: event["loss"] for event in self.events("step")}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind, in order."""
        return read_events(self.attempt, kind)

    def log(self, rank: int = 0) -> str:
        """What a rank printed."""
        path = self.attempt.rank_log(rank)
        return path.read_text() if path.exists() else ""


@pytest.fixture
def start_ranks() -> Iterator[Callable[..., Ranks]]:
    """Starts ranks on a run folder; what still runs when the test ends is killed."""
    yield from starting(Ranks)


def starting(kind: type[Ranks]) -> Iterator[Callable[..., Ranks]]:
    """What starts ranks of a kind; what still runs after that is killed."""
    started: list[Ranks] = []

    def start(run: RunFolder, ranks: int = 2) -> Ranks:
        started.append(kind(run, ranks))
        return started[-1]

    yield start
    for ranks in started:
        ranks.process.kill()  # its ranks die with it
        ranks.process.wait()


def kill_and_resume(
    start_ranks: Callable[..., Ranks], run: RunFolder, after: int
) -> tuple[Ranks, Ranks]:
    """Ranks of which one is killed once this checkpoint is there, and those that end the run."""
    killed = start_ranks(run)
    killed.wait_for_checkpoint(after)
    killed.kill_rank(1)
    assert killed.wait() == ExitCode.RETRY_ELSEWHERE
    resumed = start_ranks(run)
    assert resumed.wait() == ExitCode.DONE, resumed.log()
    assert min(resumed.losses()) > after  # it went on, it did not start over
    return killed, resumed


def wait_until(is_true: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait for a condition; fail if it does not come."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has who cloned the project, as links: tests leave their runs and data there."""
    return link_checkout(tmp_path_factory.mktemp("checkout"))


def link_checkout(folder: Path) -> Path:
    """Put there what a clone of the project holds, as links."""
    for name in ("launcher", "trainer", "evalfarm", "cluster", "slurm", "recipes", "assets"):
        (folder / name).symlink_to(CHECKOUT / name)
    return folder
