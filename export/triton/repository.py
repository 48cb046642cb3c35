"""Packing: a bundle as the next version of a model in a repository."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimiq import files
from mimiq.durable import beside, is_temporary, remove_all_leftovers, sync, sync_tree
from mimiq.errors import BadInput, pip_install
from mimiq.export.triton.config import check_config, config_text
from mimiq.export.triton.plan import PackOptions, Plan, config_of, plan_for
from mimiq.files import FileEntry
from mimiq.runtime.bundle import LABELS, Bundle
from mimiq.runtime.files.json_objects import pretty_json
from mimiq.runtime.manifest import bundle_around, file_entry
from mimiq.runtime.serving.packed import CPU_FILE, RECORD, PackedRecord, versions_of
from mimiq.version import __version__

CONFIG, SETTINGS = "config.pbtxt", "model-settings.json"
MODEL_SERVER = ".ovms.json"  # beside the model's folder, after its name
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Attributes:
        folder: ``REPO/NAME``.
        version: the new one.
        record: what stands beside it.
        validated: whether the configuration was read back by Triton's own schema.
        notes: what a reader must know before serving it.
    """

    folder: Path
    version: int
    record: PackedRecord
    validated: bool
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "repository": str(self.folder.parent),
            "name": self.folder.name,
            "version": self.version,
            "validated": self.validated,
            "record": self.record.to_json(),
            "notes": list(self.notes),
        }


