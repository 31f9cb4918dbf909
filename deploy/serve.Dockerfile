# A container image that serves one model, on a GPU or on the CPU. It is built in the model's folder:
#   mlflow artifacts download --artifact-uri models:/yolox-boats@champion --dst-path model
#   docker build -f deploy/serve.Dockerfile -t boats model
#   docker run --rm --gpus all -p 127.0.0.1:5001:5001 boats     # on the CPU without --gpus all
# CUDA and cuDNN come from the model's requirements, the GPU's driver from the host.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

WORKDIR /model
# First what changes rarely: a new version of a model does not install everything again.
COPY requirements.txt ./
RUN pip install --no-cache-dir --requirement requirements.txt
COPY . ./

# The server writes nothing; `docker run --read-only --tmpfs /tmp` is enough for it.
RUN useradd --uid 10001 --no-create-home detreg
USER detreg
ENV HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true \
    GIT_PYTHON_REFRESH=quiet \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

EXPOSE 5001
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5001/ping', timeout=5)"]
# As the first process of a container, MLflow's would ignore SIGTERM.
STOPSIGNAL SIGINT
CMD ["mlflow", "models", "serve", "--model-uri", "/model", "--env-manager", "local", "--host", "0.0.0.0", "--port", "5001"]
