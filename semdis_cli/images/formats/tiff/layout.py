"""Layout and kind of the samples of a TIFF, and the kinds that Pillow gets wrong (TIFF 6.0)."""

from dataclasses import dataclass

from semdis_cli.errors import UnreadableImageError
from semdis_cli.kinds.tiff_directories import COMPRESSION, HEIGHT, PHOTOMETRIC, WIDTH, Directory, TiffReader

BITS, FILL_ORDER, STRIP_OFFSETS, NUM_SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANES = 258, 266, 273, 277, 278, 279, 284
PREDICTOR, COLOUR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 317, 320, 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT, YCC_WEIGHTS, YCC_SUBSAMPLING, REFERENCE_LEVELS = 338, 339, 529, 530, 532

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCC, CIE_LAB, ICC_LAB = 0, 1, 2, 3, 5, 6, 8, 9
_NUM_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCC: 3, CIE_LAB: 3, ICC_LAB: 3}
NONE, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 8, 32946, 32773
_UNSIGNED, _UNDEFINED = 1, 4
_LZW, _LZMA, _ZSTD = 5, 34925, 50000
_COMPRESSIONS = frozenset({NONE, _LZW, DEFLATE, OLD_DEFLATE, PACKBITS, _LZMA, _ZSTD})
_DEPTHS = frozenset(range(1, 17))
_MAX_SAMPLES = 8
_LARGEST_PART_PX = 1 << 24  # of a tile, which may reach over the edge
USUAL_LEVELS = {RGB: (0.0, 255.0) * 3, YCC: (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)}


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of a TIFF's samples. `bits`, `formats`: of each sample of a pixel. `part`: (height, width) in px."""

    size: tuple[int, int]
    bits: tuple[int, ...]
    formats: tuple[int, ...]
    photometric: int
    compression: int
    predictor: int
    extra: tuple[int, ...]
    has_planes: bool
    is_reversed: bool
    is_tiled: bool
    part: tuple[int, int]
    subsampling: tuple[int, int]  # across, down
    levels: tuple[float, ...]

    @property
    def num_samples(self) -> int:
        """Number of samples of a pixel."""
        return len(self.bits)

    @property
    def is_planar(self) -> bool:
        """Tell whether the samples of a pixel lie apart from each other."""
        return self.has_planes and self.num_samples > 1

    @property
    def num_colours(self) -> int:
        """Number of samples of a pixel that are colour; the others are alpha, or mean nothing."""
        return _NUM_COLOURS.get(self.photometric, 0)


def read_layout(reader: TiffReader, directory: Directory) -> Layout:
    """Read the layout of one directory's picture. Raises `UnreadableImageError` if it makes no sense."""
    size = (reader.whole(directory, HEIGHT), reader.whole(directory, WIDTH))
    num_samples = reader.whole(directory, NUM_SAMPLES, 1)
    is_tiled = TILE_OFFSETS in directory.entries
    part = (min(reader.whole(directory, ROWS_PER_STRIP, size[0]), size[0]), size[1])
    if is_tiled:
        part = (reader.whole(directory, TILE_HEIGHT), reader.whole(directory, TILE_WIDTH))
    is_too_large = part[0] * part[1] > max(_LARGEST_PART_PX, 4 * size[0] * size[1])
    if min(*size, *part, num_samples) < 1 or is_too_large:
        raise UnreadableImageError("damaged TIFF: its directory makes no sense")
    photometric = reader.whole(directory, PHOTOMETRIC)
    return Layout(
        size,
        _for_each(reader.values(directory, BITS), num_samples),
        _for_each(reader.values(directory, SAMPLE_FORMAT), num_samples),
        photometric,
        reader.whole(directory, COMPRESSION, NONE),
        reader.whole(directory, PREDICTOR, 1),
        tuple(map(int, reader.values(directory, EXTRA_SAMPLES))),
        reader.whole(directory, PLANES, 1) == 2,
        reader.whole(directory, FILL_ORDER, 1) == 2,
        is_tiled,
        part,
        _subsampling(reader, directory, photometric),
        reader.values(directory, REFERENCE_LEVELS),
    )


