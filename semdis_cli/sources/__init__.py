"""Where images come from: folders, tars, lists, pipes; and under which keys."""
