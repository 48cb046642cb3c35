from __future__ import annotations

from typing import Any

import pytest
from checkpoint_files import State, network


@pytest.fixture(scope="module")
def plain() -> Any:
    """An untrained network as timm builds it."""
    return network()


@pytest.fixture(scope="module")
def state(plain: Any) -> State:
    return plain.state_dict()
