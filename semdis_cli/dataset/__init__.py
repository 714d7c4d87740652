"""What trainers import: `LatentDataset` and its sampler."""
