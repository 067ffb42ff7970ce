"""A part whose worker is killed is finished by another worker, and no byte differs."""

import os
import signal
import subprocess
import sys
import time

import pytest

from quantjax import index
from tests.index import encoders

pytest.importorskip("ray")
pytestmark = pytest.mark.engines

# The task is of `__main__`, so that Ray sends it by value: workers wait in part 1 after a chunk.
DRIVER = """
import pathlib, sys
import ray
from quantjax.index import encoding, ray_parts

place = pathlib.Path(sys.argv[1])

def encode_part(job, number, limit):
    import time
    from quantjax.index import encoding, parts
    write, encoding._CHUNK = parts.write_chunk, 128

    def write_and_wait(folder, begin, *rest):
        write(folder, begin, *rest)
        while number == 1 and not (place / "killed").exists():
            time.sleep(0.05)

    parts.write_chunk = write_and_wait
    part = encoding.encode_part(job, number)
    return part.end - part.begin

ray_parts._encode_part = encode_part
ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
encoding.encode(
    place / "run", place / "photos", place / "by_ray", items_per_part=256,
    encode_parts=ray_parts.encode_parts, progress=lambda done, total: print(done, total),
)
"""


def wait_for(found, driver):
    deadline = time.monotonic() + 120
    while not (value := found()):
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def test_a_killed_worker_loses_nothing(tmp_path):
    encoders.of_photos(tmp_path / "run" / "encoder")
    encoders.plant_photos(
        tmp_path / "photos", [f"{number % 2}/{number:03}.png" for number in range(800)]
    )
    index.encode(tmp_path / "run", tmp_path / "photos", tmp_path / "alone")
    (tmp_path / "driver.py").write_text(DRIVER)
    part = tmp_path / "by_ray" / ".encoding" / "part-00001-of-00004"
    with subprocess.Popen(
        [sys.executable, tmp_path / "driver.py", tmp_path],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as driver:
        wait_for(lambda: next(part.glob("chunk-*"), None), driver)
        worker = int((part / ".lock").read_text().split()[1])
        assert worker != driver.pid
        os.kill(worker, signal.SIGKILL)
        (tmp_path / "killed").touch()
        out, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors
    assert out.splitlines()[-1] == "800 800"
    for name in ("codes.json", "codes-1.safetensors"):
        assert (tmp_path / "by_ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
