"""Which of timm's transformers compile: each is built without weights and described, or refused.

Nothing is downloaded and nothing computed: networks lie on the meta device, which knows shapes
alone. A name counts as a transformer's where its network holds attention over tokens.

    python benchmarks/timm_names.py [--module NAME …]

With ``--module`` the names of those source files of timm's alone are built again; the others are
those of the recorded result.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
from record import write
from torch import nn

from mimiq.errors import MimiqError
from mimiq.models.loaded import described
from mimiq.models.refused import WHY
from mimiq.models.sources import timm as source
from mimiq.models.sources.fitting import built_size
from mimiq.models.sources.original import Original

RESULTS = Path(__file__).parent / "results"
ATTENTION = ("Attention", "Attn")  # what timm's classes for it are called, but for these:
OTHER_ATTENTION = ("GPSA", "MHSA", "LiteMLA", "SHSA", "SHMA", "ScalingBlock")
# Convolutional networks with attention over channels, in their pooling, or in a few blocks.
CONVOLUTIONAL = ("byoanet", "byobnet", "resnest", "sknet")


@dataclass(frozen=True)
class Name:
    """One of timm's names.

    Attributes:
        module: timm's source file.
        network: its class.
        family: that describes it; None where it is refused.
        answers: numbers that it answers an image with.
        refused: why, where it is.
    """

    name: str
    module: str
    network: str
    family: str | None = None
    answers: int = 0
    refused: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--filter", default="*", help="names, as timm.list_models takes them")
    parser.add_argument("--module", action="append", default=[], help="of timm, scanned again")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    started = time.monotonic()
    if arguments.module:
        names, before = scan_again(arguments.module, arguments.results / "timm_names.json")
    else:
        names, before = list(scan(timm.list_models(arguments.filter))), 0.0
    found = {
        "timm": timm.__version__,
        "seconds": round(before + time.monotonic() - started, 1),
        "names": len(names),
        "compile": _compiling(names),
        "networks": [asdict(each) for each in names],
    }
    table = render(found, names)
    write(arguments.results, "timm_names", found, table)
    print(table)


def scan_again(modules: Sequence[str], recorded: Path) -> tuple[list[Name], float]:
    """The recorded names with those of ``modules`` built again, and how long the record took."""
    known = json.loads(recorded.read_text())
    if known["timm"] != timm.__version__:
        sys.exit(f"{recorded} is of timm {known['timm']}, not {timm.__version__}: scan all names.")
    others = [Name(**each) for each in known["networks"] if each["module"] not in modules]
    names = [name for module in modules for name in timm.list_models(module=module)]
    order = {name: index for index, name in enumerate(timm.list_models())}
    found = sorted([*others, *scan(names)], key=lambda each: order[each.name])
    return found, float(known["seconds"])


def scan(names: Sequence[str]) -> Iterator[Name]:
    """Each name of a transformer, described or refused."""
    for name in names:
        file = timm.models.model_entrypoint(name).__module__
        module = file.rpartition(".")[2]
        if module in CONVOLUTIONAL or not _may_attend(inspect.getsource(sys.modules[file])):
            continue
        network = source.build(name, name, {}, meta=True)
        if any(_attends(part) for part in network.modules()):
            yield _described(name, module, network)


def _described(name: str, module: str, network: nn.Module) -> Name:
    found = Name(name, module, type(network).__name__)
    try:
        size = source.preprocessing_of(network, built_size(network))
        family, _, answers = described(Original(network, name, size), name)
    except MimiqError as error:
        # The table has a column for the class, so that its reason is enough.
        reason = WHY.get(found.network) or str(error).splitlines()[0]
        return Name(name, module, found.network, refused=reason)
    return Name(name, module, found.network, family.name, answers)


def _may_attend(text: str) -> bool:
    """Whether a source file of timm's may hold a transformer, or build on one."""
    return any(word in text for word in (*ATTENTION, *OTHER_ATTENTION, "VisionTransformer"))


def _attends(part: nn.Module) -> bool:
    return any(word in type(part).__name__ for word in (*ATTENTION, *OTHER_ATTENTION))


def render(found: Mapping[str, Any], names: Sequence[Name]) -> str:
    """The two tables: what compiles, by module, and what is refused, by reason."""
    by_module: dict[str, list[Name]] = defaultdict(list)
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for each in names:
        by_module[each.module].append(each)
        if each.refused is not None:
            by_reason[each.network, each.refused].append(each.name)
    lines = [
        "# Which of timm's transformers compile",
        "",
        f"timm {found['timm']}: of {found['names']} names of networks with attention over tokens, "
        f"{found['compile']} compile. `python benchmarks/timm_names.py` builds each on the meta "
        f"device, without weights ({found['seconds']:.0f} s).",
        "",
        "| timm's module | names | compile | families |",
        "|---|---|---|---|",
    ]
    # Those that compile first, the most of them at the top.
    for module, members in sorted(
        by_module.items(), key=lambda entry: (-_compiling(entry[1]), entry[0])
    ):
        families = sorted({each.family for each in members if each.family is not None})
        lines.append(
            f"| `{module}` | {len(members)} | {_compiling(members)} | {', '.join(families)} |"
        )
    lines += ["", "## Refused", "", "| class | names | for example | why |", "|---|---|---|---|"]
    for (network, reason), members in sorted(by_reason.items()):
        lines.append(f"| `{network}` | {len(members)} | `{members[0]}` | {reason} |")
    return "\n".join(lines) + "\n"


def _compiling(names: Sequence[Name]) -> int:
    return sum(each.family is not None for each in names)


if __name__ == "__main__":
    main()
