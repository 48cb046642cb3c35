"""A client of the Open Inference Protocol (V2), over HTTP or gRPC, by NVIDIA's ``tritonclient``.

It speaks to Triton, MLServer and KServe's servers alike. ``tritonclient`` is imported when the
first client is made (extra ``serve``). One client belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from mimiq.errors import BadInput, CheckFailed, EnvironmentLacks, MimiqError, missing_extra
from mimiq.runtime.serving.packed import Tensor

Protocol = Literal["http", "grpc"]
_BINARY = "binary_tensor_data"
_MAX_MESSAGE = 2**31 - 1
GRPC_MESSAGE_BYTES = 4 * 2**20  # what a gRPC server takes unless it is told otherwise, as MLServer


@dataclass(frozen=True)
class ServedModel:
    """What a server says of a model.

    Attributes:
        name, platform: as the server has them.
        versions: those that can be asked for.
        inputs, outputs: without the batch.
        parameters: of its configuration, where the server shows one (Triton), else empty.
    """

    name: str
    platform: str
    versions: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """One answer: arrays by output name (texts as bytes), and the parameters that came with it."""

    outputs: dict[str, npt.NDArray[Any]]
    version: str
    parameters: dict[str, Any]


class RequestRefused(CheckFailed):
    """The server answered, and its answer was an error."""


class V2Client:
    """A connection to a server.

    Args:
        url: ``HOST:PORT``, without a scheme.
        protocol: ``http`` or ``grpc``.
        timeout_s: of every call, in seconds.

    Raises:
        BadInput: the address is none.
        EnvironmentLacks: ``tritonclient`` is not installed.
    """

    def __init__(self, url: str, protocol: Protocol = "http", timeout_s: float = 60.0) -> None:
        host, _, port = url.rpartition(":")
        if not host or "/" in url or not port.isdecimal() or not 0 < int(port) < 65536:
            raise BadInput(f"{url!r} is no address.", "Give HOST:PORT, e.g. localhost:8000.")
        self.url, self.protocol = url, protocol
        self._library = _library(protocol)
        self._calls: dict[str, Any] = {}
        if protocol == "grpc":
            options = [
                ("grpc.max_send_message_length", _MAX_MESSAGE),
                ("grpc.max_receive_message_length", _MAX_MESSAGE),
            ]
            self._client = self._library.InferenceServerClient(url, channel_args=options)
            self._calls = {"client_timeout": timeout_s}
        else:
            self._client = self._library.InferenceServerClient(
                url, connection_timeout=timeout_s, network_timeout=timeout_s
            )
        self._binary: bool | None = None

    def live(self) -> bool:
        """Whether the server lives.

        Raises:
            EnvironmentLacks: it cannot be reached.
        """
        with self._explained("asking whether it lives"):
            return bool(self._client.is_server_live(**self._calls))

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether the model can be asked."""
        with self._explained(f"asking for the model {name}"):
            return bool(self._client.is_model_ready(name, version, **self._calls))

    def metadata(self, name: str, version: str = "") -> ServedModel:
        """What the server says of the model.

        Raises:
            RequestRefused: there is no such model.
            EnvironmentLacks: the server cannot be reached.
        """
        with self._explained(f"asking for the model {name}"):
            found = self._as_json(self._client.get_model_metadata, name, version)
        return ServedModel(
            name=str(found.get("name", name)),
            platform=str(found.get("platform", "")),
            versions=tuple(str(text) for text in found.get("versions") or ()),
            inputs=_tensors(found.get("inputs")),
            outputs=_tensors(found.get("outputs")),
            parameters=self._parameters(name, version),
        )

    def infer(
        self,
        name: str,
        feeds: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        version: str = "",
    ) -> Answer:
        """Run one batch.

        Raises:
            RequestRefused: the server answered with an error.
            EnvironmentLacks: it cannot be reached, or did not answer in time.
        """
        from tritonclient.utils import np_to_triton_dtype

        http = {"binary_data": self._binary_data()} if self.protocol == "http" else {}
        inputs = []
        for key, array in feeds.items():
            tensor = self._library.InferInput(key, array.shape, np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array, **http)
            inputs.append(tensor)
        wanted = [self._library.InferRequestedOutput(key, **http) for key in outputs]
        with self._explained(f"running the model {name}"):
            result = self._client.infer(
                name, inputs, model_version=version, outputs=wanted, **self._calls
            )
            arrays = {key: result.as_numpy(key) for key in outputs}
        for key, value in arrays.items():
            if value is None:
                raise RequestRefused(
                    f"The server at {self.url} left out the output {key!r} of {name}.",
                    "Look at the server's log.",
                )
            if value.dtype == object:  # texts come as bytes over gRPC, as str in JSON
                arrays[key] = np.vectorize(_as_bytes, otypes=[object])(value)
        response = result.get_response()
        if isinstance(response, dict):
            version, parameters = response.get("model_version", ""), response.get("parameters")
        else:
            version = response.model_version
            parameters = {key: value.string_param for key, value in response.parameters.items()}
        return Answer(arrays, str(version), dict(parameters or {}))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _parameters(self, name: str, version: str) -> dict[str, str]:
        """Of the model's configuration: an extension that Triton has."""
        try:
            found = self._as_json(self._client.get_model_config, name, version)
        except Exception:  # any other server: each refuses in a way of its own
            return {}
        parameters = found.get("config", found).get("parameters") or {}
        return {key: str(value.get("string_value", "")) for key, value in parameters.items()}

    def _binary_data(self) -> bool:
        """Whether the server takes tensors as bytes behind the JSON, rather than in it."""
        if self._binary is None:
            with self._explained("asking for its extensions"):
                found = self._client.get_server_metadata()
            self._binary = _BINARY in (found.get("extensions") or ())
        return self._binary

    def _as_json(self, call: Any, name: str, version: str) -> dict[str, Any]:
        form = {"as_json": True} if self.protocol == "grpc" else {}
        found = call(name, version, **form, **self._calls)
        return dict(found)

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as error:
            text = error.message() or str(error)
            status = str(error.status() or "")
            if any(word in status for word in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")):
                raise self._unreachable(doing, text) from error
            too_large = "larger than max" in text
            raise RequestRefused(
                f"The server at {self.url} refused, {doing}: {_short(text)}",
                "Send fewer images a request, or raise the server's limit (MLServer: "
                "MLSERVER_GRPC_MAX_MESSAGE_LENGTH, in bytes)."
                if too_large
                else "Check the model's name and version, and the server's log.",
            ) from error
        except MimiqError:
            raise
        # Refused, reset, timed out, closed half-way; or what the parsers of three libraries raise
        # of an answer that is no inference server's.
        except Exception as error:
            raise self._unreachable(doing, str(error)) from error

    def _unreachable(self, doing: str, why: str) -> EnvironmentLacks:
        return EnvironmentLacks(
            f"No {self.protocol} inference server answers at {self.url}, {doing}: {_short(why)}",
            "Check that it runs, its port and `protocol` (Triton: http 8000, grpc 8001; MLServer: "
            "8080, 8081). One that is only starting is waited for with `wait_s=60`.",
        )


def _library(protocol: Protocol) -> Any:
    try:
        if protocol == "grpc":
            import tritonclient.grpc as library
        else:
            import tritonclient.http as library
    except (ImportError, RuntimeError) as error:
        raise missing_extra(f"tritonclient ({protocol})", "serve") from error
    return library


def _tensors(found: Any) -> tuple[Tensor, ...]:
    return tuple(
        # gRPC's JSON writes 64-bit integers as text. The first dimension is the batch's.
        Tensor(entry["name"], entry["datatype"], tuple(int(n) for n in entry["shape"][1:]))
        for entry in found or ()
    )


def _as_bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("utf-8")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 500 else line[:500] + "…"
