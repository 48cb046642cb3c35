from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorrt_fake import FakeCuda, FakeEngine, open_fake
from tensorrt_sessions import Open

from mimiq.runtime.tensorrt.session import TensorRTSession


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    sessions: list[TensorRTSession] = []

    def make(**options: Any) -> tuple[TensorRTSession, FakeEngine, FakeCuda]:
        made = open_fake(tmp_path, **options)
        sessions.append(made[0])
        return made

    yield make
    for session in sessions:
        session.close()
