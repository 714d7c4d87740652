"""Independent re-derivations that the package is tested against."""
