"""Writing a set of latents: plan, shards, journal, growth, publication."""
