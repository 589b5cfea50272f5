# mayfly in a container; docs/deploy.md tells how to run it.

# Any Debian or Ubuntu that has Python 3.10 or newer, with venv.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
RUN ["python3", "-m", "venv", "/opt/mayfly"]
WORKDIR /source
COPY requirements.txt ./
RUN ["/opt/mayfly/bin/pip", "install", "--no-cache-dir", "-r", "requirements.txt"]
COPY . ./
# gpt4all's libraries for CUDA are most of its size; without them it computes on the processor, as here.
RUN /opt/mayfly/bin/pip install --no-cache-dir --no-deps . \
    && rm -f /opt/mayfly/lib/python3*/site-packages/gpt4all/llmodel_DO_NOT_MODIFY/build/*cuda*.so
# yes: for deploy/kubernetes/ray.
ARG RAY=no
RUN if [ "$RAY" = yes ]; then /opt/mayfly/bin/pip install --no-cache-dir -r requirements-ray.txt; fi
# build: the default models are in the image. first-start: they are fetched into the volume when there are none.
ARG MODELS=first-start
RUN mkdir /models /data \
    && if [ "$MODELS" = build ]; then MAYFLY_HOME=/tmp/build MODEL_PATH=/models /opt/mayfly/bin/mayfly ensure; fi

FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/mayfly /opt/mayfly
# KubeRay looks for it by a login shell, whose PATH is another.
RUN ln -s /opt/mayfly/bin/ray /usr/local/bin/ray
COPY --from=build --chown=10001:10001 /models /models
COPY --from=build --chown=10001:10001 /data /data
ENV PATH=/opt/mayfly/bin:$PATH \
    HOME=/data MAYFLY_HOME=/data MODEL_PATH=/models \
    LISTEN_IP=0.0.0.0 REQUIRE_KEY=always LAME_DUCK_SECONDS=5
USER 10001:10001
# .env, logs and what runs; models.
VOLUME ["/data", "/models"]
EXPOSE 6008
HEALTHCHECK --interval=30s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-ISc", "import urllib.request as u; u.urlopen('http://127.0.0.1:6008/ready', timeout=4)"]
# On SIGTERM it serves for LAME_DUCK_SECONDS, then GRACE_SECONDS: 'docker stop --time 20'.
ENTRYPOINT ["mayfly"]
CMD ["serve"]
