"""Figures and pictures of images that came back: taken, kept until a run is complete, summed up."""
