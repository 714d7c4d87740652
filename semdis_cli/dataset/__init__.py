"""Room for trainers: `LatentDataset` and its sampler."""
