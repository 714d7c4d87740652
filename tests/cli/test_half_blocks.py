"""Pictures in a terminal."""

import numpy as np
import pytest

from semdis_cli.cli.half_blocks import show_pair


@pytest.mark.parametrize(("height", "num_lines"), [(1, 1), (2, 1), (3, 2), (6, 3)])
def test_every_row_is_shown_the_last_of_an_odd_number_too(
    height: int, num_lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = np.zeros((height, 5, 3), np.uint8)
    show_pair(picture, picture)
    assert [line.count("\u2580") for line in capsys.readouterr().out.splitlines()] == [10] * num_lines
