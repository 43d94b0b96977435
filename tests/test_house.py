"""The house's own rules, each shown with a good and a bad example, then held against the house."""

from __future__ import annotations

import ast
import logging.config
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from importlinter.cli import lint_imports

HOUSE = Path(__file__).resolve().parent.parent
ROOMS = ("keys", "billing", "proxy", "portal")
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = {"tests": 800, "models": 700, "": 500}
VAGUE_NAMES = frozenset({"utils", "util", "helpers", "core", "common", "manager", "managers", "misc", "lib", "base"})
# Spelled apart, here and below, so that this file passes its own rules.
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
# Where packages come from is the business of whoever installs them.
REGISTRIES = re.compile("|".join(re.escape(".".join(parts)) for parts in (("pypi", "org"), ("npmjs", "org"))))
ENVIRONMENT_READERS = {"manage.py", "portal/environment.py", "portal/stores/place.py"}
# These are set by one program for another of the same installation, or name a Django convention.
NOT_SETTINGS = frozenset({"DJANGO_SETTINGS_MODULE"})


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in sorted((HOUSE / folder).rglob("*.py")) if "migrations" not in path.parts)


def texts() -> Iterator[Path]:
    """What people wrote: every text file outside of what is generated or ignored."""
    top = [path for path in HOUSE.iterdir() if path.is_file() and path.suffix in {".py", ".md", ".toml", ""}]
    folders = [HOUSE / name for name in (*ROOMS, "tests", "templates", "deploy", ".ci")]
    inside = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in top + inside:
        if "__pycache__" not in path.parts and "node_modules" not in path.parts and path.suffix not in {".pyc", ".png"}:
            yield path


def name_of(path: Path) -> str:
    return path.relative_to(HOUSE).as_posix()


def long_functions(code: str, lines_max: int = FUNCTION_LINES_MAX) -> list[str]:
    return [
        f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= lines_max
    ]


def environment_names(code: str, *, through: tuple[str, ...] = ("env", "os.environ")) -> set[str]:
    """Names given as text to the readers of portal.environment (imported as env), or to os.environ itself."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if ast.unparse(node.func.value) in through:
                names |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) in through:
            names |= {node.slice.value} if isinstance(node.slice, ast.Constant) else set()
    return {name for name in names if isinstance(name, str) and name.isupper()}


def documented(markdown: str) -> set[str]:
    """Settings that a table row of README begins with."""
    rows = re.findall(r"^\| (`[^|]+) \|", markdown, re.MULTILINE)
    return {name for row in rows for name in re.findall("`([A-Z_]+)`", row)}


def settings_read() -> set[str]:
    readers = [HOUSE / "portal" / "settings.py", *(HOUSE / name for name in ENVIRONMENT_READERS)]
    return {name for path in readers for name in environment_names(path.read_text())} - NOT_SETTINGS


def test_what_counts_as_a_long_function():
    short = "def short():\n" + "    x = 1\n" * 69
    assert long_functions(short) == []
    assert long_functions(short + "    y = 2\n") == ["short (71 lines)"]


def test_what_counts_as_reading_the_environment():
    assert environment_names('PORT = env.integer("PORT", default=1)') == {"PORT"}
    assert environment_names('os.environ.get("VAR_DIR", "")') == {"VAR_DIR"}
    assert environment_names('os.environ["HOME"]') == {"HOME"}
    assert environment_names('settings.get("PORT")') == set()


def test_what_counts_as_documented():
    assert documented("| `PORT` | 8000 | where |\n| `A`, `B` | | two |\ntext about `C`") == {"PORT", "A", "B"}


def test_what_counts_as_unfinished():
    assert UNFINISHED.search("# TO" + "DO: later")
    assert not UNFINISHED.search("todos are rows")


def test_import_contracts_hold(monkeypatch):
    monkeypatch.setattr(logging.config, "dictConfig", lambda _: None)  # its own would silence this process's loggers
    assert lint_imports(config_filename=str(HOUSE / "pyproject.toml"), no_logo=True) == 0


def test_every_setting_is_documented_and_every_documented_one_is_read():
    assert settings_read() == documented((HOUSE / "README.md").read_text())


def test_only_the_readers_read_the_environment():
    elsewhere = [path for path in sources(*ROOMS) if name_of(path) not in ENVIRONMENT_READERS]
    found = {name_of(path): environment_names(path.read_text(), through=("os.environ",)) for path in elsewhere}
    allowed = {"portal/server.py": {"DATABASE_POOL"}}  # a default of the server's own, before settings are read
    assert {path: names for path, names in found.items() if names - NOT_SETTINGS - allowed.get(path, set())} == {}


@pytest.mark.django_db
def test_migrations_are_complete_and_named():
    said = StringIO()
    call_command("makemigrations", check=True, dry_run=True, stdout=said, stderr=said)
    assert "No changes" in said.getvalue()
    unnamed = [path.name for room in ROOMS for path in (HOUSE / room).glob("migrations/*_auto_*.py")]
    assert unnamed == []


@pytest.mark.parametrize("path", list(sources(*ROOMS, "tests")), ids=name_of)
def test_functions_fit_a_screen_and_modules_have_one_subject(path):
    code = path.read_text()
    assert long_functions(code) == []
    kind = "tests" if "tests" in path.parts else "models" if path.stem == "models" else ""
    assert len(code.splitlines()) <= MODULE_LINES_MAX[kind]
    assert not {path.stem, path.parent.name} & VAGUE_NAMES, "name it by what it is about"


def test_nothing_is_left_unfinished_and_no_registry_is_named():
    for path in texts():
        text = path.read_text(errors="replace")
        found = UNFINISHED.search(text) or REGISTRIES.search(text)
        assert found is None, f"{name_of(path)}: {found.group()}"


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_pin_every_package_with_hashes_and_name_no_index(lock):
    text = (HOUSE / lock).read_text()
    requirements = re.findall(r"^([a-z0-9][^\s=]*)==\S+(.*(?:\n    .*)*)", text, re.MULTILINE)
    assert len(requirements) > 30
    assert [name for name, rest in requirements if "--hash=sha256:" not in rest] == []
    assert "://" not in text.replace("# via", "")


def test_both_locks_pin_the_same_versions():
    run, dev = (
        dict(re.findall(r"^([a-z0-9][^\s=]*)==(\S+)", (HOUSE / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-dev.lock")
    )
    assert {name: dev.get(name) for name in run} == run


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_says_what_it_owns_and_what_not(room):
    text = (HOUSE / room / "README.md").read_text()
    for word in (r"\bOwns\b", r"Does not own", r"^##+ Invariants", r"^##+ Decisions"):
        assert re.search(word, text, re.MULTILINE), f"{room}/README.md does not say {word!r}"
