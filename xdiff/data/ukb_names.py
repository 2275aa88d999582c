"""What UK Biobank calls its bulk files: EID_FIELD_INSTANCE_ARRAY.zip, and the lists that `ukbconv ... bulk` writes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from xdiff.errors import InputError

DIXON_FIELD, DXA_FIELD = "20201", "20158"
_DATA = r"(\d{4,6})_(\d+)_(\d+)"


class Bulk(NamedTuple):
    """One file: of a participant (EID, seven digits), of a data field, at a visit (`instance`), with the `array` index."""

    eid: str
    field: str
    instance: str
    array: str

    @property
    def data(self) -> str:
        """Such as 20201_2_0."""
        return f"{self.field}_{self.instance}_{self.array}"

    @property
    def name(self) -> str:
        return f"{self.eid}_{self.data}.zip"

    @property
    def subject(self) -> str:
        """The visit, such as 1234567_2_0."""
        return f"{self.eid}_{self.instance}_{self.array}"


def read_bulk(path: Path) -> list[Bulk]:
    """The files of a bulk list, one `EID 20201_2_0` a line. Raises InputError on another line, a file twice, or an empty list."""
    if not path.is_file():
        raise InputError(path, "no such file", "a bulk list, as `ukbconv ukbN.enc_ukb bulk -s20201` writes it")
    found: dict[Bulk, int] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(rf"(\d{{7}})\s+{_DATA}", line.strip())
        if not match:
            raise InputError(f"{path}, line {number}", repr(line[:80]), "a line such as `1234567 20201_2_0`")
        one = Bulk(*match.groups())
        if one in found:
            raise InputError(f"{path}, line {number}", f"{one.name}, as in line {found[one]}", "each file once")
        found[one] = number
    if not found:
        raise InputError(path, "no line", "one or more lines such as `1234567 20201_2_0`")
    return list(found)


def find_archives(root: Path, field: str = DIXON_FIELD) -> list[Bulk]:
    """The zips of a field in a folder, by name."""
    return sorted(one for one in _archives(root) if one.field == field)


def _archives(root: Path) -> Iterator[Bulk]:
    for path in root.glob("*.zip"):
        match = re.fullmatch(rf"(\d{{7}})_{_DATA}\.zip", path.name)
        if match:
            yield Bulk(*match.groups())
