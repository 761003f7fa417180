# syntax=docker/dockerfile:1
# parmflow with psi4 and the OpenFF toolkit from conda-forge. Not built in CI; `make env` is the tested way.
FROM mambaorg/micromamba:2-debian12-slim AS build
USER root
WORKDIR /opt/parmflow
COPY . .
RUN micromamba create --yes --prefix /opt/conda/envs/parmflow --file environment.yml \
    && micromamba clean --all --yes

FROM debian:12-slim
RUN useradd --create-home chemist
COPY --from=build /opt/conda/envs/parmflow /opt/conda/envs/parmflow
COPY --from=build /opt/parmflow /opt/parmflow
ENV PATH=/opt/conda/envs/parmflow/bin:$PATH
USER chemist
WORKDIR /home/chemist
ENTRYPOINT ["parmflow"]
CMD ["--help"]
