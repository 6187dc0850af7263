# A layer with the packages of one harness's program, as a virtual environment in /opt/harness: it stays when a
# toolset changes. The Python is named by the path that the bundle has, which in this image is a link. A program lives
# for one episode, most of whose time it takes to import its packages and to clear them away: with the collector as it
# is by default that is a fifth more.
ARG BASE
FROM ${BASE}
ARG NAME

COPY program /opt/harness/${NAME}/lib/python3.11/site-packages
COPY packages.txt /opt/harness/${NAME}/packages.txt
RUN mkdir -p /opt/kumite/bin /opt/harness/${NAME}/bin \
    && ln -sf "$(command -v python3)" /opt/kumite/bin/python3.11 \
    && ln -s /opt/kumite/bin/python3.11 /opt/harness/${NAME}/bin/python \
    && ln -s python /opt/harness/${NAME}/bin/python3 \
    && echo "home = /opt/kumite/bin" > /opt/harness/${NAME}/pyvenv.cfg \
    && echo "import atexit, gc; gc.set_threshold(100_000, 50, 1_000); atexit.register(gc.freeze)" \
        > /opt/harness/${NAME}/lib/python3.11/site-packages/collect_seldom.pth \
    && { python3 -m compileall -q -q -j 0 --invalidation-mode unchecked-hash /opt/harness/${NAME}/lib || true; }
