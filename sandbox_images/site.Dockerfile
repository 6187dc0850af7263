# The layers below every sandbox image's own: a base with Python 3.11, and the image's packages in /opt/site.
ARG BASE
FROM ${BASE}

RUN ["python3", "-c", "import sys; sys.exit(None if sys.version_info[:2] == (3, 11) else 'the base image has Python ' + sys.version.split()[0] + ', not 3.11')"]

# Nothing is installed or gains privileges at run time. The public Python image comes without byte code.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/site-packages/* \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && python3 -m compileall -q -j 0 -x "/(test|lib2to3|site-packages|dist-packages)/" \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

# Compiled here, since the root file system is read-only at run time. A package may ship a file that does
# not compile (a template, an example); importing it would say so.
COPY site /opt/site
RUN python3 -m compileall -q -q -j 0 --invalidation-mode unchecked-hash /opt/site || true

ENV PYTHONPATH=/opt/kumite:/opt/site PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8 HOME=/scratch TMPDIR=/scratch
