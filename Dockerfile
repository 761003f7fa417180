# parmflow in a container, see docs/service.md: `docker build --tag parmflow .` has the tested packages on Debian,
# `docker build --target conda .` current psi4 and the OpenFF toolkit from conda-forge (not built in CI nor by us).
FROM debian:12-slim AS base
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
# Whoever runs it, by --user too, can write a home (caches) and /work; there the QM store is kept.
RUN useradd chemist && install --directory --mode 1777 /home/chemist /work
ENV HOME=/home/chemist XDG_DATA_HOME=/work
WORKDIR /work
# Python as process 1 would ignore `docker stop` and leave the orphans of killed runs as zombies.
ENTRYPOINT ["tini", "--", "parmflow"]
CMD ["--help"]

FROM mambaorg/micromamba:2-debian12-slim AS conda-packages
USER root
WORKDIR /opt/parmflow
COPY . .
RUN micromamba create --yes --prefix /opt/conda --file environment.yml

FROM base AS conda
COPY --from=conda-packages /opt/conda /opt/conda
COPY --from=conda-packages /opt/parmflow /opt/parmflow
ENV PATH=/opt/conda/bin:$PATH
USER chemist

FROM debian:12-slim AS packages
RUN apt-get update && apt-get install --yes --no-install-recommends make python3.11-venv
WORKDIR /src
COPY . .
# A setting of pip's own, so that torch can come without CUDA.
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip \
    make packages VENV=/opt/parmflow EDITABLE= EXTRAS=postgres,dask

FROM base
COPY .ci/system-packages /usr/local/sbin/
RUN apt-get update && apt-get install --yes --no-install-recommends python3.11 \
    && system-packages --must psi4 libopenblas0-openmp mopac gromacs lammps libxrender1 libxext6 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages /opt/parmflow /opt/parmflow
ENV PATH=/opt/parmflow/bin:$PATH
USER chemist
