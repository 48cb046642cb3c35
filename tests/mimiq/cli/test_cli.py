"""The command line itself: help, options as values, and what is said when things go wrong."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mimiq import libraries
from mimiq.cli import choices, main, values
from mimiq.cli.commanding import Command
from mimiq.cli.commands import doctor as diagnosis
from mimiq.cli.failures import INTERNAL_ERROR, INTERRUPTED, explained
from mimiq.cli.output import print_json, show
from mimiq.cli.parameters import ARGUMENTS, SIZE
from mimiq.config.precision import Block, LayerPrecision, PerChannel, from_bits, int4, int8
from mimiq.errors import BadInput, CheckFailed, EnvironmentLacks, MimiqError, UnsupportedTarget
from mimiq.inputs import labels_of
from mimiq.models import LoadedModel, load_model
from mimiq.outputs import require_new
from mimiq.runtime.backend import Lack
from mimiq.runtime.null import Null
from mimiq.spec import default_out


def raising(error: BaseException) -> click.Command:
    @click.command(cls=Command)
    def command() -> None:
        raise error

    return command


@click.command(cls=Command)
def speaking() -> None:
    show("3.4 MB → 0.9 MB, 2×")
    print_json({"→": "×"})


class TestStreams:
    def test_an_encoding_without_all_letters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", stream)
        speaking.main([], standalone_mode=False)
        stream.flush()
        said = stream.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
        assert "3.4 MB ? 0.9 MB, 2?" in said
        assert json.loads(said[said.index("{") :]) == {"→": "×"}

    def test_a_closed_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdout", None)
        speaking.main([], standalone_mode=False)


def test_only_an_onnx_file_is_replaced_by_one(tmp_path: Path) -> None:
    for name in ("notes", "old.onnx"):
        (tmp_path / name).write_text("precious")
    require_new(tmp_path / "old.onnx", True, ".onnx")
    with pytest.raises(BadInput, match=r"is no \.onnx file"):
        require_new(tmp_path / "notes", True, ".onnx")


def choice(**given: object) -> choices.PrecisionChoice:
    nothing = {"int8": False, "int4": False, "bits": None, "weight_only": False, "block_size": None}
    return choices.PrecisionChoice(**{**nothing, **given})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


class TestPrecision:
    def test_the_flags_are_the_precisions_they_say(self, digits: LoadedModel) -> None:
        def of(**given: object) -> object:
            return values.precision_of(choice(**given), digits)

        assert of() == of(int8=True) == of(bits="w8a8") == int8()
        assert of(int4=True) == int4()
        assert of(bits="W4A4") == from_bits(4, 4)
        assert of(bits="w4a16") == from_bits(4, None)
        weight_only = values.precision_of(choice(int4=True, weight_only=True), digits)
        assert weight_only.linear == LayerPrecision(4, Block(64), None)  # two a row of 128
        assert weight_only.attention_bits is None
        chosen = choice(int4=True, weight_only=True, block_size=32)
        assert values.precision_of(chosen, digits).label == "w4a16-b32"
        placed = weight_only.placed(digits.family.roles(digits.module))
        assert placed.of("head") == LayerPrecision(8, PerChannel(), None)
        uniform = values.precision_of(choice(bits="w4a4", uniform=True), digits)
        assert uniform == from_bits(4, 4, uniform=True) != from_bits(4, 4)
        assert values.precision_of(choice(bits="w4a4"), digits, "paper") == uniform
        assert values.precision_of(choice(bits="w4a4"), digits, "cpu") == from_bits(4, 4)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"int8": True, "int4": True}, "--int8 and --int4 exclude each other"),
            ({"int4": True, "bits": "w4a4"}, "--int4 and --bits exclude each other"),
            ({"int8": True, "weight_only": True}, "--weight-only goes with --int4"),
            ({"weight_only": True}, "--weight-only goes with --int4"),
            ({"bits": "w4a8", "weight_only": True}, "contradicts the 8-bit activations"),
            ({"int4": True, "block_size": 32}, "Block-wise weight scales"),
            ({"bits": "w9a8"}, "9 weight bits"),
            ({"bits": "4,8"}, "not of the form wXaY"),
        ],
    )
    def test_contradictions_are_refused(self, given: dict[str, object], said: str) -> None:
        with pytest.raises(BadInput, match=said):
            values.check_precision(choice(**given))

    def test_a_block_that_does_not_divide_names_the_layer(self, digits: LoadedModel) -> None:
        wanted = choice(int4=True, weight_only=True, block_size=48)
        with pytest.raises(BadInput, match=r"48 does not divide the 128 inputs of blocks\.0"):
            values.precision_of(wanted, digits)


class TestParameters:
    @pytest.mark.parametrize(
        ("text", "size"), [("224", (224, 224)), ("112x448", (112, 448)), ("64×128", (64, 128))]
    )
    def test_sizes(self, text: str, size: tuple[int, int]) -> None:
        assert SIZE.convert(text, None, None) == size

    @pytest.mark.parametrize("text", ["", "0", "12x", "112x448x3", "large", "0x5"])
    def test_what_is_no_size(self, text: str) -> None:
        with pytest.raises(click.BadParameter, match="112x448"):
            SIZE.convert(text, None, None)

    def test_arguments_of_a_constructor(self) -> None:
        text = (
            "num_heads=12, global_pool=avg,fc_norm=False,init_values=1e-5,img_size=[112,448],a=None"
        )
        assert ARGUMENTS.convert(text, None, None) == {
            "num_heads": 12,
            "global_pool": "avg",
            "fc_norm": False,
            "init_values": 1e-5,
            "img_size": [112, 448],
            "a": None,
        }

    @pytest.mark.parametrize("text", ["num_heads", "=3", "a b=3", "num_heads=3,"])
    def test_what_is_no_argument(self, text: str) -> None:
        with pytest.raises(click.BadParameter, match="num_heads=12"):
            ARGUMENTS.convert(text, None, None)


class TestValues:
    def test_commands_to_try_next_name_the_same_network(self) -> None:
        network = choices.ModelChoice(
            "deit_t", Path("a b.pth"), False, 5, None, None, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), None
        )
        arguments = values.repeated(network)
        assert arguments[:3] == ["deit_t", "--weights", "a b.pth"]
        assert arguments[3:5] == ["--num-classes", "5"]
        assert arguments[5:] == ["--mean", "0.5,0.5,0.5", "--std", "1.0,1.0,1.0"]
        told = replace(
            network, image_size=(112, 448), ema=False, model_kwargs={"num_heads": 12, "a": True}
        )
        again = values.repeated(told)[5:]
        assert again[:2] == ["--image-size", "112x448"]
        assert again[-3:] == ["--no-ema", "--model-kwargs", "num_heads=12,a=true"]
        precision = choice(int4=True, weight_only=True, block_size=32, uniform=True)
        assert values.repeated(network, precision)[9:] == [
            *("--int4", "--weight-only", "--block-size", "32", "--uniform")
        ]

    def test_a_model_s_name_makes_a_file_s(self) -> None:
        out = default_out("hf_hub:someone/vit", "w8a8", ".mimiq")
        assert out == Path("hf_hub-someone-vit-w8a8.mimiq")

    def test_labels_are_lines(self, tmp_path: Path) -> None:
        file = tmp_path / "labels.txt"
        file.write_text("cat\ndog\n", encoding="utf-8")
        assert labels_of(file) == ("cat", "dog")
        file.write_text("cat\n\ndog\n", encoding="utf-8")
        with pytest.raises(BadInput, match="line 2 is empty"):
            labels_of(file)


class TestFailures:
    @pytest.mark.parametrize("kind", [BadInput, UnsupportedTarget, EnvironmentLacks, CheckFailed])
    def test_errors_say_what_and_what_next(self, kind: type[MimiqError]) -> None:
        answer = CliRunner().invoke(raising(kind("It broke.", "Mend it.")), [])
        assert answer.exit_code == kind.exit_code
        assert answer.stderr == "error: It broke.\n  Mend it.\n"
        assert answer.stdout == ""

    def test_nothing_in_a_message_is_markup_or_a_command_to_the_terminal(self) -> None:
        error = BadInput("[red]x[/red] [/] \x1b[2J", "[bold]y")
        answer = CliRunner().invoke(raising(error), [])
        assert answer.stderr == "error: [red]x[/red] [/] \\x1b[2J\n  [bold]y\n"

    def test_long_lines_are_not_broken(self) -> None:
        path = "/very" * 60
        assert path in CliRunner().invoke(raising(BadInput(path)), []).stderr

    def test_an_interruption_says_how_to_go_on(self) -> None:
        answer = CliRunner().invoke(raising(KeyboardInterrupt()), [])
        assert answer.exit_code == INTERRUPTED
        assert "run the same command again to go on" in answer.stderr

    def test_a_defect_is_one_line_unless_a_traceback_is_wanted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command = raising(ZeroDivisionError("by nothing\nand more"))
        answer = CliRunner().invoke(command, [])
        assert answer.exit_code == INTERNAL_ERROR
        assert answer.stderr.startswith("internal error: ZeroDivisionError: by nothing\n")
        assert "MIMIQ_DEBUG=1" in answer.stderr
        assert "Traceback" not in answer.stderr
        monkeypatch.setenv("MIMIQ_DEBUG", "1")
        assert "Traceback" in CliRunner().invoke(command, []).stderr

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device", "/there"),
            OSError(errno.EDQUOT, "Disk quota exceeded", "/there"),
            # safetensors, and torch.save on a full disk, as they were seen.
            Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
            RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 128 vs 16"),
        ],
    )
    def test_a_full_disk_is_the_user_s_to_mend(self, error: Exception) -> None:
        answer = CliRunner().invoke(raising(error), [])
        assert answer.exit_code == EnvironmentLacks.exit_code
        assert "The disk is full" in answer.stderr

    def test_a_full_disk_is_found_behind_other_errors(self) -> None:
        try:
            try:
                raise OSError(errno.ENOSPC, "No space left on device", "/there")
            except OSError as error:
                raise RuntimeError("could not save") from error
        except RuntimeError as error:
            known = explained(error)
        assert known is not None
        assert "/there could not be written" in known.problem

    def test_a_folder_without_permission_is_named(self) -> None:
        known = explained(PermissionError(errno.EACCES, "Permission denied", "/there"))
        assert isinstance(known, BadInput)
        assert known.problem == "/there cannot be read or written: Permission denied."
        assert explained(OSError("no number")) is None

    def test_a_closed_pipe_is_quiet(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "mimiq.cli", "doctor", "--json"]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert done.stderr == ""


class TestDoctor:
    def test_it_says_what_this_host_can_do(self, tmp_path: Path) -> None:
        (tmp_path / "stage-1").mkdir()
        (tmp_path / "stage-1" / "file").write_bytes(bytes(1000))
        answer = CliRunner().invoke(main, ["doctor", "--json", "--cache-dir", str(tmp_path)])
        found = json.loads(answer.stdout)
        assert answer.exit_code == 0
        assert found["software"]["click"] is not None
        backends = {item["name"]: item for item in found["backends"]}
        targets = {item["name"]: item for item in found["targets"]}
        assert set(backends) == {"ort", "openvino", "ort-cuda", "rtx", "trt"}
        assert backends["ort"]["possible"]
        assert targets["ort"]["possible"]
        for item in [*found["backends"], *found["targets"]]:
            assert item["possible"] == (item["reason"] == "")
        assert found["cache"] == found["cache"] | {"entries": 1, "bytes": 1000}
        assert found["cache"]["free_bytes"] > 0

    def test_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(diagnosis, "missing_libraries", lambda: ["timm"])
        answer = CliRunner().invoke(main, ["doctor"])
        assert answer.exit_code == 0
        assert "Not installed: timm" in answer.stdout
        assert "pip install 'mimiq-vit[compile]'" in answer.stdout

    def test_a_broken_library_does_not_hide_the_rest(self) -> None:
        class Broken(Null):
            def why_not(self) -> Lack | None:
                raise ImportError("libcudart.so.13: cannot open shared object file")

        whole, broken = diagnosis.runnable((Broken(), Null()))
        assert whole.possible
        assert not broken.possible
        assert "libcudart.so.13" in broken.reason

    def test_what_is_missing_is_installed_by_its_extra(self) -> None:
        lacks = (Lack("It is not installed.", "rtx"), Lack("There is no GPU."))
        extra, nothing = reversed(diagnosis.runnable(Null(lack=lack) for lack in lacks))
        assert (extra.reason, extra.next_step) == (
            "It is not installed.",
            "pip install 'mimiq-vit[rtx]'",
        )
        assert (nothing.reason, nothing.next_step) == ("There is no GPU.", "")


class TestModels:
    def test_short_names_and_timm_s(self) -> None:
        assert "deit_small_patch16_224" in CliRunner().invoke(main, ["models"]).stdout
        found = json.loads(CliRunner().invoke(main, ["models", "vit_tiny*", "--json"]).stdout)
        assert found["short"]["vit_t"] in found["timm"]
        assert all(name.startswith("vit_tiny") for name in found["timm"])


def test_without_the_extra_the_line_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libraries, "missing_libraries", lambda: ["torch", "timm"])
    for arguments in (["compile", "digits"], ["synthesize", "digits", "-o", "x"]):
        answer = CliRunner().invoke(main, arguments)
        assert answer.exit_code == EnvironmentLacks.exit_code
        assert "torch, timm" in answer.stderr
        assert "pip install 'mimiq-vit[compile]'" in answer.stderr


def test_progress_may_be_silenced(tmp_path: Path) -> None:
    arguments = ["synthesize", "digits", "--method", "noise", "--images", "2", "--quiet", "--json"]
    answer = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "set")])
    assert answer.stderr == ""
    assert json.loads(answer.stdout)["manifest"]["count"] == 2
