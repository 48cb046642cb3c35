"""A client of the Open Inference Protocol (V2), over HTTP or gRPC, by NVIDIA's ``tritonclient``.

It speaks to Triton, MLServer and KServe's servers alike. ``tritonclient`` is imported when the
first client is made (extra ``serve``). One client belongs to one thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Self
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from mimiq.errors import BadInput, CheckFailed, EnvironmentLacks, MimiqError, missing_extra
from mimiq.runtime.serving.descriptions import ServedModel, description
from mimiq.runtime.serving.http_questions import Reply, asked

Protocol = Literal["http", "grpc"]
QUESTION_S = 5.0  # for what a server that works answers at once
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]\\]+):([0-9]{1,5})")
_BINARY = "binary_tensor_data"
_MAX_MESSAGE = 2**31 - 1
GRPC_MESSAGE_BYTES = 4 * 2**20  # what a gRPC server takes unless it is told otherwise, as MLServer


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
        timeout_s: of every call, in seconds, from its first byte to its last.

    Raises:
        BadInput: the address is none.
        EnvironmentLacks: ``tritonclient`` is not installed.
    """

    def __init__(self, url: str, protocol: Protocol = "http", timeout_s: float = 60.0) -> None:
        address = _ADDRESS.fullmatch(url)
        # Bytes of the command line that are no text are not printable.
        if address is None or not url.isprintable() or not 0 < int(address[2]) < 65536:
            raise _no_address(url)
        self.url, self.protocol = url, protocol
        self._host, self._port = address[1].strip("[]"), int(address[2])
        self._timeout_s = timeout_s
        self._library = _library(protocol)
        if protocol == "grpc":
            options = [
                ("grpc.max_send_message_length", _MAX_MESSAGE),
                ("grpc.max_receive_message_length", _MAX_MESSAGE),
            ]
            self._client = self._library.InferenceServerClient(url, channel_args=options)
        else:
            try:
                self._client = self._library.InferenceServerClient(
                    url, connection_timeout=timeout_s, network_timeout=timeout_s
                )
            except ValueError as error:  # a host that no name can have
                raise _no_address(url) from error
        self._binary: bool | None = None

    def live(self, within_s: float = QUESTION_S) -> bool:
        """Whether the server lives.

        Args:
            within_s: seconds to answer in, where they are fewer than those of every call.

        Raises:
            EnvironmentLacks: it cannot be reached, or is no inference server.
        """
        within_s = min(within_s, self._timeout_s)
        with self._explained("asking whether it lives"):
            if self.protocol == "http":
                return self._asked("v2/health/live", within_s).live()
            return bool(self._client.is_server_live(client_timeout=within_s))

    def model_ready(self, name: str, version: str = "", within_s: float = QUESTION_S) -> bool:
        """Whether the model can be asked."""
        within_s = min(within_s, self._timeout_s)
        with self._explained(f"asking for the model {name}"):
            if self.protocol == "http":
                return self._asked(f"{_path(name, version)}/ready", within_s).status == 200
            return bool(self._client.is_model_ready(name, version, client_timeout=within_s))

    def metadata(self, name: str, version: str = "", within_s: float | None = None) -> ServedModel:
        """What the server says of the model.

        Args:
            within_s: seconds to answer in; by default those of every call.

        Raises:
            RequestRefused: there is no such model.
            EnvironmentLacks: the server cannot be reached, or answers with no description.
        """
        within_s = min(within_s or self._timeout_s, self._timeout_s)
        with self._explained(f"asking for the model {name}"):
            if self.protocol == "http":
                reply = self._asked(_path(name, version), within_s)
                found = reply.json()
                if reply.status != 200:
                    raise self._refused(
                        f"asking for the model {name}",
                        str(found.get("error") or found.get("detail") or found),
                    )
            else:
                found = dict(
                    self._client.get_model_metadata(
                        name, version, as_json=True, client_timeout=within_s
                    )
                )
            described = description(name, found)
        return replace(described, parameters=self._parameters(name, version, within_s))

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
            result = self._run(name, inputs, model_version=version, outputs=wanted)
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
            parameters = parameters if isinstance(parameters, dict) else {}
        else:
            version = response.model_version
            parameters = {key: value.string_param for key, value in response.parameters.items()}
        return Answer(arrays, str(version), parameters)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, name: str, inputs: list[Any], **more: Any) -> Any:
        if self.protocol == "grpc":
            return self._client.infer(name, inputs, client_timeout=self._timeout_s, **more)
        from gevent import Timeout

        try:
            with Timeout(self._timeout_s):  # the client's own counts from byte to byte
                return self._client.infer(name, inputs, **more)
        except Timeout as error:
            raise TimeoutError(f"it gave no whole answer within {self._timeout_s:g} s") from error

    def _asked(self, path: str, within_s: float) -> Reply:
        return asked(self._host, self._port, f"/{path}", within_s)

    def _parameters(self, name: str, version: str, within_s: float) -> dict[str, str]:
        """Of the model's configuration: an extension that Triton has."""
        try:
            if self.protocol == "http":
                found = self._asked(f"{_path(name, version)}/config", within_s).json()
            else:
                found = self._client.get_model_config(
                    name, version, as_json=True, client_timeout=within_s
                )
            parameters = found.get("config", found).get("parameters") or {}
            return {key: str(value.get("string_value", "")) for key, value in parameters.items()}
        except Exception:  # any other server: each refuses in a way of its own
            return {}

    def _binary_data(self) -> bool:
        """Whether the server takes tensors as bytes behind the JSON, rather than in it."""
        if self._binary is None:
            with self._explained("asking for its extensions"):
                found = self._asked("v2", self._timeout_s).json()
                self._binary = _BINARY in list(found.get("extensions") or ())
        return self._binary

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
            raise self._refused(doing, text) from error
        except MimiqError:
            raise
        # Refused, reset, timed out, closed half-way; or what the parsers of three libraries raise
        # of an answer that is no inference server's.
        except Exception as error:
            raise self._unreachable(doing, str(error)) from error

    def _refused(self, doing: str, text: str) -> RequestRefused:
        return RequestRefused(
            f"The server at {self.url} refused, {doing}: {_short(text)}",
            "Send fewer images a request, or raise the server's limit (MLServer: "
            "MLSERVER_GRPC_MAX_MESSAGE_LENGTH, in bytes)."
            if "larger than max" in text
            else "Check the model's name and version, and the server's log.",
        )

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


def _no_address(url: str) -> BadInput:
    return BadInput(f"{url!r} is no address.", "Give HOST:PORT, e.g. localhost:8000.")


def _path(name: str, version: str) -> str:
    versions = f"/versions/{quote(version, safe='')}" if version else ""
    return f"v2/models/{quote(name, safe='')}{versions}"


def _as_bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("utf-8")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 500 else line[:500] + "…"
