"""A run that was stopped and goes on is the run that was never stopped, and no other file passes for its state."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from semdis_cli.errors import CheckpointError
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.checkpoint import read_tensors, write_tensors
from semdis_cli.training.alignment import AlignmentHead
from semdis_cli.training.settings import LossSettings, OptimizerName, OptimizerSettings, TrainingSettings
from semdis_cli.training.state import TrainingState
from semdis_cli.training.step import align, draw, forward, generator_for
from tests.worlds import tiny_model

Tensors = dict[str, Tensor]
both = pytest.mark.parametrize("name", ["muon", "adamw"])
NOTE = {"loss": 0.125, "steps": 3.0}
NUM_FEATURES = 6


def settings_of(name: OptimizerName) -> TrainingSettings:
    return TrainingSettings(
        num_steps=40,
        loss=LossSettings(one_step_share=0.5, path_drop=0.5),
        optimizer=OptimizerSettings(name=name, warmup_steps=3),
    )


def start(name: OptimizerName = "muon", seed: int = 0, *, has_head: bool = False, **changes: Any) -> TrainingState:
    """A run that has not begun, in the memory format of `semdis train`."""
    model = tiny_model(seed, **{"model_dim": 16, "patch_size": 8, **changes})
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = None
    if has_head:
        head = AlignmentHead(model.config.latent_channels, NUM_FEATURES, 16, head_dim=8, mlp_ratio=1.0)
        head = head.initialise(generator_for(seed, "head", 0))
    return TrainingState(model, head, settings_of(name))


def run(state: TrainingState, count: int, name: OptimizerName = "muon") -> TrainingState:
    """Do `count` steps, of which each depends on the state's step number alone."""
    settings = settings_of(name)
    for _ in range(count):
        images = torch.rand(2, 3, 32, 32, generator=generator_for(0, "images", state.step)) * 2 - 1
        draws = draw(state.model, images, settings.loss, generator_for(0, "noise", state.step))
        result = forward(state.model, images, draws, settings.loss)
        loss = result.loss
        if state.head is not None:
            features = torch.randn(2, NUM_FEATURES, 4, 4, generator=generator_for(0, "features", state.step))
            chance = generator_for(0, "alignment", state.step)
            loss = loss + align(state.head, features, result.latents, chance)
        loss.backward()
        state.optimizer.clip()
        state.apply_gradients(result.posterior.mode())
        state.follow()
    return state


