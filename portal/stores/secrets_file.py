"""The secrets of an installation that gave none: made once, kept in `VAR_DIR/secrets.json`, readable by its owner."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path


def installation_secrets(path: Path) -> dict[str, str]:
    """SECRET_KEY, KEY_PEPPER ("1:hex") and SEALING_KEYS (a Fernet key) as the environment would give them."""
    if not path.exists():
        _make(path)
    kept: dict[str, str] = json.loads(path.read_text())
    return kept


def _make(path: Path) -> None:
    made = {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "KEY_PEPPER": f"1:{secrets.token_hex(32)}",
        "SEALING_KEYS": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(made, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)  # fails when another process was first: its secrets are the installation's
    except FileExistsError:
        pass
    finally:
        draft.unlink()
