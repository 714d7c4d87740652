"""Quality that can be seen and compared: what latents hold, and pages and pictures of it."""
