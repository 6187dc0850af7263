"""PyYAML's safe dumper, which looks at a string once only to see how it may be written.

What tools give is written down as YAML by PyYAML's pure-Python emitter, which goes through every string
character by character; it is half of what a tool call costs. Most strings are the environment's own: a
session inherits what the tool host has found out about them. (libyaml's emitter is quick, but it breaks long
lines elsewhere, and a policy is to read what AgentDojo would have it read.)
"""

from functools import cache
from io import StringIO

import yaml
from yaml.emitter import Emitter, ScalarAnalysis


class RememberingDumper(yaml.SafeDumper):
    """Writes what `yaml.SafeDumper` writes."""

    def analyze_scalar(self, scalar: str) -> ScalarAnalysis:
        return _analysis(scalar, bool(self.allow_unicode))


@cache
def _analysis(scalar: str, allow_unicode: bool) -> ScalarAnalysis:
    return Emitter(StringIO(), allow_unicode=allow_unicode).analyze_scalar(scalar)
