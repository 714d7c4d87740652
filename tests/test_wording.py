"""Numbers in messages, as a person reads them."""

import pytest

from semdis_cli.wording import size


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0.0 KiB"),
        (512, "0.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (40 << 20, "40.0 MiB"),
        (205 << 20, "205 MiB"),
        (3 << 29, "1.5 GiB"),
        (5000 << 30, "5,000 GiB"),
    ],
)
def test_a_size_is_said_in_its_unit(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text
