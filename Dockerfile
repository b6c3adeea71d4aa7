# Two images. `training` runs the stages and holds no Dagster; `orchestration` adds the Dagster UI, which
# starts the stages itself, and needs no GPU. Both work on a mounted checkout, whose data stays outside the image:
#   docker build --target training -t vatt-training .
#   docker run --gpus all --shm-size 8g -v "$PWD:/app" vatt-training dvc repro pretrain
#   docker build --target orchestration -t vatt-orchestration .
#   docker run --network host -v "$PWD:/app" vatt-orchestration

FROM python:3.11-slim AS training
# git: DVC works in a repository, and the code version is recorded with every model.
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv==0.13.8 \
    && useradd --create-home --uid 1000 vatt
WORKDIR /app
# Dependencies first: a change of the code does not install them again. The lock holds the tested versions.
COPY pyproject.toml requirements.lock requirements-dvc.lock ./
RUN uv pip install --system --no-cache --constraint requirements.lock -r pyproject.toml --extra train
# DVC in an environment of its own, as with `make setup`: its packages and Dagster's exclude each other.
RUN uv venv --quiet /opt/dvc \
    && uv pip install --python /opt/dvc/bin/python --no-cache --require-hashes -r requirements-dvc.lock \
    && ln -s /opt/dvc/bin/dvc /usr/local/bin/dvc
COPY . .
# The package itself, for its version; a mounted checkout in the working folder is what runs.
RUN uv pip install --system --no-cache --no-deps . && git config --system --add safe.directory /app
ENV PYTHONUNBUFFERED=1 DVC_NO_ANALYTICS=1
USER vatt
CMD ["python", "-m", "vatt", "--help"]

FROM training AS orchestration
USER root
RUN uv pip install --system --no-cache --constraint requirements.lock -r pyproject.toml --extra orchestration
USER vatt
ENV DAGSTER_HOME=/home/vatt/dagster
RUN mkdir -p "$DAGSTER_HOME" && cp orchestration/dagster.yaml "$DAGSTER_HOME/"
CMD ["dg", "dev", "--host", "127.0.0.1", "--port", "3000"]
