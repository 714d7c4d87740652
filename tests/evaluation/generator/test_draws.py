"""Chance is that of seed, step and key: nothing of a set of latents is in it."""

import torch

from semdis_cli.evaluation.generator.draws import Draws, noise_of


def test_times_and_hidden_labels_are_those_of_seed_and_step() -> None:
    one = Draws.of_step(3, 7, 512, 0.1)
    same, other_step, other_seed = (Draws.of_step(seed, step, 512, 0.1) for seed, step in ((3, 7), (3, 8), (4, 7)))
    assert torch.equal(one.t, same.t)
    assert torch.equal(one.is_hidden, same.is_hidden)
    assert not torch.equal(one.t, other_step.t)
    assert not torch.equal(one.t, other_seed.t)
    assert 0 <= float(one.t.min()) < 0.02
    assert 0.98 < float(one.t.max()) < 1
    assert 25 < int(one.is_hidden.sum()) < 80
    assert not Draws.of_step(3, 7, 512, 0.0).is_hidden.any()


def test_equal_shapes_meet_equal_noise_and_the_neighbours_do_not_matter() -> None:
    keys, latents = ["a", "b", "c"], torch.zeros(3, 4, 4, 4)
    noise = noise_of("step 1", 0, keys, latents)
    assert torch.equal(noise[1:2], noise_of("step 1", 0, ["b"], latents[:1]))
    assert not torch.equal(noise, noise_of("step 2", 0, keys, latents))
    assert not torch.equal(noise, noise_of("step 1", 1, keys, latents))


def test_other_shapes_meet_noise_of_the_same_words() -> None:
    """A quarter of the values are sums of four normal numbers each, made of one word: the first words are the same."""
    small, large = (noise_of("step 1", 0, ["a"], torch.zeros(1, 2, side, side)).flatten() for side in (4, 8))
    assert torch.equal(small[:8], large[:8])
    assert abs(float(large.std()) - 1) < 0.2
