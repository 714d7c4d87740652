"""The sequence header of an AV1 stream (AV1 specification, 5.5): its colours, for files whose boxes do not say them."""

_SEQUENCE_HEADER = 1
_MOST_UNITS = 16
_SELECT = 2


class _Bits:
    """Bits of `data`, the highest first. Raises `ValueError` at its end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise ValueError("the sequence header is cut off")
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def take_exp_golomb(self) -> int:
        """Read a number as section 4.10.3, uvlc(), has it."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros >= 32:
                return (1 << 32) - 1
        return self.take(zeros) + (1 << zeros) - 1


def sequence_colour(stream: bytes) -> tuple[int, int] | None:
    """Read primaries and transfer of the first sequence header among the units of `stream`; None if it says none."""
    try:
        header = _first_header(stream)
        return None if header is None else _colour(_Bits(header))
    except (ValueError, IndexError):
        return None


def _first_header(stream: bytes) -> bytes | None:
    """Find the payload of the first sequence header (5.3: open bitstream units)."""
    at = 0
    for _ in range(_MOST_UNITS):
        if at >= len(stream):
            return None
        kind, has_extension, has_size = stream[at] >> 3 & 15, stream[at] >> 2 & 1, stream[at] >> 1 & 1
        at += 1 + has_extension
        size, at = _leb128(stream, at) if has_size else (len(stream) - at, at)
        if kind == _SEQUENCE_HEADER:
            return stream[at : at + size]
        at += size
    return None


def _leb128(stream: bytes, at: int) -> tuple[int, int]:
    """Read a number (4.10.5); also returns the position behind it."""
    value = 0
    for shift in range(0, 56, 7):
        value |= (stream[at] & 127) << shift
        at += 1
        if stream[at - 1] < 128:
            break
    return value, at


def _colour(bits: _Bits) -> tuple[int, int] | None:
    """Read section 5.5.1 up to color_config (5.5.2)."""
    profile, _, is_reduced = bits.take(3), bits.take(1), bits.take(1)
    if is_reduced:
        bits.take(5)
    else:
        _skip_timing(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    bits.take(width_bits + height_bits)
    if not is_reduced and bits.take(1):  # frame ids
        bits.take(4 + 3)
    bits.take(3)  # 128x128 blocks, filter intra, intra edge filter
    if not is_reduced:
        _skip_tools(bits)
    bits.take(3)  # super resolution, CDEF, restoration
    is_deep = bits.take(1)
    if profile == 2 and is_deep:
        bits.take(1)
    if profile != 1:
        bits.take(1)  # grey
    if not bits.take(1):
        return None
    return bits.take(8), bits.take(8)


def _skip_timing(bits: _Bits) -> None:
    """Skip from timing_info_present_flag to the operating points (5.5.1, 5.5.3, 5.5.4, 5.5.5)."""
    has_decoder_model, delay_bits = False, 0
    if bits.take(1):
        bits.take(64)
        if bits.take(1):
            bits.take_exp_golomb()
        has_decoder_model = bool(bits.take(1))
        if has_decoder_model:
            delay_bits = bits.take(5) + 1
            bits.take(32 + 5 + 5)
    has_initial_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if has_decoder_model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_initial_delay and bits.take(1):
            bits.take(4)


def _skip_tools(bits: _Bits) -> None:
    """Skip the switches of the coding tools (5.5.1)."""
    bits.take(4)  # interintra, masked compound, warped motion, dual filter
    has_order_hint = bits.take(1)
    if has_order_hint:
        bits.take(2)
    forces_screen = _SELECT if bits.take(1) else bits.take(1)
    if forces_screen and not bits.take(1):  # seq_choose_integer_mv
        bits.take(1)
    if has_order_hint:
        bits.take(3)
