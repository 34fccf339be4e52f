"""What the services write is for their owner alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from liveloop.settings import Settings
from services.commands.processes import Loop, free_settings
from tests.unit.fake_services import FakeLoop, serve


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_folder_that_others_could_enter_is_closed_and_new_files_are_the_owners(tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    program = (
        "from pathlib import Path; from liveloop.private import keep_private;"
        f" keep_private(Path({str(folder)!r})); Path({str(folder / 'file')!r}).touch(); Path({str(folder / 'inner')!r}).mkdir()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (mode(folder), mode(folder / "file"), mode(folder / "inner")) == (0o700, 0o600, 0o700)


def test_the_folder_of_logs_is_private_before_the_first_service_writes(tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    with serve(FakeLoop()) as fake:
        update = {"inference_target": fake.target, "learner_target": fake.target}
        settings = free_settings(Settings(data=folder)).model_copy(update=update)
        with Loop(settings, services=("gateway",)):
            assert mode(folder) == 0o700
