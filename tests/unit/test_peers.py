"""The peers of the parity tests can be imported, and leave nothing behind."""

import sys
from importlib.util import find_spec

import pytest
import torch
from transformers.utils import is_torchvision_available

from tests.peers import FOLDER, peer

HAS_TORCHVISION = find_spec("torchvision") is not None


@pytest.mark.parametrize("name", ["torch_fidelity", "lpips", "open_clip"])
def test_a_peer_is_imported_and_no_stand_in_stays(name: str) -> None:
    assert str(FOLDER) in str(peer(name).__file__)
    assert str(FOLDER) not in sys.path
    assert is_torchvision_available() == HAS_TORCHVISION
    assert (find_spec("torchvision") is not None) == HAS_TORCHVISION


@pytest.mark.parametrize(("net", "layers"), [("alex", 5), ("vgg", 5)])
def test_lpips_looks_through_a_trunk_of_random_weights(net: str, layers: int) -> None:
    torch.manual_seed(0)
    lpips = peer("lpips").LPIPS(net=net, pnet_rand=True, pretrained=False, verbose=False)
    black, noise = torch.zeros(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        distance, parts = lpips(black, noise, retPerLayer=True)
        assert float(lpips(black, black)) == 0 != float(distance)
    assert len(parts) == layers


def test_open_clip_builds_a_model_and_tokens() -> None:
    torch.manual_seed(0)
    open_clip = peer("open_clip")
    vision = open_clip.model.CLIPVisionCfg(layers=1, width=64, patch_size=16, image_size=32)
    text = open_clip.model.CLIPTextCfg(layers=1, width=64, heads=4)
    model = open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).eval()
    assert model.encode_text(open_clip.tokenize(["a word"])).shape == (1, 16)
