# A disk that is mounted read-only: what is there is served, and the stages begin when it can be written.
from __future__ import annotations

import subprocess
from pathlib import Path

from models.popularity import Popularity
from state.lock import is_written
from state.view import View
from stream.log import PARTITION
from tests.faults.disks import mounted
from tests.faults.test_full_disk import append, kill
from tests.stream.stage_process import finish, start
from tests.stream.waiting import stored_offsets, wait_until


def remount(path: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True, capture_output=True)


def test_a_home_on_a_read_only_disk_is_served_and_its_stages_wait_until_it_can_be_written(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as path:
        home = path / "home"
        append(home, 0, 200)
        stages = [start(name, home) for name in ("fold", "learn")]
        wait_until(lambda: stored_offsets(home / "learn", "learn").get(PARTITION) == 2)
        for process in stages:
            finish(process)
        append(home, 200, 200)
        remount(path, "ro")
        stages = [start(name, home, stderr=subprocess.PIPE) for name in ("fold", "learn")]
        try:
            for process in stages:
                assert process.stderr is not None
                line = process.stderr.readline().decode()  # comes when it has tried
                assert "stands still" in line
                assert "Read-only file system" in line
            assert not is_written(home / "fold")
            view = View(home / "fold", home / "learn", lambda _: {"popularity": Popularity()})
            assert view.refresh()
            with view.read() as served:
                assert served.learned_offsets == {PARTITION: 2}
                assert served.models["popularity"].num_items == 50
            view.close()
            remount(path, "rw")
            wait_until(lambda: stored_offsets(home / "learn", "learn").get(PARTITION) == 4)
            for process in stages:
                finish(process)
        finally:
            kill(*stages)
