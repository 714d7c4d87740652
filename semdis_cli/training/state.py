"""Everything a run has to remember to go on: weights, their average, optimizer, latent statistics, step number."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semdis_cli.errors import CheckpointError
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.checkpoint import read_tensors, write_tensors
from semdis_cli.training.alignment import AlignmentHead
from semdis_cli.training.latent_stats import RunningLatentStats
from semdis_cli.training.optimizer import Optimizer, update_average
from semdis_cli.training.settings import TrainingSettings

_OPTIMIZER = "optimizer:"  # what the names of its tensors begin with


class TrainingState:
    """A model on its way. `step`: how many steps are done. `head`: the alignment head, if that term is on.

    The average and the statistics of latents may be a step behind, until `follow`.
    """

    def __init__(self, model: FCDMDiffAE, head: AlignmentHead | None, settings: TrainingSettings) -> None:
        self.step = 0
        self.model = model.requires_grad_(True).train()
        self.head = head
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        trained = nn.ModuleDict({"model": self.model})
        if head is not None:
            trained["head"] = head
        self.optimizer = Optimizer(trained, settings.optimizer, settings.num_steps)
        self.stats = RunningLatentStats(model.config.latent_channels, model.device)
        self._latents: Tensor | None = None  # of the step that the average and the statistics have yet to follow
        self._ema_decay = settings.optimizer.ema_decay
        self._weights_dtype = getattr(torch, settings.weights_dtype)

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the model alone."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def num_bytes(self) -> int:
        """Estimate the bytes of a saved state and its checkpoint: weights, average, two moments, checkpoint."""
        return 5 * sum(4 * tensor.numel() for tensor in self._tensors().values()) // 2

    def apply_gradients(self, latents: Tensor) -> None:
        """Take one optimizer step, of a batch with these raw `latents` [B,Z,h,w]. `follow` was called since."""
        assert self._latents is None, "the average has yet to follow the last step"
        self.optimizer.step(self.step)
        self.step += 1
        self._latents = latents.detach()

    def follow(self) -> None:
        """Let the average and the statistics follow the last step, if they have not yet."""
        if self._latents is not None:
            update_average(self.average, self.model, self.step - 1, self._ema_decay)
            self.stats.add(self._latents)
            self._latents = None

    def save_model(self, folder: Path, latent_stats: tuple[Tensor, Tensor] | None = None) -> None:
        """Publish the averaged weights, with `latent_stats` (mean and variance [Z]) or else the running ones."""
        measured = latent_stats or self.stats.mean_and_var()
        if measured is not None:
            self.average.latent_norm_running_mean.copy_(measured[0])
            self.average.latent_norm_running_var.copy_(measured[1])
            self.average.has_latent_stats = True
        stored = copy.deepcopy(self.average).to(self._weights_dtype)
        stored.save_pretrained(folder)

    def save(self, path: Path, note: dict[str, Any]) -> None:
        """Publish the whole state as one file, with `note` beside it."""
        write_tensors(path, self._tensors() | self._optimizer_tensors(), {"step": self.step, "note": note})

    def load(self, path: Path) -> dict[str, Any]:
        """Load a file that `save` wrote; return its note. Raises `CheckpointError` if it is damaged or of another."""
        tensors, header = read_tensors(path)
        step, note = header.get("step"), header.get("note")
        if not isinstance(step, int) or not isinstance(note, dict):
            raise CheckpointError("not the state of a run (no step in it)", place=path)
        own, optimizer = self._tensors(), self._optimizer_part(tensors)
        wrong = [name for name, tensor in own.items() if name not in tensors or tensors[name].shape != tensor.shape]
        wrong += [name for name in tensors if name not in own and not name.startswith(_OPTIMIZER)]
        if step and not optimizer:
            wrong.append("nothing of the optimizer")
        if wrong:
            raise CheckpointError(f"not the state of this run ({', '.join(wrong[:3])})", place=path)
        try:
            self.optimizer.load_state_tensors(optimizer)
        except ValueError as error:
            raise CheckpointError(f"not the state of this run ({error})", place=path) from error
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        self.step = step
        return note

    def _optimizer_part(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Select the tensors of the optimizer, on the device where it wants them: step numbers on the CPU."""
        return {
            name.removeprefix(_OPTIMIZER): tensor if name.endswith(":step") else tensor.to(self.model.device)
            for name, tensor in tensors.items()
            if name.startswith(_OPTIMIZER)
        }

    def _tensors(self) -> dict[str, Tensor]:
        """Return the tensors that exist from the start, to be read and written in place."""
        modules: dict[str, nn.Module] = {"model": self.model, "average": self.average}
        if self.head is not None:
            modules["head"] = self.head
        own = {
            f"{prefix}:{name}": tensor
            for prefix, module in modules.items()
            for name, tensor in module.state_dict().items()
        }
        return own | {f"stats:{name}": tensor for name, tensor in self.stats.tensors.items()}

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        return {f"{_OPTIMIZER}{name}": tensor for name, tensor in self.optimizer.state_tensors().items()}
