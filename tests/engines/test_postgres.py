"""A PostgreSQL server gives our answers from the table that the SQL makes."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.index.engines import postgres as engine
from tests.engines import databases
from tests.engines.databases import codec_of, database, queries

pytestmark = pytest.mark.engines


def programs():
    """The folder of initdb and pg_ctl, which Debian keeps out of PATH."""
    folders = [*sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin")), *_paths()]
    found = next((folder for folder in folders if (folder / "initdb").is_file()), None)
    if found is None:
        pytest.skip("no PostgreSQL server is installed")
    return found


def _paths():
    initdb = shutil.which("initdb")
    return [pathlib.Path(initdb).parent] if initdb else []


@pytest.fixture(scope="module")
def psql():
    """Starts a server on a socket in a temporary folder; yields a function that runs SQL."""
    folder = programs()
    # Not a folder of pytest's: only root may look into those, and the server runs as another user.
    home = pathlib.Path(tempfile.mkdtemp())
    prefix = []
    if os.getuid() == 0:  # the server refuses to run as root
        prefix = ["runuser", "-u", "postgres", "--"]
        shutil.chown(home, "postgres")

    def run(*command, text=""):
        done = subprocess.run(
            [*prefix, *map(str, command)], cwd=home, capture_output=True, text=True, input=text
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(folder / "initdb", "-D", home / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8")
    # With a log file, since the server would keep our pipes open.
    control = folder / "pg_ctl", "-D", home / "data", "-w", "-l", home / "log"
    run(*control, "-o", f"-k {home} -c listen_addresses=''", "start")
    client = folder / "psql", "-h", home, "-U", "postgres", "-X", "-q", "-A", "-t", "-F", "\t"
    try:
        yield lambda sql: run(*client, "-f", "-", text=sql)
    finally:
        run(*control, "-m", "immediate", "stop")
        shutil.rmtree(home)


@pytest.fixture
def table(psql):
    """Yields `psql`, and drops the table of the test."""
    yield psql
    psql("DROP TABLE codes;")


@pytest.mark.parametrize("ids", ["numbers", "names"])
@pytest.mark.parametrize("kind", ["signs", "binary"])
def test_a_server_gives_our_answers(kind, ids, table, rng, tmp_path):
    index = database(codec_of(kind, rng), rng, ids=ids)
    table(engine.export(index, tmp_path / "codes.sql").files[0].read_text())
    x = queries(rng)
    codes = np.asarray(index.codec.encode(jnp.asarray(x)))
    answers = [
        [
            line.split("\t")
            for line in table(engine.search_sql(code, index.codec.bits, 9)).splitlines()
        ]
        for code in codes
    ]
    found, distances = zip(*(zip(*answer, strict=True) for answer in answers), strict=True)
    found = np.array(found, object) if ids == "names" else np.array(found, np.int64)
    databases.check_answers(index, x, np.array(distances, int), found)


def test_classes_come_along(table, rng, tmp_path):
    index = database(codec_of("binary", rng), rng)
    table(engine.export(index, tmp_path / "codes.sql").files[0].read_text())
    lines = table("SELECT id, coalesce(class, 'none') FROM codes").splitlines()
    found = dict(line.split("\t") for line in lines)
    due = ["none" if label < 0 else databases.CLASSES[label] for label in index.labels]
    assert [found[str(name)] for name in index.ids] == due
