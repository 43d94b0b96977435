#!/usr/bin/env python
"""Django's command line; starts private stores when none are given (see portal/stores)."""

from __future__ import annotations

import os
import sys

# These never touch a store; `up` starts its own and keeps them.
WITHOUT_STORES = frozenset({"up", "help", "check", "collectstatic", "demo_engine"})


def needs_private_stores(arguments: list[str]) -> bool:
    if os.environ.get("DATABASE_URL") or not arguments or arguments[0] in WITHOUT_STORES:
        return False
    return not {"-h", "--help", "--version"} & set(arguments)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    from django.core.management import execute_from_command_line

    if not needs_private_stores(sys.argv[1:]):
        execute_from_command_line(sys.argv)
        return
    from portal.stores import StoresError, running
    from portal.stores.place import Place

    try:
        with running.stores(Place.from_environment()):
            execute_from_command_line(sys.argv)
    except StoresError as error:
        sys.exit(f"manage.py: {error}")


if __name__ == "__main__":
    main()