def read_parts(reader: TiffReader, directory: Directory, layout: Layout) -> list[tuple[int, int]]:
    """Read position and length in bytes of each strip or tile. Raises `UnreadableImageError` if some are missing."""
    offsets, lengths = (TILE_OFFSETS, TILE_BYTES) if layout.is_tiled else (STRIP_OFFSETS, STRIP_BYTES)
    places = reader.values(directory, offsets)
    num_planes = layout.num_samples if layout.is_planar else 1
    needed = -(-layout.size[0] // layout.part[0]) * -(-layout.size[1] // layout.part[1]) * num_planes
    if len(places) < needed or 0 in places[:needed]:
        raise UnreadableImageError(f"truncated: the TIFF has {len(places)} of its {needed} strips or tiles")
    counts = reader.values(directory, lengths) or (0xFFFFFFFF,) * needed
    return [(int(at), int(length)) for at, length in zip(places[:needed], counts, strict=False)]


def check_samples(layout: Layout) -> None:
    """Raise `UnreadableImageError` for samples without a defined range: signed, floating, complex, of 32 bits."""
    kinds = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}
    kind = next((kinds.get(one, "unknown") for one in layout.formats if one not in {_UNSIGNED, _UNDEFINED}), None)
    kind = "32-bit integer" if kind is None and max(layout.bits) >= 32 else kind
    if kind is not None:
        raise UnreadableImageError(f"{kind} samples without a defined range: convert the file to 8 or 16 bits")


def is_ordinary(layout: Layout) -> bool:
    """Tell whether it is of the kinds that nearly all files are, which Pillow opens without fail."""
    is_common = layout.photometric in {BLACK_IS_ZERO, RGB} and layout.num_samples == layout.num_colours
    is_8_bits = set(layout.bits) == {8} and set(layout.formats) == {_UNSIGNED}
    return is_common and is_8_bits and layout.compression in _COMPRESSIONS


def pillow_errs(layout: Layout) -> bool:
    """Tell whether Pillow opens the file, but cannot decode it or is known to give other pixels than those in it."""
    is_unsaid_alpha = layout.photometric == RGB and layout.num_samples > 3 and not layout.extra
    if layout.compression not in _COMPRESSIONS:
        return layout.is_planar and (layout.num_samples == 2 or is_unsaid_alpha or layout.photometric == YCC)
    is_plain = set(layout.bits) == {8} and layout.num_samples == layout.num_colours > 1
    is_odd_plane = layout.has_planes and not is_plain
    return is_odd_plane or layout.is_reversed or layout.photometric == YCC or has_levels(layout)


def is_supported(layout: Layout) -> bool:
    """Tell whether `tiff_pixels.decode_tiff` can read it."""
    depths = set(layout.bits)
    is_subsampled = layout.subsampling != (1, 1)
    return (
        layout.compression in _COMPRESSIONS
        and 0 < layout.num_colours <= layout.num_samples <= _MAX_SAMPLES
        and depths <= _DEPTHS
        and (len(depths) == 1 or layout.is_planar)
        and (layout.predictor == 1 or (layout.predictor == 2 and depths <= {8, 16}))
        and set(layout.formats) <= {_UNSIGNED, _UNDEFINED}
        and (layout.photometric != YCC or depths == {8})
        and set(layout.subsampling) <= {1, 2, 4}
        and (not is_subsampled or (layout.num_samples == 3 and not layout.is_planar and layout.predictor == 1))
        and (layout.photometric not in {CIE_LAB, ICC_LAB} or depths in ({8}, {16}))
    )


def has_levels(layout: Layout) -> bool:
    """Tell whether black and white are at other levels than usual (TIFF 6.0, section 20)."""
    if layout.photometric not in USUAL_LEVELS or len(layout.levels) != 6:
        return False
    is_readable = layout.compression in _COMPRESSIONS and set(layout.bits) == {8}
    return is_readable and layout.levels not in USUAL_LEVELS.values()


def _for_each(values: tuple[float, ...], num_samples: int) -> tuple[int, ...]:
    """Return a value for each sample; some writers give one for all. Absent means 1, for bits and for formats."""
    whole = tuple(map(int, values)) or (1,)
    return whole[:num_samples] if len(whole) >= num_samples else whole[:1] * min(num_samples, _MAX_SAMPLES + 1)


def _subsampling(reader: TiffReader, directory: Directory, photometric: int) -> tuple[int, int]:
    if photometric != YCC or reader.whole(directory, PLANES, 1) == 2:
        return 1, 1
    values = reader.values(directory, YCC_SUBSAMPLING)
    return (int(values[0]), int(values[1])) if len(values) == 2 else (2, 2)
