"""What bundles, sessions and sets say of themselves at a prompt and in a notebook."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from runtime_models import MakeBundle

from mimiq.calibrate import gaussian_noise
from mimiq.runtime.opening import open_bundle
from mimiq.runtime.preprocessing import Preprocessing


def test_a_bundle_names_its_network_and_precision(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    for words in (bundle.path.name, bundle.model_name, bundle.precision_label, "MB"):
        assert words in repr(bundle)


def test_a_notebook_shows_the_report_and_runs_nothing_of_it(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    frame = ElementTree.fromstring(bundle._repr_html_().replace(" sandbox ", ' sandbox="" '))
    assert frame.tag == "iframe"
    assert frame.get("sandbox") == ""
    assert bundle.model_name in (frame.get("srcdoc") or "")


def test_a_session_names_its_backend_and_shapes(make_bundle: MakeBundle) -> None:
    with open_bundle(make_bundle(), "ort") as session:
        assert session.backend in repr(session)
        assert f"(B, {session.num_classes})" in repr(session)


def test_a_set_says_how_many_images_of_what(tmp_path: Path) -> None:
    made = gaussian_noise(Preprocessing(32, crop_pct=1.0), 5, 0, tmp_path / "set")
    for words in ("5 images", "noise", "32×32"):
        assert words in repr(made)
