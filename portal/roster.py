"""Which processes a running `manage.py up` keeps alive, for commands beside it.

The supervisor writes the list at every start. A reader believes it only so far as it can check: the folder's owner must
be an `up` that lives (a kernel lock says so), and a process counts only while it is that owner's child.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from portal.stores import children
from portal.stores.place import Place
from portal.stores.running import Ownership


def write(path: Path, pids: Mapping[str, int]) -> None:
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(json.dumps(pids) + "\n")
    draft.replace(path)


def running(place: Place) -> dict[str, int]:
    """Name → process id of what lives now ("web", "journal", "redis", …); empty when no `up` runs in this folder."""
    ownership = Ownership(place)
    if ownership.take():
        ownership.give_up()
        return {}
    holder = ownership.holder()
    owner = holder.get("pid")
    if holder.get("purpose") != "up" or not isinstance(owner, int):
        return {}
    own = set(children.children_of(owner))
    listed: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        listed = json.loads(place.processes_file.read_text())
    return {name: pid for name, pid in listed.items() if pid in own}
