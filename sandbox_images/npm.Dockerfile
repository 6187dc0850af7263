# The layer of an image's npm packages in /opt/npm, which stays when a toolset changes.
ARG BASE
FROM ${BASE}

COPY npm /opt/npm
