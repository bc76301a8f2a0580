"""An EfficientNet-Lite as an ONNX graph, from the same safetensors that `mmgem import` reads: towers/*.json and *.safetensors."""
import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file


def graph(stem, batch):
    """The network up to its last map, `[batch, 3, side, side]` → `[batch, channels, grid, grid]`; `stem` names both files."""
    spec, weights = json.load(open(stem + ".json")), load_file(stem + ".safetensors")
    nodes, tensors = [], []

    def constant(name, values):
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    low, high = constant("low", np.array(0)), constant("high", np.array(6))

    def convolution(x, name, stride=1, groups=1, clamp=True):
        weight, bias = weights[name + ".weight"], weights[name + ".bias"]
        inputs = [x, constant(name + ".weight", weight), constant(name + ".bias", bias)]
        nodes.append(helper.make_node("Conv", inputs, [name], auto_pad="SAME_UPPER", strides=[stride] * 2,
                                      kernel_shape=weight.shape[2:], group=groups))
        if not clamp:
            return name
        nodes.append(helper.make_node("Clip", [name, low, high], [name + ".relu6"]))
        return name + ".relu6"

    x = convolution("x", "stem", 2)
    for nth, block in enumerate(spec["blocks"]):
        name, y = f"blocks.{nth}", x
        if block["expand"]:
            y = convolution(y, name + ".expand")
        y = convolution(y, name + ".dw", block["stride"], len(weights[name + ".dw.bias"]))
        y = convolution(y, name + ".project", clamp=False)
        if block["skip"]:
            nodes.append(helper.make_node("Add", [x, y], [name]))
            y = name
        x = y
    x = convolution(x, "head")
    _, channels, grid, _ = spec["feature_map"]
    info = helper.make_tensor_value_info
    inputs = [info("x", TensorProto.FLOAT, [batch, 3, spec["input"], spec["input"]])]
    outputs = [info(x, TensorProto.FLOAT, [batch, channels, grid, grid])]
    made = helper.make_graph(nodes, spec["name"], inputs, outputs, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def export(stem, batch, path):
    model = graph(stem, batch)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
