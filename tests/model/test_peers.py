"""Peers from folders: what is loaded, and what is refused before anything of it is believed."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from semdis_cli.errors import CheckpointError, MissingExtraError
from semdis_cli.model.peers import PEERS, WEIGHTS_FILE, PublishedPeer, load_peer
from semdis_cli.settings.contenders import PeerName
from tests.peers import save_tiny_peer

CPU = torch.device("cpu")


def load(folder: Path, name: PeerName = "sd") -> PublishedPeer:
    """Load a peer in float32."""
    return load_peer(name, folder, CPU, torch.float32, f"--compare {name}")


def write_peer(folder: Path, config: Any, weights: bytes = b"") -> Path:
    """Write what lies in the folder of a peer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    (folder / WEIGHTS_FILE).write_bytes(weights)
    return folder


def change_config(folder: Path, **fields: Any) -> None:
    """Change fields in a config."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_computes_as_its_own_class_does(name: PeerName, tmp_path: Path) -> None:
    network = save_tiny_peer(name, tmp_path / "peer")
    images = torch.randint(256, (1, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = load(tmp_path / "peer", name)
    assert (found.class_name, found.downsampling) == (PEERS[name].class_name, 2)
    assert len(found.sha256) == 64
    assert found.widths == (8, 16)
    assert found.least_bytes_per_px == 3 * 16 * 4
    with torch.inference_mode():
        encoded = network.encode(images.float() / 127.5 - 1)
        latents = encoded.latent if name == "dcae" else encoded.latent_dist.mode()
        decoded = ((network.decode(latents).sample + 1) * 127.5).round().clamp(0, 255)
    assert latents.shape == (1, 4, 16, 24)
    torch.testing.assert_close(found.peer.encode(images), latents, atol=1e-5, rtol=1e-4)
    assert (found.peer.decode(latents).float() - decoded).abs().max() <= 1


def test_a_peer_within_a_pipeline_is_found(tmp_path: Path) -> None:
    save_tiny_peer("sd", tmp_path / "pipeline" / "vae")
    assert load(tmp_path / "pipeline").sha256 == load(tmp_path / "pipeline" / "vae").sha256


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder; give one with config\.json and"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no config\.json of diffusers; give one with"):
        load(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = write_peer(tmp_path / "peer", {"_class_name": "AutoencoderKL"})
    (folder / WEIGHTS_FILE).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=rf"has no {WEIGHTS_FILE}, which alone is read \(never pickled weights\)"):
        load(folder)


def test_weights_are_not_looked_for_where_an_index_says(tmp_path: Path) -> None:
    folder = write_peer(tmp_path / "peer", {"_class_name": "AutoencoderKL"})
    (folder / f"{WEIGHTS_FILE}.index.json").write_text('{"weight_map": {"a": "../../elsewhere.bin"}}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="has weights in several files, of which none is read"):
        load(folder)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"_class_name": "AutoencoderDC"}, "is of the class 'AutoencoderDC', not 'AutoencoderKL'"),
        ([1], "is of the class None, not 'AutoencoderKL'"),
        ("{", "is no JSON of a config"),
        ("[" * 100_000, "is no JSON of a config"),
        ('{"a": ' * 2000 + "1" + "}" * 2000, "is no JSON of a config"),
        ({"_class_name": "AutoencoderKL", "quantization_config": {"quant_method": "gguf"}}, "is of quantised weights"),
        ({"_class_name": "AutoencoderKL", "block_out_channels": [8, 10**9]}, "has numbers or lists that no Auto"),
        ({"_class_name": "AutoencoderKL", "layers_per_block": 1000}, "has numbers or lists that no Auto"),
        ({"_class_name": "AutoencoderKL", "down_block_types": ["DownEncoderBlock2D"] * 100}, "has numbers or lists"),
        ('{"_class_name": "AutoencoderKL", "latent_channels": Infinity}', "has numbers or lists that no Auto"),
    ],
    ids=range(10),
)
def test_a_config_is_not_believed(config: Any, reason: str, tmp_path: Path) -> None:
    folder = write_peer(tmp_path / "peer", config)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_weights_of_another_size_are_refused_before_they_are_allocated(tmp_path: Path) -> None:
    save_tiny_peer("sd", tmp_path)
    change_config(tmp_path, block_out_channels=[8, 32768])
    with pytest.raises(CheckpointError, match=r"has [\d,]+ numbers, but config\.json is of \d[\d,]{12,}"):
        load(tmp_path)


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    save_tiny_peer("sd", tmp_path)
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    tensors["stranger"] = tensors.pop("encoder.conv_in.weight")
    save_file(tensors, tmp_path / WEIGHTS_FILE, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"encoder\.conv_in\.weight"):
        load(tmp_path)


def test_weights_that_are_damaged_are_refused(tmp_path: Path) -> None:
    save_tiny_peer("sd", tmp_path)
    path = tmp_path / WEIGHTS_FILE
    tensors = load_file(path)
    tensors["encoder.conv_in.weight"].fill_(float("nan"))
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        load(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(tmp_path)


def test_without_its_package_a_peer_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as if it were not installed
    folder = write_peer(tmp_path / "peer", {"_class_name": "AutoencoderKL"})
    with pytest.raises(MissingExtraError, match=r"--compare sd needs diffusers: pip install 'semdis\[peers\]'"):
        load(folder)