def pack(
    bundle: Bundle, repository: str | Path, name: str, options: PackOptions | None = None
) -> Packed:
    """Add a bundle to a model repository, as version 1 or the next; no version is ever replaced.

    The new version's folder is written aside and renamed; the configuration, which describes the
    newest version, is replaced last. A pack that fails takes back what it made, and no more.

    Args:
        bundle: what to serve.
        repository: folder of models, made if need be.
        name: the model's name for its users: letters, digits, ``.``, ``_`` and ``-``.
        options: see :class:`~mimiq.export.triton.plan.PackOptions`.

    Raises:
        BadInput: an option the bundle cannot fulfil; the repository is a bundle, or lies in one; or
            the name is taken by another model or by a folder that is not ours, or its configuration
            was edited by hand.
        UnsupportedTarget: there is no engine that Triton's ``tensorrt`` backend runs.
        EnvironmentLacks: the graph must be edited and the extra ``compile`` is not installed, or
            the disk is full.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"{name!r} cannot name a model.",
            "Use letters, digits, '.', '_' and '-', and begin with a letter, a digit or '_'.",
        )
    folder = Path(os.path.abspath(repository)) / name
    around = bundle_around(folder.parent)
    if around is not None:  # which holds what its manifest lists, and is replaced as a whole
        raise BadInput(
            f"{repository} is no place for a repository: {around} is a bundle.",
            "Choose a folder outside of it.",
        )
    plan = plan_for(bundle, options or PackOptions())
    labels = _labels_text(bundle)
    with files.writing(folder):
        remove_all_leftovers(folder)
        known = _known_versions(folder, plan, labels)
        version = max(known, default=0) + 1
        place = folder / str(version)
        aside = beside(place)
        text = config_text(config_of(plan, name, bundle, version, known))
        validated = check_config(text)
        made = False
        try:
            aside.mkdir(parents=True)
            made = True
            plan.write(aside / plan.file)
            if plan.write_cpu is not None:
                plan.write_cpu(aside / CPU_FILE)
            record = _record(plan, bundle, labels, text, aside / plan.file)
            (aside / RECORD).write_text(pretty_json(record.to_json()), encoding="utf-8")
            sync_tree(aside)
            _move(aside, place)
            sync(folder)
            # Not before: only who has the version may write what all of them share.
            if labels is not None:
                _replace(folder / LABELS, labels)
            _replace(folder / SETTINGS, _mlserver_settings(name, plan))
            if plan.model_server is not None:
                _replace(_beside(folder), _model_server_settings(name, plan.model_server))
            _replace(folder / CONFIG, text)
        except BaseException:
            moved = made and not aside.exists()
            if not (moved and _holds(folder / CONFIG, text)):  # else it was done already
                _take_back(aside, place if moved else None, first=not known)
            raise
    notes = list(plan.notes)
    if not validated:
        notes.append(
            "config.pbtxt was not read back by Triton's schema: that needs tritonclient, "
            f"{pip_install('serve')}."
        )
    return Packed(folder, version, record, validated, tuple(notes))


def _known_versions(folder: Path, plan: Plan, labels: str | None) -> dict[int, PackedRecord]:
    """The versions that are there, once it is sure that this one may stand beside them."""
    numbers = versions_of(folder)
    if not numbers:
        if folder.exists() and (not folder.is_dir() or not all(map(_ours, folder.iterdir()))):
            raise _taken(folder, "it is there already, and is no model that mimiq pack wrote")
        return {}
    if not (folder / str(numbers[-1]) / RECORD).is_file():
        raise _taken(folder, f"its version {numbers[-1]} was not written by mimiq pack")
    known = {
        number: PackedRecord.read(folder / str(number) / RECORD)
        for number in numbers
        if (folder / str(number) / RECORD).is_file()
    }
    newest = known[numbers[-1]]
    for what, ours, theirs in (
        ("backend", plan.backend, newest.backend),
        ("inputs", _texts(plan.inputs), _texts(newest.inputs)),
        ("outputs", _texts(plan.outputs), _texts(newest.outputs)),
        ("labels", _digest(labels), newest.labels_sha256),
    ):
        if ours != theirs:
            difference = "differ" if what == "labels" else f"are {theirs}, not {ours}"
            raise _taken(folder, f"it holds another model: its {what} {difference}")
    config = folder / CONFIG
    # An older version's is ours too: a pack that was killed left it beside its new version.
    written = {record.config_sha256 for record in known.values()}
    if config.is_file() and FileEntry.of(config).sha256 not in written:
        raise BadInput(
            f"{config} was edited by hand, and a new version would overwrite that.",
            "Pack under another `name`, or move the file away and carry your changes over.",
        )
    return known


def _ours(path: Path) -> bool:
    """Whether a file beside no version is of another pack, at work or interrupted."""
    return is_temporary(path.name)


def _taken(folder: Path, why: str) -> BadInput:
    return BadInput(f"{folder} cannot take this model: {why}.", "Choose another `name`.")


def _record(
    plan: Plan, bundle: Bundle, labels: str | None, config: str, file: Path
) -> PackedRecord:
    return PackedRecord(
        backend=plan.backend,
        model=bundle.model_name,
        precision=bundle.precision_label,
        mimiq=__version__,
        manifest_sha256=bundle.digest,
        file=plan.file,
        **file_entry(file),
        inputs=plan.inputs,
        outputs=plan.outputs,
        labels_sha256=_digest(labels),
        config_sha256=str(_digest(config)),
        max_batch=plan.max_batch,
        cpu_form=None
        if plan.write_cpu is None
        else {"file": CPU_FILE, **file_entry(file.with_name(CPU_FILE))},
    )


def _mlserver_settings(name: str, plan: Plan) -> str:
    """What MLServer reads; its server then serves the newest version at its start."""
    return pretty_json(
        {
            "name": name,
            "implementation": "mimiq.runtime.mlserver_runtime.MimiqRuntime",
            "parameters": {"uri": "."},
            "max_batch_size": 0,
        }
    )


def _model_server_settings(name: str, settings: Mapping[str, Any]) -> str:
    """What OpenVINO Model Server reads; the folder is found from where the file lies."""
    config = {"name": name, "base_path": name, **settings}
    return pretty_json({"model_config_list": [{"config": config}]})


def _beside(folder: Path) -> Path:
    return folder.with_name(folder.name + MODEL_SERVER)


def _labels_text(bundle: Bundle) -> str | None:
    return None if bundle.labels is None else "".join(f"{label}\n" for label in bundle.labels)


def _texts(tensors: Any) -> str:
    return ", ".join(tensor.text for tensor in tensors)


def _digest(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode("utf-8")).hexdigest()


def _replace(path: Path, text: str) -> None:
    with files.replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def _move(aside: Path, place: Path) -> None:
    try:
        if place.exists():  # an empty folder would be replaced
            raise FileExistsError(place)
        os.rename(aside, place)
    except OSError as error:
        if not place.exists():
            raise
        raise BadInput(
            f"{place} has just been written by somebody else.", "Pack again, for the next version."
        ) from error


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _take_back(aside: Path, place: Path | None, *, first: bool) -> None:
    """Remove what a failed pack made, and nothing of another one that is at the same model.

    Args:
        aside: the folder that the version was written in.
        place: where it was moved to, if it was.
        first: whether the model had no version before.
    """
    folder = aside.parent
    if place is not None:
        with suppress(OSError):
            os.rename(place, aside)  # at once: a server must not find half of a version
    shutil.rmtree(aside, ignore_errors=True)
    if not first or versions_of(folder):
        return
    if place is not None:  # no other pack has a version, so these are of this one
        for path in (folder / LABELS, folder / SETTINGS, _beside(folder)):
            with suppress(OSError):
                path.unlink(missing_ok=True)
    with suppress(OSError):  # another pack is at work in it
        folder.rmdir()
