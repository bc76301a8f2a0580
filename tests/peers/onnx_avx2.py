#!/usr/bin/env python3
"""Copies the installed ONNX Runtime into a folder, as a program that sees a processor without AVX-512.

    onnx_avx2.py DIR
    PYTHONPATH=DIR compare.py --peers onnx --vectors 8 ...

ONNX Runtime has no option for this. It asks the processor which registers the system saves (the
instruction XGETBV), and uses AVX-512 only if the answer has those of 512 bits. The copy ignores
these bits of the answer. Everything else is a link to the installed files.
"""
import pathlib
import sys

try:
    import onnxruntime
except ImportError:
    sys.exit("onnxruntime is not installed: pip install onnxruntime==1.32.0")

# xgetbv; mov eax, eax; shl rdx, 32; or rdx, rax
ASKS = bytes.fromhex("0f01d0 89c0 48c1e220 4809c2")
# xgetbv; and eax, 0x1f; mov edx, eax; nop
IGNORES = bytes.fromhex("0f01d0 83e01f 89c2 0f1f4000")

if len(sys.argv) != 2:
    sys.exit(__doc__)
installed = pathlib.Path(onnxruntime.__file__).parent
copy = pathlib.Path(sys.argv[1]) / "onnxruntime"
if copy.exists():
    sys.exit(f"{copy} is there already: remove it, or give another folder")
library = next((installed / "capi").glob("onnxruntime_pybind11_state*.so"), None)
code = library.read_bytes() if library else b""
if ASKS not in code:
    sys.exit(f"ONNX Runtime {onnxruntime.__version__} asks in another way: install 1.32.0, on Linux for x86-64")
(copy / "capi").mkdir(parents=True)
for folder in (".", "capi"):
    for file in (installed / folder).iterdir():
        if file.name != "capi" and file != library:
            (copy / folder / file.name).symlink_to(file)
(copy / "capi" / library.name).write_bytes(code.replace(ASKS, IGNORES))
