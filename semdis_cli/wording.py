"""Numbers in messages."""


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 image`, `1,200 images`; `plural`: where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
