"""DICOM files made byte by byte (explicit VR, little endian: PS3.5, PS3.10), so that no library both writes and reads them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"
SERIES = "1.2.826.0.1.3680043.2.1125.7"
_PIXELS = struct.pack("<HH2sH", 0x7FE0, 0x0010, b"OW", 0)
Values = dict[tuple[int, int], tuple[str, object]]


def _element(tag: tuple[int, int], vr: str, value: object) -> bytes:
    if isinstance(value, bytes):
        data = value
    elif vr == "US":
        data = struct.pack("<H", value)
    else:
        data = str(value).encode()
    data += (b"\0" if vr in ("UI", "OB", "OW") else b" ") * (len(data) % 2)
    length = struct.pack("<HI", 0, len(data)) if vr in ("OB", "OW") else struct.pack("<H", len(data))
    return struct.pack("<HH", *tag) + vr.encode() + length + data


def _fragments(pixels: np.ndarray) -> bytes:
    """RLE (PS3.5 annex G): high bytes, then low ones, each row a literal run; in an item after an empty offset table."""
    high_low = pixels.astype(">i2").view(np.uint8).reshape(*pixels.shape, 2)
    runs = [b"".join(bytes([len(row) - 1]) + row.tobytes() for row in high_low[..., i]) for i in (0, 1)]
    runs = [run + b"\0" * (len(run) % 2) for run in runs]
    frame = struct.pack("<16I", 2, 64, 64 + len(runs[0]), *[0] * 13) + b"".join(runs)
    items = (struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in (b"", frame))
    return b"".join(items) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def decimals(numbers: Sequence[float]) -> str:
    """A decimal string (DS): at most 16 characters a number."""
    return "\\".join(f"{number:.12g}"[:16] for number in numbers)


def write_slice(path: Path, pixels: np.ndarray, position: Sequence[float], orientation: Sequence[float], **more: object) -> Path:
    """One slice (rows, columns) of int16. `more`: spacing (rows, columns), series, description, patient, echo, slope, intercept,
    frames, compressed, `extra`, elements by tag, and `drop`, tags left out."""
    series, number = str(more.get("series", SERIES)), more.get("number", 1)
    rows, columns = pixels.shape[-2:]
    elements: Values = {
        (0x0008, 0x0016): ("UI", MR_STORAGE),
        (0x0008, 0x0018): ("UI", f"{series}.{number}"),
        (0x0008, 0x0060): ("CS", "MR"),
        (0x0008, 0x103E): ("LO", more.get("description", "T1 MPRAGE sag")),
        (0x0010, 0x0020): ("LO", more.get("patient", "")),
        (0x0018, 0x0081): ("DS", more.get("echo", "2.5")),
        (0x0020, 0x000D): ("UI", "1.2.826.0.1.3680043.2.1125.1"),
        (0x0020, 0x000E): ("UI", series),
        (0x0020, 0x0013): ("IS", number),
        (0x0020, 0x0032): ("DS", decimals(position)),
        (0x0020, 0x0037): ("DS", decimals(orientation)),
        (0x0028, 0x0002): ("US", 1),
        (0x0028, 0x0004): ("CS", "MONOCHROME2"),
        **({(0x0028, 0x0008): ("IS", more["frames"])} if "frames" in more else {}),
        (0x0028, 0x0010): ("US", rows),
        (0x0028, 0x0011): ("US", columns),
        (0x0028, 0x0030): ("DS", decimals(more.get("spacing", (1.0, 1.0)))),
        (0x0028, 0x0100): ("US", 16),
        (0x0028, 0x0101): ("US", 16),
        (0x0028, 0x0102): ("US", 15),
        (0x0028, 0x0103): ("US", 1),
        (0x0028, 0x1052): ("DS", more.get("intercept", "0")),
        (0x0028, 0x1053): ("DS", more.get("slope", "1")),
        (0x7FE0, 0x0010): ("OW", pixels.astype("<i2").tobytes()),
        **more.get("extra", {}),
    }
    body = b"".join(_element(tag, *value) for tag, value in sorted(elements.items()) if tag not in more.get("drop", ()))
    if more.get("compressed"):
        body = body[: body.rindex(_PIXELS)] + _PIXELS.replace(b"OW", b"OB") + b"\xff" * 4 + _fragments(pixels)
    meta = b"".join(
        [
            _element((2, 1), "OB", b"\0\1"),
            _element((2, 2), "UI", MR_STORAGE),
            _element((2, 3), "UI", f"{series}.{number}"),
            _element((2, 0x10), "UI", RLE if more.get("compressed") else EXPLICIT_LITTLE),
            _element((2, 0x12), "UI", "1.2.826.0.1.3680043.2.1125"),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + _element((2, 0), "UL", struct.pack("<I", len(meta))) + meta + body)
    return path
