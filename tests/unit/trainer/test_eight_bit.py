"""AdamW's moments in 8 bits are saved and resumed to the digit, and read by any other layout."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cluster.run_folder import publish
from tests.conftest import train_config
from trainer.checkpoint import Checkpoint, Fragment, part_file, save_part
from trainer.config import OptimConfig
from trainer.engine import new_optimizer
from trainer.masters import Masters


def new_engine(eight_bit: bool, state: dict[str, Tensor] | None = None) -> Any:
    """A network that is large enough for codes, and its optimizer; as DeepSpeed at stage 0."""
    torch.manual_seed(0)
    network = nn.Linear(70, 90)
    if state:
        network.load_state_dict(state)
    config = train_config(Path("none"), optim=OptimConfig(lr=1e-2, eight_bit=eight_bit))
    return SimpleNamespace(
        module=network,
        optimizer=new_optimizer(network, config),
        zero_optimization_stage=lambda: 0,
    )


def take_steps(engine: Any, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(4, 70, generator=torch.Generator().manual_seed(step))
        engine.module(inputs).square().mean().backward()
        engine.optimizer.step()
        engine.optimizer.zero_grad()


def saved(engine: Any, folder: Path) -> Checkpoint:
    masters = Masters(engine, rank=0, ranks=1)
    tensors = {name: tensor.clone() for name, tensor in masters.saved().items()}
    staging = folder.with_suffix(".tmp")
    save_part(staging / part_file(0), tensors, masters.fragments)
    publish(staging, folder, {"step": 3, "shapes": masters.shapes, "history": {}})
    return Checkpoint(folder)


def test_a_run_goes_on_to_the_digit_and_others_read_its_moments(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="pip install -e .[eight-bit]; .ci/run does")
    whole = new_engine(eight_bit=True)
    take_steps(whole, range(3))
    checkpoint = saved(whole, tmp_path / "step-00000003")
    assert "exp_avg.codes" in checkpoint.kinds
    take_steps(whole, range(3, 6))

    resumed = new_engine(eight_bit=True, state=checkpoint.weights("master"))
    Masters(resumed, rank=0, ranks=1).load_moments(checkpoint)
    take_steps(resumed, range(3, 6))
    assert torch.equal(resumed.module.weight, whole.module.weight)
    assert torch.equal(resumed.module.bias, whole.module.bias)

    # Another layout reads values: near those that 32 bits would have.
    exact = new_engine(eight_bit=False)
    take_steps(exact, range(3))
    moment = exact.optimizer.state[exact.module.weight]["exp_avg"].flatten()[300:900]
    read = checkpoint.read("exp_avg", Fragment("weight", 300, 600, 0, 0))
    torch.testing.assert_close(read, moment, atol=0.05 * float(moment.abs().max()), rtol=0)


def test_without_bitsandbytes_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match=r"pip install .*eight-bit.*, or set it to false"):
        new_engine(eight_bit=True)
