"""Everything a curve has to remember to go on: weights, their average, optimizer, loss since the last point."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semdis_cli.errors import CheckpointError
from semdis_cli.evaluation.generator.dit import DiT
from semdis_cli.evaluation.generator.settings import GeneratorSettings
from semdis_cli.model.checkpoint import read_tensors, write_tensors
from semdis_cli.training.optimizer import update_average

_BETAS = 0.9, 0.999
_WARMUP_STEPS = 100
_MOMENTS = "exp_avg", "exp_avg_sq"


class GeneratorState:
    """A generator on its way. `step`: how many steps are done. `loss_sum`: 0-dim, of the steps since a point."""

    def __init__(self, model: DiT, settings: GeneratorSettings) -> None:
        self.step = 0
        self.model = model.train()
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.loss_sum = torch.zeros((), device=next(model.parameters()).device, dtype=torch.float64)
        self._settings = settings
        self._optimizer = torch.optim.AdamW(self.model.parameters(), betas=_BETAS, weight_decay=0.0)

    @property
    def num_bytes(self) -> int:
        """Bytes of a saved state: weights, average and two moments."""
        return 4 * sum(4 * parameter.numel() for parameter in self.model.parameters())

    def apply_gradients(self, loss: Tensor) -> None:
        """Take one step of the optimizer after `loss.backward()`, and let the average follow.

        Warmed up in 100 steps, the rate stays as it is: a curve is the same however long it goes on.
        """
        rate = self._settings.peak_rate * min(1.0, (self.step + 1) / _WARMUP_STEPS)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        update_average(self.average, self.model, self.step, self._settings.ema_decay)
        self.loss_sum += loss.detach()
        self.step += 1

    def save(self, path: Path, note: dict[str, Any]) -> None:
        """Publish the whole state as one file, with `note` beside it."""
        write_tensors(path, self._tensors(), {"step": self.step, "note": note})

    def load(self, path: Path) -> dict[str, Any]:
        """Load a file that `save` wrote; return its note. Raises `CheckpointError` if it is damaged or of another."""
        found, header = read_tensors(path)
        step, note = header.get("step"), header.get("note")
        if not isinstance(step, int) or not isinstance(note, dict):
            raise CheckpointError("not the state of a curve (no step in it)", place=path)
        if step:
            for parameter in self.model.parameters():  # as the optimizer makes them in its first step
                zeros = {name: torch.zeros_like(parameter) for name in _MOMENTS}
                self._optimizer.state[parameter] = {"step": torch.tensor(float(step)), **zeros}
        own = self._tensors()
        wrong = [name for name in own if name not in found or found[name].shape != own[name].shape]
        wrong += [name for name in found if name not in own]
        if wrong:
            raise CheckpointError(f"not the state of this curve ({', '.join(wrong[:3])})", place=path)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(found[name])
        self.step = step
        return note

    def _tensors(self) -> dict[str, Tensor]:
        """Return all tensors, to be read and written in place."""
        tensors = {"loss_sum": self.loss_sum}
        averages = self.average.get_parameter
        for name, parameter in self.model.named_parameters():
            tensors |= {f"model:{name}": parameter, f"average:{name}": averages(name)}
            remembered = self._optimizer.state.get(parameter, {})
            tensors |= {f"{moment}:{name}": remembered[moment] for moment in _MOMENTS if moment in remembered}
        return tensors
