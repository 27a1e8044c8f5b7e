"""Starting a rank where it cannot run is answered at once."""

import pytest
import torch

from trainer.distributed import RANK_VARIABLES, import_deepspeed, start


def test_a_rank_without_the_agents_variables_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="MASTER_PORT not set: a rank is started by `letterpress"):
        start("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_not_replaced_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.setenv(name, "0")
    with pytest.raises(ValueError, match=r"train\.device is cuda, but torch sees no GPU here"):
        start("cuda")


def test_torch_compiles_as_before_once_deepspeed_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    before = torch.compile
    assert import_deepspeed("cpu").__name__ == "deepspeed"
    assert torch.compile is before
