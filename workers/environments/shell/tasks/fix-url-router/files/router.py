"""Finds the handler of a path: routes like `/users/<id:int>/posts/<slug>`."""

import re

TYPES = {"int": r"\d*", "str": r".+", "path": r"[^/]+"}


class Router:
    def __init__(self):
        self.routes = []

    def add(self, pattern, handler):
        regex = pattern
        for name, kind in re.findall(r"<(\w+):?(\w*)>", pattern):
            regex = regex.replace(f"<{name}:{kind}>", f"(?P<{name}>{TYPES[kind]})")
        self.routes.append((re.compile(regex), handler))

    def match(self, path):
        path = path.split("?")[0]
        for regex, handler in self.routes:
            found = regex.match(path)
            if found:
                return handler, found.groupdict()
        return None

    def url(self, handler, **values):
        for regex, candidate in self.routes:
            if candidate == handler:
                url = regex.pattern
                for name, value in values.items():
                    url = re.sub(rf"\(\?P<{name}>.*\)", value, url)
                return url
