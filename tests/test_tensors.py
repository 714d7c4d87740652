"""Small questions to tensors."""

import math

import pytest
import torch

from semdis_cli.tensors import is_finite, is_out_of_memory


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 128, 16, 16), (0, 4)])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = torch.randn(shape).to(dtype)
    assert is_finite(values)
    flat = values.view(-1)
    for place in {0, len(flat) // 2, len(flat) - 1} if len(flat) else set():
        for bad in (math.nan, math.inf, -math.inf):
            before, flat[place] = flat[place].item(), bad
            assert not is_finite(values)
            assert not is_finite(values.transpose(0, -1))
            flat[place] = before


def test_the_largest_values_are_finite() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        limits = torch.finfo(dtype)
        assert is_finite(torch.tensor([limits.max, limits.min, limits.tiny, 0.0], dtype=dtype))


def test_a_lack_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    for text in (
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "GET was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
        "MPS backend out of memory (MPS allocated: 9.05 GB)",
    ):
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("The size of tensor a (2) must match the size of tensor b (3)"))