def everything(state: TrainingState) -> Tensors:
    """Copies of all tensors that decide how the run goes on."""
    tensors = {f"model {name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"average {name}": tensor for name, tensor in state.average.state_dict().items()}
    tensors |= {f"stats {name}": tensor for name, tensor in state.stats.tensors.items()}
    tensors |= {f"optimizer {name}": tensor for name, tensor in state.optimizer.state_tensors().items()}
    if state.head is not None:
        tensors |= {f"head {name}": tensor for name, tensor in state.head.state_dict().items()}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_same(actual: TrainingState, expected: TrainingState) -> None:
    """Bit for bit."""
    ours, theirs = everything(actual), everything(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name
    assert actual.step == expected.step


def refusal(state: TrainingState, path: Path) -> str:
    """The one line with which a file is refused; the state stays as it was."""
    before, step = everything(state), state.step
    with pytest.raises(CheckpointError) as caught:
        state.load(path)
    after = everything(state)
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name
    assert state.step == step
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    assert len(message) < 2000
    return message


@pytest.fixture(scope="module")
def saved_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a run with Muon and without a head, after two steps."""
    path = tmp_path_factory.mktemp("saved") / "training.safetensors"
    run(start(), 2).save(path, NOTE)
    return path.read_bytes()


@pytest.fixture
def saved(saved_bytes: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "training.safetensors"
    path.write_bytes(saved_bytes)
    return path


# --- going on -------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("has_head", [False, True], ids=["without a head", "with a head"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, name: OptimizerName, has_head: bool
) -> None:
    path = tmp_path / "training.safetensors"
    unbroken = run(start(name, has_head=has_head), 3, name)
    unbroken.save(path, NOTE)  # which changes nothing: the unbroken run is compared with what follows
    other = start(name, seed=1, has_head=has_head)
    assert other.load(path) == NOTE
    assert other.step == 3
    assert_same(other, unbroken)
    for state in (unbroken, other):
        run(state, 2, name)
    assert unbroken.step == 5
    assert_same(other, unbroken)


def test_steps_change_everything_that_is_learned() -> None:
    """Or the test above would show nothing."""
    state = start(has_head=True)
    before = everything(state)
    run(state, 2)
    after = everything(state)
    fixed = ("freqs", "latent_norm_running_mean", "latent_norm_running_var")
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) == name.endswith(fixed), name


def test_what_a_run_did_before_it_was_loaded_is_forgotten(saved: Path) -> None:
    state = run(start(seed=1), 1)
    state.load(saved)
    assert_same(run(state, 1), run(start(), 3))


def test_loaded_tensors_are_not_shared_between_runs(saved: Path) -> None:
    one, other = start(seed=1), start(seed=2)
    for state in (one, other):
        state.load(saved)
    run(one, 1)
    other_again = start(seed=3)
    other_again.load(saved)
    assert_same(other, other_again)


def test_rates_come_from_the_settings_of_the_run_that_goes_on(saved: Path) -> None:
    still = dataclasses.replace(settings_of("muon"), optimizer=OptimizerSettings(muon_rate=0, adamw_rate=0))
    state = TrainingState(start(seed=1).model, None, still)
    state.load(saved)
    before = everything(state)
    run(state, 1)
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, before[f"model {name}"]), name


def test_equal_states_are_equal_bytes(saved_bytes: bytes, tmp_path: Path) -> None:
    run(start(), 2).save(tmp_path / "again.safetensors", dict(reversed(NOTE.items())))
    assert (tmp_path / "again.safetensors").read_bytes() == saved_bytes


def test_a_state_of_step_0_can_be_saved_too(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    start().save(path, {})
    state = start(seed=1)
    assert state.load(path) == {}
    assert_same(run(state, 1), run(start(), 1))


# --- the average and the checkpoint ---------------------------------------------------------------------------------


def test_the_model_is_trained_and_the_average_is_a_copy_that_is_not() -> None:
    state = start()
    assert state.model.training
    assert all(parameter.requires_grad for parameter in state.model.parameters())
    assert not state.average.training
    assert not any(parameter.requires_grad for parameter in state.average.parameters())
    own = {tensor.data_ptr() for tensor in state.model.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in state.average.state_dict().values()}
    assert state.num_parameters == sum(parameter.numel() for parameter in start(has_head=True).model.parameters())


def test_the_average_follows_the_weights() -> None:
    state = start()
    expected = {name: parameter.detach().double() for name, parameter in state.model.named_parameters()}
    for kept in (0.1, 2 / 11, 3 / 12):
        run(state, 1)
        for name, parameter in state.model.named_parameters():
            expected[name] = kept * expected[name] + (1 - kept) * parameter.detach().double()
    for name, parameter in state.average.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-5, atol=1e-7)


def test_the_checkpoint_holds_the_average_and_the_statistics_of_the_latents(tmp_path: Path) -> None:
    state = run(start(), 2)
    state.save_model(tmp_path)
    model = FCDMDiffAE.from_pretrained(tmp_path)
    measured = state.stats.mean_and_var()
    assert measured is not None
    assert torch.equal(model.latent_norm_running_mean, measured[0])
    assert torch.equal(model.latent_norm_running_var, measured[1])
    average = dict(state.average.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, average[name]), name


def test_before_the_first_step_the_checkpoint_is_the_model_it_started_from(tmp_path: Path) -> None:
    state = start()
    expected = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    state.save_model(tmp_path)
    for name, tensor in FCDMDiffAE.from_pretrained(tmp_path).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


# --- files that are something else ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 1e-5, 1e-3, 0.5, 0.99])
def test_a_file_cut_short_is_refused(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    refusal(start(seed=1), saved)


def test_a_file_without_its_last_byte_or_with_one_more_is_refused(saved: Path) -> None:
    data = saved.read_bytes()
    for damaged in (data[:-1], data + b"\0"):
        saved.write_bytes(damaged)
        refusal(start(seed=1), saved)


@pytest.mark.parametrize("data", [b"no state", bytes(1000), b"\xff" * 1000, b"{}"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "training.safetensors"
    path.write_bytes(data)
    refusal(start(seed=1), path)


def test_a_file_that_is_gone_and_a_folder_in_its_place_are_refused(tmp_path: Path) -> None:
    refusal(start(), tmp_path / "gone.safetensors")
    refusal(start(), tmp_path)


def rewrite(path: Path, change: Callable[[Tensors, dict[str, Any]], object]) -> None:
    """Apply `change` to the tensors and the note of a saved state."""
    tensors, note = read_tensors(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors, note)
    write_tensors(path, tensors, note)


def test_a_rewritten_file_is_still_read(saved: Path) -> None:
    """Or the tests below would show nothing."""
    rewrite(saved, lambda *_: None)
    state = start(seed=1)
    assert state.load(saved) == NOTE
    assert_same(state, run(start(), 2))


@pytest.mark.parametrize(
    "name",
    [
        "model:encoder.to_bottleneck.weight",
        "average:decoder.out_proj.bias",
        "stats:weight",
        "model:decoder.time_embed.freqs",
    ],
)
def test_a_missing_tensor_is_named(saved: Path, name: str) -> None:
    rewrite(saved, lambda tensors, _: tensors.pop(name))
    assert name in refusal(start(seed=1), saved)


def test_a_tensor_of_another_shape_is_named(saved: Path) -> None:
    rewrite(saved, lambda tensors, _: tensors.update({"stats:total": torch.zeros(9, dtype=torch.float64)}))
    assert "stats:total" in refusal(start(seed=1), saved)


NOTES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no step": lambda note: note.pop("step"),
    "no note": lambda note: note.pop("note"),
    "a step in words": lambda note: note.update(step="three"),
    "half a step": lambda note: note.update(step=2.5),
    "a list for a note": lambda note: note.update(note=[1, 2]),
}


@pytest.mark.parametrize("change", NOTES.values(), ids=NOTES)
def test_a_header_without_step_or_note_is_refused(saved: Path, change: Callable[[dict[str, Any]], object]) -> None:
    rewrite(saved, lambda _, note: change(note))
    refusal(start(seed=1), saved)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"text"', "no JSON"])
def test_a_header_that_is_no_object_is_refused(saved: Path, text: str) -> None:
    save_file({name: tensor.clone() for name, tensor in load_file(saved).items()}, saved, {"semdis": text})
    refusal(start(seed=1), saved)


def test_a_checkpoint_is_no_state(tmp_path: Path) -> None:
    start().save_model(tmp_path)
    refusal(start(), tmp_path / "model.safetensors")


def test_a_flipped_bit_is_noticed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 0x10
    saved.write_bytes(data)
    refusal(start(seed=1), saved)


# --- files of another run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"model_dim": 20}, {"encoder_depth": 3}, {"bottleneck_dim": 6}], ids=str)
def test_the_state_of_another_model_is_refused(saved: Path, changes: dict[str, Any]) -> None:
    refusal(start(**changes), saved)


def test_the_state_of_a_deeper_model_is_refused(tmp_path: Path) -> None:
    """It holds all that the shallower one asks for."""
    path = tmp_path / "training.safetensors"
    start(encoder_depth=3).save(path, NOTE)
    refusal(start(), path)


def test_a_state_without_the_head_is_refused(saved: Path) -> None:
    assert "head:" in refusal(start(has_head=True), saved)


def test_a_state_with_a_head_too_many_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    run(start(has_head=True), 1).save(path, NOTE)
    refusal(start(), path)


@pytest.mark.parametrize(("stored", "asked"), [("muon", "adamw"), ("adamw", "muon")])
def test_the_state_of_another_optimizer_is_refused(tmp_path: Path, stored: OptimizerName, asked: OptimizerName) -> None:
    path = tmp_path / "training.safetensors"
    run(start(stored), 1, stored).save(path, NOTE)
    refusal(start(asked), path)


def test_a_state_whose_optimizer_has_forgotten_everything_is_refused(saved: Path) -> None:
    def forget(tensors: Tensors, _: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith("optimizer:")]:
            del tensors[name]

    rewrite(saved, forget)
    refusal(start(seed=1), saved)


def test_an_optimizers_tensor_of_another_shape_is_refused(saved: Path) -> None:
    name = "optimizer:model.decoder.path_drop_mask_feature:exp_avg"
    rewrite(saved, lambda tensors, _: tensors.update({name: torch.zeros(3)}))
    refusal(start(seed=1), saved)
