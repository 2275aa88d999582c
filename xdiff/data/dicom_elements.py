"""The lengths that a DICOM file states of its elements, compared with the file's own: a damaged one makes GDCM ask for gigabytes.

Encoding: DICOM PS3.5 chapter 7 (elements), A.4 (fragments of compressed pixels); PS3.10 (preamble and file meta information).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from xdiff.errors import InputError

PREAMBLE, MAGIC = 128, b"DICM"
IMPLICIT = b"1.2.840.10008.1.2"
NOT_WALKED = (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2")  # deflated, big-endian
TRANSFER_SYNTAX, PIXELS = (0x0002, 0x0010), (0x7FE0, 0x0010)
META = b"\2\0"  # group of the file meta information, explicit whatever follows it
DELIMITER, ITEM = 0xFFFE, (0xFFFE, 0xE000)
SHORT_VR = set(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VR = set(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
UNDEFINED = 0xFFFFFFFF


class _Element(NamedTuple):
    tag: tuple[int, int]
    vr: bytes
    length: int
    start: int  # of the value


def check_lengths(path: Path) -> None:
    """Raise InputError unless the file begins as DICOM does and its elements, nested ones too, follow one another to its end.

    Left to the reader: deflated and big-endian files, and what manufacturers put into private sequences, often in another
    encoding.
    """
    data = path.read_bytes()
    if data[PREAMBLE : PREAMBLE + len(MAGIC)] != MAGIC:
        raise InputError(path, "no DICOM image (no DICM at byte 128)", "a slice, or no such file among them")
    at, syntax, fragments = PREAMBLE + len(MAGIC), b"", False
    while len(data) - at >= 8:
        element = _element(data, at, syntax == IMPLICIT and data[at : at + 2] != META)
        if element.vr not in SHORT_VR | LONG_VR | {b""}:
            raise InputError(path, f"an element of no known type at byte {at}", "a complete DICOM file")
        private = bool(element.tag[0] % 2) or element.vr == b"UN"
        if (data[at : at + 2] != META and syntax in NOT_WALKED) or (private and element.length == UNDEFINED):
            return
        if element.tag == TRANSFER_SYNTAX:
            syntax = data[element.start : element.start + element.length].rstrip(b"\0 ")
        fragments |= element.tag == PIXELS and element.length == UNDEFINED
        inside = element.length == UNDEFINED or (element.vr == b"SQ" and not private) or (element.tag == ITEM and not fragments)
        at = element.start + (0 if inside else element.length)
        if at > len(data):
            raise InputError(
                path, f"an element of {element.length} bytes, {at - len(data)} beyond the end", "a complete DICOM file"
            )


def _element(data: bytes, at: int, implicit: bool) -> _Element:
    """The element that begins at a byte, at least 8 before the end."""
    tag = struct.unpack_from("<HH", data, at)
    if implicit or tag[0] == DELIMITER:
        return _Element(tag, b"", struct.unpack_from("<I", data, at + 4)[0], at + 8)
    vr = data[at + 4 : at + 6]
    if vr not in LONG_VR:
        return _Element(tag, vr, struct.unpack_from("<H", data, at + 6)[0], at + 8)
    return _Element(tag, vr, int.from_bytes(data[at + 8 : at + 12], "little"), at + 12)
