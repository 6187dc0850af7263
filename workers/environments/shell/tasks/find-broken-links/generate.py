"""A manual with links, some of them broken, and some that only look like it."""

import posixpath
import re
from random import Random

TOPICS = "install upgrade network storage backup users roles api limits logging alerts faq".split()
HEADINGS = ["Getting Started", "What's New?", "How-to: Scale Up", "Notes (2024)", "Before You Begin", "See Also", "C++ & Co."]


def generate(random: Random) -> tuple[dict[str, str], list[str]]:
    paths = ["index.md", *(f"{random.choice(['', 'guide/', 'guide/admin/', 'ref/'])}{topic}.md" for topic in TOPICS)]
    headings = {path: random.sample(HEADINGS, random.randrange(2, 5)) for path in paths}
    broken: set[tuple[str, str]] = set()
    files: dict[str, str] = {}
    for path in paths:
        lines = [f"# {path.rpartition('/')[2].removesuffix('.md').title()}", ""]
        for heading in headings[path]:
            lines += [f"{'#' * random.randrange(2, 5)} {heading}", ""]
            for _ in range(random.randrange(2, 7)):
                target, is_broken = link(random, path, paths, headings)
                lines.append(f"See [{random.choice(['this page', 'that', 'the *manual*'])}]({target}) for more.")
                if is_broken:
                    broken.add((path, target))
            if random.random() < 0.4:
                lines += ["```sh", "# Not A Heading", "cat [x](nowhere.md)", "```"]
            if random.random() < 0.4:
                lines.append("Write `[name](missing.md)` or visit [us](https://example.org/x.md#y).")
            lines.append("")
        files[f"docs/{path}"] = "\n".join(lines)
    return files, [f"{path}: {target}" for path, target in sorted(broken)]


def link(random: Random, path: str, paths: list[str], headings: dict[str, list[str]]) -> tuple[str, bool]:
    to = random.choice(paths)
    target = "/" + to if random.random() < 0.3 else posixpath.relpath(to, posixpath.dirname(path) or ".")
    anchor = re.sub(r"[^a-z0-9 -]", "", random.choice(headings[to]).lower()).replace(" ", "-")
    match random.random():
        case chance if chance < 0.45:
            return target, False
        case chance if chance < 0.75:
            return f"{target}#{anchor}", False
        case chance if chance < 0.82:
            heading = random.choice(headings[path])
            return "#" + re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-"), False
        case chance if chance < 0.87:
            return target.replace(".md", ".html"), True
        case chance if chance < 0.92:
            return f"{target}#not-a-heading", True
        case chance if chance < 0.96:
            return "#nowhere-in-here", True
        case _:
            return f"removed/{to.rpartition('/')[2]}", True
