"""What the graph is, written into it: model, precision, preprocessing, hashes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes import common

from mimiq.version import __version__

PRODUCER = "mimiq"


class SetMetadata(ir.passes.InPlacePass):
    """Writes ``metadata_props`` and the producer, and removes the exporter's notes on each node.

    Those notes hold stack traces, with the paths of the machine that exported.
    """

    def __init__(self, properties: Mapping[str, str]) -> None:
        super().__init__()
        self.properties = dict(properties)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        common.ClearMetadataAndDocStringPass()(model)
        for value in _values(model):
            value.metadata_props.clear()
            value.doc_string = None
        model.metadata_props.clear()
        model.metadata_props.update(self.properties)
        model.producer_name = PRODUCER
        model.producer_version = __version__
        model.doc_string = None
        model.graph.doc_string = None
        model.graph.metadata_props.clear()
        return ir.passes.PassResult(model, modified=True)


def _values(model: ir.Model) -> list[ir.Value]:
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        values += node.outputs
    return values
