"""Build stand-ins for the libraries of CUDA that a CUDA build of torch links to: README.md says how to use them.

    python build.py SITE CUDA_INCLUDE CUDNN_INCLUDE OUTPUT

SITE is a directory with an unpacked wheel of torch, and one of bitsandbytes where that is to run too. Every function
that their libraries import and that is not written out in the C files beside this script does nothing and returns 0,
which is success.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent
# What a symbol starts with -> the library it is from; the first that fits.
LIBRARIES = {
    "cublasLt": "cublasLt",
    "cublas": "cublas",
    "cudnn": "cudnn",
    "cufft": "cufft",
    "cusparseLt": "cusparseLt",
    "cusparse": "cusparse",
    "curand": "curand",
    "nccl": "nccl",
    "cusolver": "cusolver",
    "cuFile": "cufile",
    "cupti": "cupti",
    "nvJitLink": "nvJitLink",
    "nvrtc": "nvrtc",
    r"nvshmem\w*": "nvshmem_host",
    "__cuda": "cudart",
    "cuda": "cudart",
    "cu": "cuda",
}
NVML = (
    "nvmlInit_v2",
    "nvmlDeviceGetHandleByPciBusId_v2",
    "nvmlDeviceGetNvLinkRemoteDeviceType",
    "nvmlDeviceGetNvLinkRemotePciInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGpuFabricInfoV",
    "nvmlSystemGetCudaDriverVersion_v2",
)


def read(*command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def imports(libraries: list[Path]) -> tuple[set[str], dict[str, str]]:
    """Return the names of the libraries that are needed, and the undefined symbols with their versions."""
    needed: set[str] = set()
    symbols: dict[str, str] = {}
    for library in libraries:
        needed |= set(re.findall(r"NEEDED.*\[(.*)\]", read("readelf", "-d", str(library))))
        for line in read("readelf", "-W", "--dyn-syms", str(library)).splitlines():
            fields = line.split()
            if len(fields) >= 8 and fields[6] == "UND":
                name, _, version = fields[7].partition("@")
                symbols[name] = version or symbols.get(name, "")
    return needed - {library.name for library in libraries}, symbols


def libraries_of(site: Path) -> list[Path]:
    """Return torch's libraries, and those of bitsandbytes for the same release of CUDA."""
    torch = sorted((site / "torch" / "lib").glob("*.so*"))
    runtimes = {name for name in imports(torch)[0] if name.startswith("libcudart.")}
    found = sorted((site / "bitsandbytes").glob("libbitsandbytes_cuda*.so"))
    return [*torch, *(library for library in found if runtimes & imports([library])[0])]


def owner(symbol: str) -> str | None:
    """Return the library that a symbol is from, if it is one of CUDA's."""
    return next((library for start, library in LIBRARIES.items() if re.match(rf"{start}(?![a-z])", symbol)), None)


def compile_library(name: str, symbols: dict[str, str], includes: list[str], output: Path) -> None:
    """Compile the stand-in of one library, `name` being its file name."""
    stem = name.removeprefix("lib").partition(".so")[0]
    generated = output / f"{stem}.c"
    functions = [f"__attribute__((weak)) int {symbol}(void) {{ return 0; }}\n" for symbol in symbols]
    generated.write_text("".join(functions) or f"int stand_in_{stem};\n")
    written = {"cudart": ["runtime.c"], "cudnn": ["cudnn.c", "libraries.c"], "nccl": ["nccl.c"]}.get(
        stem, ["libraries.c"]
    )
    command = ["gcc", "-w", "-O1", "-shared", "-fPIC", f"-DLIB_{stem}", *(f"-I{path}" for path in includes)]
    command += [str(generated), *(str(SOURCES / source) for source in written), f"-Wl,-soname,{name}"]
    versions = sorted({version for version in symbols.values() if version})
    if versions:
        script = output / f"{stem}.map"
        script.write_text("".join(f"{version} {{ global: *; }};\n" for version in versions))
        command.append(f"-Wl,--version-script={script}")
    subprocess.run([*command, "-o", str(output / name)], check=True)


def main() -> None:
    """Build all of them."""
    site, *includes, folder = sys.argv[1:]
    output = Path(folder)
    output.mkdir(parents=True, exist_ok=True)
    needed, symbols = imports(libraries_of(Path(site)))
    for name in sorted(needed):
        stem = name.removeprefix("lib").partition(".so")[0]
        if stem in LIBRARIES.values():
            own = {symbol: version for symbol, version in symbols.items() if owner(symbol) == stem}
            compile_library(name, own, includes, output)
    management = output / "nvml.c"
    management.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in NVML))
    target = output / "libnvidia-ml.so.1"
    command = ["gcc", "-shared", "-fPIC", str(management), "-Wl,-soname,libnvidia-ml.so.1", "-o", str(target)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
