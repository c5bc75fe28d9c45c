"""What a build context says of itself: its steps for podman, docker and buildah, and a text for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reprokit._version import __version__

__all__ = ["ImageContext", "containerfile", "readme"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageContext:
    """What was written.

    Attributes:
        base: The image that it is built on.
        needs: The Python that it must have.
        packages: Those of the run's environment.
        size: Of all files, in bytes.
    """

    folder: Path
    run_id: str
    base: str
    needs: str
    environment: str
    packages: int
    size: int

    @property
    def image(self) -> str:
        """The name that the commands in README.txt give the image."""
        return f"reprokit-{self.run_id}"


def containerfile(context: ImageContext) -> str:
    """Return the steps of the build; none of them needs a shell, or a network."""
    return f"""\
# Reproduces run {context.run_id}; written by reprokit {__version__}. README.txt says how to build and run it.
ARG BASE={context.base}

FROM ${{BASE}} AS build
COPY reprokit /reprokit/from/reprokit
RUN ["python3", "-m", "venv", "/reprokit/tool"]
RUN ["/reprokit/tool/bin/python", "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir", \
"install", "--quiet", "--no-index", "--no-deps", "--find-links", "/reprokit/from/reprokit", \
"--requirement", "/reprokit/from/reprokit/requirements.txt"]
COPY conda /reprokit/cache/conda
COPY wheels /reprokit/from/wheels
COPY environment.lock.json /reprokit/from/
ENV REPROKIT_CACHE=/reprokit/cache GIT_PYTHON_REFRESH=quiet PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1 \
PIP_FIND_LINKS=/reprokit/from/wheels
RUN ["/reprokit/tool/bin/reprokit", "env", "build", "/reprokit/from/environment.lock.json"]
RUN ["/reprokit/tool/bin/python", "-c", \
"import compileall; compileall.compile_dir('/reprokit/cache/environments', quiet=2, workers=0)"]

FROM ${{BASE}}
ENV REPROKIT_HOME=/reprokit/home REPROKIT_CACHE=/reprokit/cache REPROKIT_REGISTRY=/reprokit/registry \
REPROKIT_OFFLINE=1 GIT_PYTHON_REFRESH=quiet
COPY --from=build /reprokit/tool /reprokit/tool
COPY --from=build /reprokit/cache/environments /reprokit/cache/environments
LABEL org.opencontainers.image.title="{context.image}"
COPY registry /reprokit/registry
ENTRYPOINT ["/reprokit/tool/bin/reprokit"]
CMD ["reproduce", "-y", "{context.run_id}"]
"""


def readme(context: ImageContext) -> str:
    """Return what a person does with the folder."""
    image = context.image
    return f"""\
An image that reproduces run {context.run_id}: its environment ({context.packages} packages), code, data and
checkpoints are in this folder. Building it asks no network but for the base image,
{context.base},
which must have {context.needs}: `--build-arg BASE=IMAGE` names another one.

    podman build --network none -t {image} .
    podman run --rm --network none {image}

    docker build --network none -f Containerfile -t {image} .
    docker run --rm --network none {image}

    buildah build --network none -t {image} .
    buildah run --network none $(buildah from {image}) -- /reprokit/tool/bin/reprokit reproduce -y {context.run_id}

It ends with the verdict, and exit code 0 if the run was reproduced, 7 if it diverged, 8 if nothing could be compared.
Other commands of reprokit take its place: `podman run --rm {image} show {context.run_id}`.
Data loaders with worker processes may need more shared memory: `--shm-size 2g`.
"""
