"""Text → BrandFile. What is wrong is named by its line, where it is no TOML, or by its key's path. No database."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any, TypeVar

import msgspec

from keys.audit import has_control_characters
from portal.brandfile.structure import BrandFile, BrandFileWrong, EngineEntry, ModelEntry, Section, TierEntry

FILE_BYTES_MAX = 4 * 1024 * 1024
_PLACE = re.compile(r"(.*) \(at (line \d+), column (\d+)\)", re.DOTALL)
_AT = re.compile(r"(.*) - at `(?:key in )?\$\.?(.*)`", re.DOTALL)
_FIELD = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`", re.DOTALL)

_LAYOUT = {ord(character): " " for character in "\n\r\t"}

Entry = TypeVar("Entry", bound=Section)


def read(data: bytes) -> BrandFile:
    """Raises BrandFileWrong."""
    if len(data) > FILE_BYTES_MAX:
        raise BrandFileWrong([f"A brand file has at most {FILE_BYTES_MAX} bytes, not {len(data)}."])
    raw = _parsed(data)
    problems = [f"{path}: a control character" for path in _unprintable(raw, "")]
    entries = {
        "engines": _named(raw.pop("engines", {}), EngineEntry, "engines", problems),
        "models": _listed(raw.pop("models", []), ModelEntry, "models", problems),
        "tiers": _listed(raw.pop("tiers", []), TierEntry, "tiers", problems),
    }
    brand = _converted(raw, BrandFile, "", problems)
    if brand is None or problems:
        raise BrandFileWrong(problems)
    file = msgspec.structs.replace(brand, **entries)
    problems = list(_repetitions(file))
    if problems:
        raise BrandFileWrong(problems)
    return file


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BrandFileWrong([f"line {line}: not UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        found = _PLACE.fullmatch(str(error))
        if found is None:  # "at end of document"
            raise BrandFileWrong([f"line {data.count(10) + 1}: {error}"]) from None
        raise BrandFileWrong([f"{found[2]}: {found[1]} (column {found[3]})"]) from None


def _unprintable(value: Any, path: str) -> Iterator[str]:
    """Where a text has NUL or its kin, which PostgreSQL refuses or nobody can read. Line breaks and tabs are texts."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _unprintable(name, f"{path}.{name!r}".strip("."))
            yield from _unprintable(inner, f"{path}.{name}".strip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _unprintable(inner, f"{path}[{number}]")
    elif isinstance(value, str) and has_control_characters(value.translate(_LAYOUT)):
        yield path


def _named(raw: Any, kind: type[Entry], path: str, problems: list[str]) -> dict[str, Entry]:
    if not isinstance(raw, dict):
        problems.append(f"{path}: expected tables by name, like [{path}.gpu-1]")
        return {}
    found = {name: _converted(entry, kind, f"{path}.{name}", problems) for name, entry in raw.items()}
    return {name: entry for name, entry in found.items() if entry is not None}


def _listed(raw: Any, kind: type[Entry], path: str, problems: list[str]) -> list[Entry]:
    if not isinstance(raw, list):
        problems.append(f"{path}: expected a list of tables, like [[{path}]]")
        return []
    found = [_converted(entry, kind, f"{path}[{number}]", problems) for number, entry in enumerate(raw)]
    return [entry for entry in found if entry is not None]


def _converted(raw: Any, kind: type[Entry], path: str, problems: list[str]) -> Entry | None:
    try:
        return msgspec.convert(raw, kind, builtin_types=(datetime, date, time))
    except msgspec.ValidationError as error:
        problems.append(_worded(str(error), path))
        return None


def _worded(text: str, path: str) -> str:
    """msgspec's words, with the path of the very key in front."""
    at = _AT.fullmatch(text)
    reason, inside = (at[1], at[2]) if at else (text, "")
    field = _FIELD.fullmatch(reason)
    if field:
        inside = f"{inside}.{field[1]}"
        reason = "no such key" if "unknown" in reason else "missing"
    where = ".".join(part for part in (path, inside.strip(".")) if part).replace(".[", "[")
    return f"{where}: {reason[0].lower()}{reason[1:]}" if where else reason


def _repetitions(file: BrandFile) -> Iterator[str]:
    """What is named twice, so that the rows would have only one of them."""
    yield from _twice([model.id for model in file.models], "models[{}].id")
    yield from _twice([tier.slug for tier in file.tiers], "tiers[{}].slug")
    for number, tier in enumerate(file.tiers):
        said = [(limit.unit, limit.window, limit.scope, limit.model, limit.is_allotment) for limit in tier.limits]
        yield from _twice([", ".join(map(str, limit)) for limit in said], f"tiers[{number}].limits[{{}}]")
    if sum(tier.is_default for tier in file.tiers) > 1:
        yield "tiers: only one is the default"


def _twice(names: list[str], path: str) -> Iterator[str]:
    counted = Counter(names)
    for number, name in enumerate(names):
        if counted[name] > 1 and name in names[:number]:
            yield f"{path.format(number)}: {name} is there already"
