"""An EfficientNet-Lite in PyTorch and as an ONNX graph.

Both are built from the same two files, towers/NAME.json and towers/NAME.safetensors.
"""
import json
import os

import numpy as np
from safetensors.numpy import load_file

DEFAULT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../shared/data/towers/efficientnet_lite2")


def is_tower(cfg):
    return cfg["vision"].get("model_type") == "efficientnet_lite"


class Plan:
    """Builds the network by `maker.conv(x, name, stride, groups, clamp)` and `maker.add(x, y)`."""

    def __init__(self, files):
        self.spec = json.load(open(files + ".json"))
        self.weights = {name: x.astype(np.float32) for name, x in load_file(files + ".safetensors").items()}

    def run(self, maker, x):
        x = maker.conv(x, "stem", 2, 1, True)
        for nth, block in enumerate(self.spec["blocks"]):
            name, y = f"blocks.{nth}", x
            if block["expand"]:
                y = maker.conv(y, name + ".expand", 1, 1, True)
            channels = len(self.weights[name + ".dw.bias"])
            y = maker.conv(y, name + ".dw", block["stride"], channels, True)
            y = maker.conv(y, name + ".project", 1, 1, False)
            x = maker.add(x, y) if block["skip"] else y
        return maker.conv(x, "head", 1, 1, True)


def torch_tower(files):
    """A module from pixels `[b, 3, side, side]` to V `[b, channels, grid, grid]`."""
    import torch
    import torch.nn.functional as F
    plan = Plan(files)

    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.ParameterDict(
                {name.replace(".", "/"): torch.nn.Parameter(torch.from_numpy(x)) for name, x in plan.weights.items()})

        def conv(self, x, name, stride, groups, clamp):
            weight, bias = (self.weights[f"{name}.{part}".replace(".", "/")] for part in ("weight", "bias"))
            kernel, side, padding = weight.shape[2], x.shape[2], weight.shape[2] // 2
            if stride > 1:
                total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
                x, padding = F.pad(x, [total // 2, total - total // 2] * 2), 0
            x = F.conv2d(x, weight, bias, stride, padding, groups=groups)
            return F.relu6(x) if clamp else x

        def add(self, x, y):
            return x + y

        def forward(self, pixels):
            return plan.run(self, pixels)

    return Tower().eval()


def onnx_graph(files, batch, h1, path):
    """Writes a graph from pixels `[batch, 3, side, side]` to unit vectors `[batch, out]`.

    `h1` is its last layer: a weight `[out, in]` and a bias `[out]`.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    plan, nodes, tensors = Plan(files), [], []

    def constant(name, values, dtype=np.float32):
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype), name))
        return name

    def node(op, inputs, name, **how):
        nodes.append(helper.make_node(op, inputs, [name], **how))
        return name

    class Maker:
        def conv(self, x, name, stride, groups, clamp):
            weight = plan.weights[name + ".weight"]
            inputs = [x, constant(name + ".weight", weight), constant(name + ".bias", plan.weights[name + ".bias"])]
            y = node("Conv", inputs, name, auto_pad="SAME_UPPER", strides=[stride] * 2,
                     kernel_shape=weight.shape[2:], group=groups)
            return node("Clip", [y, "low", "high"], name + ".relu6") if clamp else y

        def add(self, x, y):
            return node("Add", [x, y], y + ".sum")

    constant("low", 0), constant("high", 6)
    v = plan.run(Maker(), "x")
    mean = node("ReduceMean", [v], "mean", axes=[2, 3], keepdims=0)
    features = node("Gemm", [mean, constant("h1.weight", h1[0]), constant("h1.bias", h1[1])], "features", transB=1)
    node("LpNormalization", [features], "embed", axis=1)
    info, side = helper.make_tensor_value_info, plan.spec["input"]
    graph = helper.make_graph(nodes, plan.spec["name"], [info("x", TensorProto.FLOAT, [batch, 3, side, side])],
                              [info("embed", TensorProto.FLOAT, [batch, len(h1[1])])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
