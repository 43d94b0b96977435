"""What commands beside a running `up` believe of its list of processes."""

import subprocess
import sys

import pytest

from portal import roster
from portal.stores import children
from portal.stores.place import Place
from portal.stores.running import Ownership
from tests.portal.installations import expect, program

OWNER = """
import subprocess, sys
from pathlib import Path
from portal import roster
from portal.stores.place import Place
from portal.stores.running import Ownership
place = Place(Path(sys.argv[1]))
ownership = Ownership(place)
assert ownership.take()
ownership.declare(purpose=sys.argv[2], ready=True)
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
roster.write(place.processes_file, {"web": child.pid, "redis": 1})
print("owns", child.pid, flush=True)
input()
"""


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "var").made()


def owner(place, purpose="up"):
    return program(place, "-c", OWNER, str(place.var), purpose)


def test_the_children_of_a_living_owner_are_named_and_nobody_else(place):
    with owner(place) as process:
        child = int(expect(process, "owns")[-1].split()[1])
        assert roster.running(place) == {"web": child}, "process 1 is no child of it, whatever the list says"
        assert child in children.children_of(process.pid)


def test_a_dead_owners_list_is_not_believed(place):
    with owner(place) as process:
        expect(process, "owns")
        process.kill()
        process.wait()
        assert roster.running(place) == {}


def test_a_command_that_owns_the_stores_keeps_nothing_alive(place):
    with owner(place, "command") as process:
        expect(process, "owns")
        assert roster.running(place) == {}


def test_where_nobody_runs_nothing_is_named_and_the_folder_stays_free(place):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        roster.write(place.processes_file, {"web": child.pid})
        assert roster.running(place) == {}
        child.kill()
    ownership = Ownership(place)
    assert ownership.take()
    ownership.give_up()
