#!/usr/bin/env python3
"""Copies a program so that it sees a processor without AVX-512.

    avx2.py PROGRAM COPY      a program in Rust, such as target/release/mmgem
    avx2.py onnxruntime DIR   the installed ONNX Runtime; then PYTHONPATH=DIR compare.py --peers onnx ...

A program asks the processor which registers the system saves (the instruction XGETBV), and uses
AVX-512 only if the answer has those of 512 bits. The copy ignores these bits of the answer. So all
of a Rust program is limited, the crate gemm included; `mmgem bench --vectors 8` limits our kernels
only. ONNX Runtime has no option for this.
"""
import pathlib
import shutil
import sys

# After xgetbv has answered in eax and edx: what each puts together, and the same from five bits of eax.
RUST = ("31c9 0f01d0 48c1e220 4809d0 c3", "31c9 0f01d0 83e01f 0f1f4000 c3")
ONNX = ("0f01d0 89c0 48c1e220 4809c2", "0f01d0 83e01f 89c2 0f1f4000")


def without_avx512(code, asks, name, hint):
    before, after = (bytes.fromhex(each) for each in asks)
    if before not in code:
        sys.exit(f"{name} does not ask as expected: {hint}")
    return code.replace(before, after)


def copy_onnxruntime(folder):
    try:
        import onnxruntime
    except ImportError:
        sys.exit("onnxruntime is not installed: pip install onnxruntime==1.32.0")
    installed = pathlib.Path(onnxruntime.__file__).parent
    library = next((installed / "capi").glob("onnxruntime_pybind11_state*.so"), None)
    code = without_avx512(library.read_bytes() if library else b"", ONNX, f"ONNX Runtime {onnxruntime.__version__}",
                          "install 1.32.0, on Linux for x86-64")
    copy = folder / "onnxruntime"
    (copy / "capi").mkdir(parents=True)
    # Everything else is a link to the installed files.
    for part in (".", "capi"):
        for file in (installed / part).iterdir():
            if file.name != "capi" and file != library:
                (copy / part / file.name).symlink_to(file)
    (copy / "capi" / library.name).write_bytes(code)


def copy_program(program, copy):
    try:
        code = program.read_bytes()
    except OSError as error:
        sys.exit(f"{program} cannot be read: {error.strerror}")
    code = without_avx512(code, RUST, program, "it must be a program in Rust for x86-64")
    copy.write_bytes(code)
    shutil.copymode(program, copy)


if len(sys.argv) != 3:
    sys.exit(__doc__)
out = pathlib.Path(sys.argv[2])
if out.exists():
    sys.exit(f"{out} is there already: remove it, or give another name")
if sys.argv[1] == "onnxruntime":
    copy_onnxruntime(out)
else:
    copy_program(pathlib.Path(sys.argv[1]), out)
