"""Small questions to tensors that several rooms ask."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# As CUDA and Metal, the CPU, cuBLAS, and cuDNN say it, which finds no engine where none gets the memory it works in, or
# supports none for a tensor that is too large.
_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "alloc_failed", "unable to find an engine"),
    "cudnn_status_not_supported",
)


def is_finite(values: "Tensor") -> bool:
    """Tell whether no value of a floating-point tensor is NaN or infinite.

    One pass and no copies: `isfinite().all()` takes fifteen times as long.
    """
    if values.numel() == 0:
        return True
    return all(math.isfinite(bound) for bound in values.aminmax())  # NaN anywhere makes NaN of both


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error of torch's says that there is no memory, on any device."""
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def wait_for_device(device: "torch.device") -> None:
    """Wait for what this thread has given the current stream of a GPU, and for nothing else; on a CPU it is done."""
    if device.type != "cuda":
        return
    import torch

    done = torch.cuda.Event(blocking=True)  # waiting for a stream would keep a core busy that reads images
    done.record(torch.cuda.current_stream(device))
    done.synchronize()
