"""What is said of tokenizers beyond their own figures: pages to look at, latents, and generators trained on them."""
