"""Works out from the pyproject.toml files what the image of one service is built from."""

# ruff: noqa: INP001 - a script of the Dockerfile, in no package
from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Plan", "plan"]

_FOLDERS = ("protos", "libs/*", "services/*")


@dataclass(frozen=True, slots=True)
class Plan:
    """The service's package and three pip requirement files, sorted: equal content is an unchanged image layer."""

    package: str
    own: tuple[str, ...]
    """Folders of this repository, relative to its root: `./libs/servicekit`."""
    third_party: tuple[str, ...]
    build: tuple[str, ...]


def plan(root: Path, service: str) -> Plan:
    """Follow the dependencies of `services/<service>` through this repository; SystemExit when there is none."""
    projects = {_key(project["project"]["name"]): (folder, project) for folder, project in _projects(root)}
    start = _key(f"bulksms-{service}")
    if start not in projects or not projects[start][0].startswith("./services/"):
        known = sorted(folder.removeprefix("./services/") for folder, _ in projects.values() if "/services/" in folder)
        raise SystemExit(f"SERVICE is {service!r}: it must be one of {', '.join(known)}")
    own: set[str] = set()
    third_party: set[str] = set()
    build: set[str] = set()
    todo = [start]
    while todo:
        folder, project = projects[todo.pop()]
        if folder in own:
            continue
        own.add(folder)
        build.update(project["build-system"]["requires"])
        for requirement in project["project"].get("dependencies", []):
            if (name := _key(requirement)) in projects:
                todo.append(name)
            else:
                third_party.add(requirement)
    return Plan(start.replace("-", "_"), tuple(sorted(own)), tuple(sorted(third_party)), tuple(sorted(build)))


def write(folder: Path, made: Plan) -> None:
    """Write `own.txt`, `third-party.txt` and `build.txt` for `pip --requirement`, and `package.txt`."""
    folder.mkdir(parents=True)
    (folder / "package.txt").write_text(f"{made.package}\n", encoding="utf-8")
    for name, lines in (("own", made.own), ("third-party", made.third_party), ("build", made.build)):
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _projects(root: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    for pattern in _FOLDERS:
        for folder in sorted(root.glob(pattern)):
            if (file := folder / "pyproject.toml").is_file():
                yield f"./{folder.relative_to(root).as_posix()}", tomllib.loads(file.read_text(encoding="utf-8"))


def _key(requirement: str) -> str:
    """The normalised name a requirement begins with: `redis` of `redis[hiredis]>=8.1`."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    if match is None:
        raise SystemExit(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match[0]).lower()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: distributions.py SERVICE FOLDER")
    write(Path(sys.argv[2]), plan(Path.cwd(), sys.argv[1]))
