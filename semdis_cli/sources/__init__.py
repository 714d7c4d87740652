"""Sources of images: folders, tars, lists, pipes; and under which keys."""
