"""Runs a Dockerfile's own instructions without Docker: each stage is a folder, and absolute paths lie below it.

Only what our Dockerfile uses is known, anything else is an error. The base image is stood in for by a fresh virtual
environment of this Python. Users, capabilities and the base image's own content are not part of it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["DockerfileError", "Image", "build"]

_STEP_TIMEOUT_SECONDS = 600
# Folders our Dockerfile makes; /bin/sh and the like stay what they are.
_OWN_PATH = re.compile(r"(?<![\w./])/(?=(?:application|opt|plan|src|tools|wheels)\b)")
_SAID_ONLY = {"USER", "STOPSIGNAL", "EXPOSE", "ENTRYPOINT", "CMD"}
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


class DockerfileError(Exception):
    """An instruction failed, or is one this does not know."""


@dataclass(slots=True)
class Image:
    """A stage after its last instruction."""

    root: Path
    environment: dict[str, str]
    arguments: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    labels: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    """What a Dockerfile only states: USER, STOPSIGNAL, EXPOSE, ENTRYPOINT, CMD."""

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`docker run`: the entry point with these arguments and nothing but the image's and this environment."""
        program, *before = json.loads(self.said["ENTRYPOINT"])
        return subprocess.run(
            [str(self.find(program)), *before, *(arguments or json.loads(self.said["CMD"]))],
            env={**self.environment, **environment},
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def find(self, name: str) -> Path:
        """The program of this name on the image's PATH."""
        found = shutil.which(name, path=self.environment["PATH"])
        assert found is not None, name
        return Path(found)

    def path(self, absolute: str) -> Path:
        """Where a path of the image really is."""
        return self.root / absolute.removeprefix("/")


def build(dockerfile: Path, context: Path, folder: Path, arguments: Mapping[str, str]) -> Image:
    """Run every stage below `folder`; the last one is the image."""
    base = folder / "base-image"
    subprocess.run([sys.executable, "-m", "venv", str(base)], check=True, timeout=_STEP_TIMEOUT_SECONDS)
    builder = _Builder(context, folder, base, arguments)
    for instruction, text in _instructions(dockerfile.read_text(encoding="utf-8")):
        builder.follow(instruction, text)
    return builder.current


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


class _Builder:
    def __init__(self, context: Path, folder: Path, base: Path, arguments: Mapping[str, str]) -> None:
        self._context = context
        self._folder = folder
        self._base = base
        self._given = arguments
        self._stages: dict[str, Image] = {}
        self._ignored = _Ignored((context / ".dockerignore").read_text(encoding="utf-8"))
        self._steps: dict[str, Callable[[str], None]] = {
            "FROM": self._from,
            "ARG": self._argument,
            "WORKDIR": self._workdir,
            "ENV": self._environment,
            "LABEL": self._labels,
            "COPY": self._copy,
            "RUN": self._run,
        }
        self.current: Image

    def follow(self, instruction: str, text: str) -> None:
        if instruction in _SAID_ONLY:
            self.current.said[instruction] = text
        elif (step := self._steps.get(instruction)) is not None:
            step(text)
        else:
            raise DockerfileError(f"unknown instruction {instruction}")

    def _from(self, text: str) -> None:
        image, _, name = text.partition(" AS ")
        if image != "${PYTHON_IMAGE}" or not name:
            raise DockerfileError(f"only named stages from the base image are known: FROM {text}")
        root = self._folder / name
        root.mkdir()
        self.current = Image(root, {"PATH": f"{self._base}/bin:/usr/bin:/bin", "LANG": "C.UTF-8"})
        self._stages[name] = self.current

    def _argument(self, text: str) -> None:
        if self._stages:  # those before the first stage are only for the base image
            name, _, default = text.partition("=")
            self.current.arguments[name] = self._given.get(name, default)

    def _workdir(self, text: str) -> None:
        self.current.workdir = text
        self.current.path(text).mkdir(parents=True, exist_ok=True)

    def _environment(self, text: str) -> None:
        self.current.environment.update(self._assignments(_OWN_PATH.sub(f"{self.current.root}/", text)))

    def _labels(self, text: str) -> None:
        self.current.labels.update(self._assignments(text))

    def _copy(self, text: str) -> None:
        words = shlex.split(text)
        source = self._context
        wanted = self._ignored
        if words[0].startswith("--from="):
            source = self._stages[words.pop(0).removeprefix("--from=")].root
            wanted = _Ignored("")
        *paths, target = words
        destination = self.current.path(f"{self.current.workdir}/{target}" if target.startswith(".") else target)
        for path in paths:
            origin = source / path.removeprefix("/")
            if origin.is_dir():
                shutil.copytree(origin, destination, ignore=wanted.below(source), symlinks=True, dirs_exist_ok=True)
            elif wanted.ignores(path):
                raise DockerfileError(f"COPY of a file that .dockerignore leaves out: {path}")
            else:
                into = destination / origin.name if target.endswith("/") else destination
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(origin, into)

    def _run(self, text: str) -> None:
        command = re.sub(r"^(--mount=type=cache,\S+\s+)+", "", text)
        # How this machine reaches its package index and keeps its cache is this machine's business.
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(
            ["/bin/sh", "-c", _OWN_PATH.sub(f"{self.current.root}/", command)],
            env={**kept, **self.current.arguments, **self.current.environment},
            cwd=self.current.path(self.current.workdir),
            capture_output=True,
            text=True,
            timeout=_STEP_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise DockerfileError(f"RUN {command}\n{done.stdout}\n{done.stderr}")

    def _assignments(self, text: str) -> dict[str, str]:
        known = {**self.current.arguments, **self.current.environment}
        pairs = (word.partition("=") for word in shlex.split(text))
        return {key: _VARIABLE.sub(lambda m: known[m[1] or m[2]], value) for key, _, value in pairs}


class _Ignored:
    """A .dockerignore: the last pattern that matches a path or a folder above it decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self._patterns = [(line.removeprefix("!"), line.startswith("!")) for line in lines]

    def ignores(self, path: str) -> bool:
        ignored = False
        for pattern, back in self._patterns:
            if self._matches(path, pattern):
                ignored = not back
        return ignored

    def below(self, root: Path) -> Callable[[str, list[str]], set[str]]:
        def names(folder: str, entries: list[str]) -> set[str]:
            here = Path(folder).relative_to(root)
            return {entry for entry in entries if self.ignores((here / entry).as_posix())}

        return names

    @staticmethod
    def _matches(path: str, pattern: str) -> bool:
        parts = path.split("/")
        above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        if pattern.startswith("**/"):
            return any(fnmatchcase(part, pattern.removeprefix("**/")) for part in parts)
        return any(fnmatchcase(part, pattern) for part in above if part.count("/") == pattern.count("/"))
