"""Package manifests with exactly one cycle among what the root needs."""

import json
from random import Random

Version = tuple[int, int, int]


def generate(random: Random) -> tuple[dict[str, str], dict[str, object]]:
    names = sorted({f"{random.choice('bcdfglmprstv')}{random.choice('aeiou')}{random.choice('bdkmnrtx')}{number}" for number in range(60)})
    random.shuffle(names)
    versions: dict[str, list[Version]] = {}
    yanked: set[tuple[str, Version]] = set()
    for name in names:
        made = {(random.randrange(1, 4), random.randrange(12), random.randrange(3)) for _ in range(random.randrange(3, 9))}
        versions[name] = sorted(made)
        if len(made) > 3 and random.random() < 0.5:
            yanked.add((name, max(made)))

    def resolved(name: str, wanted: str) -> Version | None:
        return max((v for v in versions[name] if (name, v) not in yanked and holds(v, wanted)), default=None)

    def some_range(name: str) -> str:
        first, second, third = random.choice([v for v in versions[name] if (name, v) not in yanked])
        plain = f"{first}.{second}.{third}"
        return random.choice(["*", f"^{plain}", f"^{plain}", f">={plain}", f">={first}.0.0 <={plain}", f">{first}.{second}.0 <{first + 1}.0.0"])

    # Packages depend on later ones only, so there is no cycle but the one that is put in below.
    manifests: dict[tuple[str, Version], dict[str, str]] = {}
    for place, name in enumerate(names):
        for version in versions[name]:
            needs: dict[str, str] = {}
            for other in random.sample(names[place + 1 : place + 12], min(3, len(names[place + 1 : place + 12]))):
                wanted = some_range(other)
                if resolved(other, wanted):
                    needs[other] = wanted
            manifests[name, version] = needs
    root = {name: "*" for name in names[:4]}
    reached = closure(root, manifests, resolved)
    chains = [chain for one in sorted(reached) for chain in only_ways(one, manifests, resolved)]
    cycle = random.choice([chain for chain in chains if 4 <= len(chain) <= 6])
    back_name, (first, second, third) = cycle[0]
    manifests[cycle[-1]][back_name] = f">={first}.{second}.{third} <={first}.{second}.{third}"
    assert closure(root, manifests, resolved) == reached
    least = min(range(len(cycle)), key=lambda place: cycle[place][0])
    ordered = [f"{name} {'.'.join(map(str, version))}" for name, version in cycle[least:] + cycle[:least]]
    files = {"root.json": json.dumps({"dependencies": root}, indent=1)}
    for (name, version), needs in manifests.items():
        manifest: dict[str, object] = {"name": name, "dependencies": needs}
        if (name, version) in yanked:
            manifest["yanked"] = True
        files[f"packages/{name}/{'.'.join(map(str, version))}.json"] = json.dumps(manifest, indent=1)
    return files, {"cycle": ordered, "count": len(reached)}


def holds(version: Version, wanted: str) -> bool:
    if wanted == "*":
        return True
    if wanted.startswith("^"):
        least = parsed(wanted[1:])
        return version >= least and version[0] == least[0]
    for comparison in wanted.split():
        sign = comparison.rstrip("0123456789.")
        bound = parsed(comparison[len(sign) :])
        if not {">=": version >= bound, "<=": version <= bound, ">": version > bound, "<": version < bound}[sign]:
            return False
    return True


def parsed(text: str) -> Version:
    first, second, third = map(int, text.split("."))
    return first, second, third


def closure(root, manifests, resolved):
    waiting = list(root.items())
    found = set()
    while waiting:
        name, wanted = waiting.pop()
        one = name, resolved(name, wanted)
        if one not in found:
            found.add(one)
            waiting += manifests[one].items()
    return found


def only_ways(start, manifests, resolved):
    """The ways from a version to those that it reaches in one way only."""
    ways = {start: [[start]]}
    waiting = [start]
    while waiting:
        one = waiting.pop()
        for name, wanted in manifests[one].items():
            other = name, resolved(name, wanted)
            fresh = [way + [other] for way in ways[one] if way + [other] not in ways.get(other, [])]
            if fresh and len(ways.setdefault(other, [])) < 2:
                ways[other] += fresh
                waiting.append(other)
    return [found[0] for found in ways.values() if len(found) == 1]
