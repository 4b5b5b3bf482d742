# ltcam on CPUs; the image's working folder is /workspace:
#   docker build --tag ltcam .
#   docker run --rm --volume "$PWD:/workspace" --user "$(id -u):$(id -g)" ltcam runs
FROM python:3.12-slim-bookworm
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision
COPY pyproject.toml README.md LICENSE /src/
COPY conf /src/conf
COPY hydra_plugins /src/hydra_plugins
COPY ltcam_cli /src/ltcam_cli
RUN pip install --no-cache-dir "/src[report,deploy]"
RUN useradd --home-dir /workspace --create-home ltcam
ENV HOME=/workspace
USER ltcam
WORKDIR /workspace
ENTRYPOINT ["ltcam"]
