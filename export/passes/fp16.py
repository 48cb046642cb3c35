"""The half-precision form of a graph, for TensorRT's strongly typed networks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.errors import UnsupportedModel
from mimiq.export.attention import activation_qdq
from mimiq.export.graph import (
    DEQUANTIZE,
    QUANTIZE,
    add_initializer,
    array,
    consumers,
    nodes_of,
    producer,
)

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
MODE='A'

class ToHalf(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        island = _float_nodes(model)
        casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        graph=model.graph
        for node in nodes_of(model):
            wanted = FLOAT if node in island else HALF
            for i, v in enumerate(node.inputs):
                if v is None or v.dtype not in (FLOAT, HALF): continue
                c = array(v)
                have = v.dtype
                if have==wanted and not (v.is_graph_input()): continue
                key=(v,wanted)
                if key not in casts:
                    if c is not None:
                        casts[key]=add_initializer(graph, v.name, c.astype(np.float16 if wanted==HALF else np.float32))
                    else:
                        if have==wanted: continue
                        cn=ir.node('Cast',[v],{'to':int(wanted)},name=f'{v.name}/{wanted}')
                        cn.outputs[0].type=ir.TensorType(wanted); cn.outputs[0].shape=v.shape
                        pr=v.producer()
                        if pr is None: graph.insert_before(graph[0],cn)
                        else: graph.insert_after(pr,cn)
                        casts[key]=cn.outputs[0]
                node.replace_input_with(i,casts[key])
            for o in node.outputs:
                if o.dtype==FLOAT: o.type=ir.TensorType(wanted)
            if node.op_type=='Cast': raise UnsupportedModel('x')
        for i,o in enumerate(graph.outputs):
            if o.dtype==HALF:
                name=o.name; o.name=name+'_half'
                cn=ir.node('Cast',[o],{'to':int(FLOAT)},name='cast_out')
                cn.outputs[0].type=ir.TensorType(FLOAT); cn.outputs[0].shape=o.shape; cn.outputs[0].name=name
                graph.append(cn); graph.outputs[i]=cn.outputs[0]
        return ir.passes.PassResult(model, True)

def _float_nodes(model):
    out=set()
    for node in nodes_of(model,'MatMul'):
        w=producer(node.inputs[1],DEQUANTIZE)
        a=producer(node.inputs[0],DEQUANTIZE)
        linear = w is not None and array(w.inputs[0]) is not None
        if linear and a is not None and 'L' in MODE:
            out|={node,w,a,producer(a.inputs[0])}
            q=producer(a.inputs[0]); cl=producer(q.inputs[0],'Clip')
            if cl: out.add(cl)
            for c in consumers(node.outputs[0],'Add'):
                if array(c.inputs[1]) is not None: out.add(c)
        if not linear:
            for v in node.inputs:
                d=activation_qdq(v)
                if d is not None and 'Q' in MODE:
                    q=producer(d.inputs[0]); out|={d,q}
                    cl=producer(q.inputs[0],'Clip')
                    if cl: out.add(cl)
            if 'M' in MODE: out.add(node)
            if 'S' in MODE:
                out|=set(consumers(node.outputs[0],'Softmax'))
    return out
