"""Builds the typed Python stubs from the .proto files, as hatchling's build hook or as a script.

As a script it writes stubs/; given a file it writes the contract's descriptor there, which `buf` reads.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent


class StubBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs protoc before hatchling collects the files of a wheel or an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version, build_data
        build_stubs(Path(self.root))


def build_stubs(root: Path) -> None:
    """Write `stubs/bulksms/**` below `root`: messages, services and their .pyi files."""
    stubs = root / "stubs"
    shutil.rmtree(stubs, ignore_errors=True)
    stubs.mkdir()
    _compile(
        root,
        f"--python_out={stubs}",
        f"--grpc_python_out={stubs}",
        f"--plugin=protoc-gen-mypy={_plugin('protoc-gen-mypy')}",
        f"--mypy_out={stubs}",
        f"--plugin=protoc-gen-mypy_grpc={_plugin('protoc-gen-mypy_grpc')}",
        f"--mypy_grpc_out=only_async:{stubs}",
    )
    for folder in [stubs / "bulksms", *(p for p in (stubs / "bulksms").rglob("*") if p.is_dir())]:
        (folder / "__init__.py").touch()
        (folder / "py.typed").touch()


def build_descriptor(root: Path, target: Path) -> None:
    """Write all files below `root`, with what they import and their comments, as one FileDescriptorSet."""
    _compile(root, "--include_imports", "--include_source_info", f"--descriptor_set_out={target}")


def _compile(root: Path, *outputs: str) -> None:
    import grpc_tools
    from google.api import field_behavior_pb2
    from grpc_tools import protoc

    sources = sorted(str(path.relative_to(root)) for path in (root / "bulksms").rglob("*.proto"))
    arguments = [
        "protoc",
        f"--proto_path={root}",
        f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
        # google/api/*.proto stand beside their Python modules.
        f"--proto_path={Path(field_behavior_pb2.__file__).parents[2]}",
        *outputs,
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed: the message above names the file and line")


def _plugin(name: str) -> str:
    """Path of a protoc plugin: beside this interpreter, else in its scripts folder (build isolation)."""
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} not found: install mypy-protobuf into this environment")
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        build_descriptor(HERE, Path(sys.argv[1]))
    else:
        build_stubs(HERE)
