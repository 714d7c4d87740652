"""A page that shows images, their reconstructions and the figures: one HTML file that a browser opens from disk."""
