"""What a person gives, before the work: texts and folders."""

from __future__ import annotations

from pathlib import Path

import pytest

import mimiq
from mimiq.errors import BadInput
from mimiq.inputs import calibration_of, labels_of


def test_labels_of_a_windows_editor(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfant\r\nbee\r\n")
    assert labels_of(tmp_path / "labels.txt") == ("ant", "bee")


@pytest.mark.parametrize("parameter", ["calibration", "evaluation"])
def test_empty_text_is_not_the_current_folder(
    parameter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=f"`{parameter}` is empty text"):
        mimiq.compile("digits", "int8", **{parameter: ""})


def test_the_current_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert calibration_of(".") == Path()
