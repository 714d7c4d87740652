"""The model's arithmetic: against what is published, and against what PyTorch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from semdis_cli.model.config import FCDMDiffAEConfig
from semdis_cli.model.decoder import DecoderGrid, DecoderSteps
from semdis_cli.model.flops import decode_flops, decode_flops_with_reuse, encode_flops
from tests.worlds import tiny_config, tiny_model

PUBLISHED = FCDMDiffAEConfig()
TINY_CHANGES = {"decoder_depth": 6, "decoder_start_blocks": 2, "depthwise_kernel_size": 5}
HEIGHT, WIDTH = 64, 96


def conditioning_flops(config: FCDMDiffAEConfig) -> int:
    """Of the time embedding and AdaLN for one row: what the functions leave out."""
    C, rank = config.model_dim, config.adaln_low_rank_rank
    return 2 * (256 * C + C * C + C * 2 * C + config.decoder_depth * (C * rank + rank * 2 * C))


def test_the_published_model_costs_54_mflop_to_encode_a_patch_and_113_a_decoder_step() -> None:
    assert encode_flops(PUBLISHED, 16, 16) == pytest.approx(53.7e6, rel=0.01)
    assert decode_flops(PUBLISHED, 16, 16) == pytest.approx(112.9e6, rel=0.001)
    assert encode_flops(PUBLISHED, 256, 512) == 512 * encode_flops(PUBLISHED, 16, 16)


@torch.no_grad()
def test_encoding_counts_what_torch_counts() -> None:
    model = tiny_model(**TINY_CHANGES)
    with FlopCounterMode(display=False) as counter:
        model.encode_posterior(torch.zeros(1, 3, HEIGHT, WIDTH))
    assert encode_flops(model.config, HEIGHT, WIDTH) == counter.get_total_flops()


@torch.no_grad()
@pytest.mark.parametrize("drop_middle_blocks", [False, True])
def test_decoding_counts_what_torch_counts(drop_middle_blocks: bool) -> None:
    model = tiny_model(**TINY_CHANGES)
    x_t, z = torch.zeros(1, 3, HEIGHT, WIDTH), torch.zeros(1, 8, HEIGHT // 16, WIDTH // 16)
    with FlopCounterMode(display=False) as counter:
        model.decoder(x_t, torch.ones(1), z, drop_middle_blocks=drop_middle_blocks)
    counted = counter.get_total_flops() - conditioning_flops(model.config)
    whole = decode_flops(model.config, HEIGHT, WIDTH)
    guided = decode_flops(model.config, HEIGHT, WIDTH, pdg=True)
    assert counted == (guided - whole if drop_middle_blocks else whole)


@torch.no_grad()
@pytest.mark.parametrize("pdg", [False, True])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_decoding_with_reuse_counts_what_torch_counts(num_steps: int, pdg: bool) -> None:
    model = tiny_model(**TINY_CHANGES)
    x_t, z = torch.zeros(1, 3, HEIGHT, WIDTH), torch.zeros(1, 8, HEIGHT // 16, WIDTH // 16)
    with FlopCounterMode(display=False) as counter:
        steps = DecoderSteps(DecoderGrid(model.decoder, torch.linspace(1, 0.1, num_steps)), z)
        for step in range(num_steps):
            _ = steps.predict_both(x_t, step) if pdg else steps.predict(x_t, step)
    counted = counter.get_total_flops() - num_steps * conditioning_flops(model.config)
    assert decode_flops_with_reuse(model.config, HEIGHT, WIDTH, num_steps, pdg=pdg) == counted


def test_reuse_saves_nothing_in_one_step_and_a_fifth_of_ten_guided_ones() -> None:
    assert decode_flops_with_reuse(PUBLISHED, 256, 256) == decode_flops(PUBLISHED, 256, 256)
    anew, reused = (f(PUBLISHED, 256, 256, 10, pdg=True) for f in (decode_flops, decode_flops_with_reuse))
    assert 0.18 < 1 - reused / anew < 0.22


def test_a_deterministic_encoder_has_half_the_head() -> None:
    deterministic = tiny_config(bottleneck_posterior_kind="deterministic")
    assert encode_flops(tiny_config(), 16, 16) - encode_flops(deterministic, 16, 16) == 2 * 32 * 8
