"""A folder that all ranks write: whole or absent, also after a kill at any operation."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.errors import ConfigError
from graphtheta.partition.ooc.shared_folder import shared_folder
from tests.kills import watch_files


def write(comm: Communicator, path: Path, failing: int = -1) -> None:
    with shared_folder(path, comm, "numbers", ConfigError) as folder:
        (folder / f"part-{comm.rank}").write_text("whole")
        if comm.rank == failing:
            raise OSError(28, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("failing", [0, 1])
def test_failing_rank_leaves_nothing(failing: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected to write numbers, got No space left"):
        run_local(lambda comm: write(comm, tmp_path / "out", failing), workers=2, timeout_s=60)
    assert not names(tmp_path)


def test_ranks_killed_anywhere_leave_nothing_after_the_rerun(tmp_path: Path) -> None:
    expected = ["out", "out/part-0", "out/part-1"]
    for operation in range(1, 100):
        at = tmp_path / str(operation)
        at.mkdir()
        with watch_files(at, operation) as watch:
            try:
                run_local(lambda comm, at=at: write(comm, at / "out"), workers=2, timeout_s=60)
            except BaseException:
                assert watch.killed
        assert names(at / "out") in ([], ["part-0", "part-1"])
        with suppress(ConfigError):  # the folder may be whole already
            run_local(lambda comm, at=at: write(comm, at / "out"), workers=2, timeout_s=60)
        assert names(at) == expected
        if not watch.killed:
            break
    assert operation > 5


def test_folder_that_is_written_elsewhere_is_refused(tmp_path: Path) -> None:
    def twice(comm: Communicator) -> None:
        with shared_folder(tmp_path / "out", comm, "numbers", ConfigError):
            write(comm, tmp_path / "out")

    with pytest.raises(ConfigError, match="expected no other run that writes it"):
        run_local(twice, workers=2, timeout_s=60)
    assert not names(tmp_path)
