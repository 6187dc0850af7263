import json


def typed(value):
    """With its types, which `==` takes no notice of: 1, 1.0 and true are equal to it."""
    match value:
        case dict():
            return {key: typed(each) for key, each in value.items()}
        case list():
            return [typed(each) for each in value]
        case _:
            return [type(value).__name__, value]


def refused(pairs):
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), "a name comes twice"
    return dict(pairs)


def constant(name):
    raise AssertionError(f"{name} is no JSON")


def services(subject):
    return json.loads(subject.read("services.json"), object_pairs_hook=refused, parse_constant=constant)


def test_it_is_json_with_the_right_keys(subject):
    assert sorted(services(subject)) == ["default_timeout", "services", "version"]


def test_no_service_is_lost(subject):
    found = [(each["name"], each["port"], each["replicas"]) for each in services(subject)["services"]]
    assert found == [("catalog", 8081, 3), ("cart", 8082, 2), ("checkout", 8083, 4), ("search", 8084, 1)]


def test_every_value_is_as_meant(subject):
    assert typed(services(subject)) == typed({
        "version": 3,
        "services": [
            {"name": "catalog", "port": 8081, "replicas": 3, "tags": ["public", "cached"], "healthy_after": 0.5},
            {"name": "cart", "port": 8082, "replicas": 2, "tags": [], "motd": 'Say "hello" to the cart\n', "enabled": True},
            {"name": "checkout", "port": 8083, "replicas": 4, "tags": ["public", "pci"], "fallback": None, "path": "C:\\shop\\checkout", "enabled": False},
            {"name": "search", "port": 8084, "replicas": 1, "tags": ["internal"], "timeout": 1.5},
        ],
        "default_timeout": 30,
    })  # fmt: skip
