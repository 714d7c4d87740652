"""Gradients -> weights: which optimizer moves which tensor, at which rate, and the moving average of the weights."""

import torch
from torch import Tensor, nn

from semdis_cli.training.muon import Muon
from semdis_cli.training.settings import OptimizerSettings

# The linear maps at the model's ends, which a closed form has filled: they need smaller steps than what starts at zero.
_LINEAR_ENDS = ("patchify.proj", "to_bottleneck", "latent_up", "fuse_in", "fuse_skip", "out_proj")
# What the optimizers remember of each tensor, in its shape; "step" is a number.
_STATE_OF = {"AdamW": ("step", "exp_avg", "exp_avg_sq"), "Muon": ("momentum_buffer",)}
_BLOCK_MATRICES = ("pwconv1.weight", "pwconv2.weight")


class Optimizer:
    """Muon and AdamW side by side, under one schedule."""

    def __init__(self, model: nn.Module, settings: OptimizerSettings, num_steps: int) -> None:
        self._settings = settings
        self._num_steps = num_steps
        self._parameters = dict(model.named_parameters())
        self._matrices: dict[str, Tensor] = {}
        if settings.name == "muon":
            self._matrices = {
                # Muon takes matrices: a second view of the same memory
                name: parameter.detach().view(len(parameter), -1).requires_grad_()
                for name, parameter in self._parameters.items()
                if name.endswith(_BLOCK_MATRICES)
            }
        self._names = {tensor: name for name, tensor in (self._parameters | self._matrices).items()}
        rest = {name: tensor for name, tensor in self._parameters.items() if name not in self._matrices}
        ends = [name for name in rest if any(end in name for end in _LINEAR_ENDS)]
        groups = [
            {"params": [rest[name] for name in rest if name not in ends], "peak": settings.adamw_rate},
            {"params": [rest[name] for name in ends], "peak": settings.adamw_rate * settings.linear_rate_factor},
        ]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=settings.weight_decay)
        ]
        if self._matrices:
            group = {"params": list(self._matrices.values()), "peak": settings.muon_rate}
            self._optimizers.append(Muon([group], settings.weight_decay))

    def clip(self) -> Tensor:
        """Scale the gradients down to `clip_norm` if they are longer; return their norm before that, 0-dim."""
        return nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.clip_norm)

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def rate(self, step: int) -> float:
        """Return the part of the peak rate that step number `step` (from 0) takes."""
        return rate_factor(step, self._num_steps, self._settings.warmup_steps)

    def step(self, step: int) -> None:
        """Apply the gradients of step number `step` (from 0) and clear them."""
        factor = self.rate(step)
        for name, matrix in self._matrices.items():
            gradient = self._parameters[name].grad
            matrix.grad = None if gradient is None else gradient.view(matrix.shape)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
        self.clear()

    def state_tensors(self) -> dict[str, Tensor]:
        """Return all that the optimizers remember, under names that `load_state_tensors` takes."""
        return {
            f"{self._names[parameter]}:{key}": value
            for optimizer in self._optimizers
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state_tensors` gave. Raises `ValueError`, and changes nothing, if that was another's."""
        found: dict[Tensor, dict[str, Tensor]] = {}
        left = dict(tensors)
        for optimizer in self._optimizers:
            wanted = _STATE_OF[type(optimizer).__name__]
            for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
                name = self._names[parameter]
                state = {key: left.pop(f"{name}:{key}") for key in wanted if f"{name}:{key}" in left}
                if state:  # a parameter that never had a gradient has none
                    _check_state(name, parameter, state, wanted)
                    found[parameter] = state
        if left or (tensors and not found):
            raise ValueError(f"the state of another optimizer ({next(iter(left), 'nothing of ours')})")
        for optimizer in self._optimizers:
            own = (parameter for group in optimizer.param_groups for parameter in group["params"])
            optimizer.state.update({parameter: found[parameter] for parameter in own if parameter in found})


def _check_state(name: str, parameter: Tensor, state: dict[str, Tensor], wanted: tuple[str, ...]) -> None:
    shapes = {key: torch.Size() if key == "step" else parameter.shape for key in wanted}
    wrong = [key for key in wanted if key not in state or state[key].shape != shapes[key]]
    if wrong:
        raise ValueError(f"{name}: {', '.join(wrong)} missing or of another shape")


def rate_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """Return the part of the peak rate at `step` of 0..num_steps-1: up in `warmup_steps`, then straight down to 0."""
    warmup_steps = min(warmup_steps, num_steps // 10)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (num_steps - step) / (num_steps - warmup_steps)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Update the moving average of the weights in place; young ones forget faster: min(decay, (1+n)/(10+n))."""
    weight = 1.0 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)
