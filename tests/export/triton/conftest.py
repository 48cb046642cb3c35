from __future__ import annotations

import pytest
from packing import labelled
from tensorrt_bundles import make_bundle as make_transformer_bundle

from mimiq.runtime.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small quantised transformer with labels, one of them hard to quote."""
    return labelled(make_transformer_bundle(tmp_path_factory.mktemp("made")))
