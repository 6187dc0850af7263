def routed(subject, patterns, paths):
    code = """
from router import Router
router = Router()
for number, pattern in enumerate(patterns):
    router.add(pattern, number)
result = [router.match(path) for path in paths]
"""
    found = subject.evaluate(code, patterns=patterns, paths=paths)
    return [None if one is None else tuple(one) for one in found]


def test_plain_paths(subject):
    found = routed(subject, ["/", "/about", "/about/us"], ["/", "/about", "/about/us", "/abou", "/aboutx", "/x/about"])
    assert found == [(0, {}), (1, {}), (2, {}), None, None, None]


def test_parameters_and_their_types(subject):
    patterns = ["/users/<id:int>", "/users/<name>/posts/<slug:str>", "/files/<rest:path>", "/file.<ext>"]
    paths = ["/users/42", "/users/", "/users/4x", "/users/ann/posts/hi", "/users/a/b/posts/hi", "/files/a/b.c", "/file.txt", "/fileXtxt"]
    assert routed(subject, patterns, paths) == [
        (0, {"id": 42}), None, None, (1, {"name": "ann", "slug": "hi"}), None, (2, {"rest": "a/b.c"}), (3, {"ext": "txt"}), None,
    ]  # fmt: skip


def test_special_characters_stand_for_themselves(subject):
    assert routed(subject, ["/a.b", "/c+d", "/(x)"], ["/a.b", "/axb", "/c+d", "/ccd", "/(x)"]) == [
        (0, {}), None, (1, {}), None, (2, {}),
    ]  # fmt: skip


def test_slash_at_the_end_makes_no_difference(subject):
    assert routed(subject, ["/a/", "/b"], ["/a", "/a/", "/b", "/b/", "/b//"]) == [(0, {}), (0, {}), (1, {}), (1, {}), None]


def test_query_and_fragment_are_left_out(subject):
    assert routed(subject, ["/s/<q>"], ["/s/x?y=/z", "/s/x#top", "/s/x/?a#b"]) == [(0, {"q": "x"})] * 3


def test_percent_decoding(subject):
    found = routed(subject, ["/t/<tag>", "/p/<rest:path>", "/grün"], ["/t/a%20b", "/t/a%2Fb", "/t/%C3%A4", "/p/a%2fb/c", "/gr%C3%BCn", "/t/a%3Fb"])
    assert found == [(0, {"tag": "a b"}), (0, {"tag": "a/b"}), (0, {"tag": "ä"}), (1, {"rest": "a/b/c"}), (2, {}), (0, {"tag": "a?b"})]


def test_most_specific_pattern_wins(subject):
    found = routed(subject, ["/<any:path>", "/u/<name>", "/u/me", "/u/<id:int>"], ["/u/me", "/u/7", "/u/ann", "/u/a/b"])
    assert found == [(2, {}), (1, {"name": "7"}), (1, {"name": "ann"}), (0, {"any": "u/a/b"})]


def test_bad_patterns_are_errors(subject):
    for pattern in ("no-slash", "/<a:float>", "/<a>/<a:int>", ""):
        code = "from router import Router\nRouter().add(pattern, 1)"
        assert "ValueError" in subject.raised(code, pattern=pattern), pattern


def test_urls_are_made(subject):
    code = """
from router import Router
router = Router()
router.add("/users/<id:int>/", "user")
router.add("/users/<id:int>/posts/<slug>", "post")
router.add("/latest", "post")
router.add("/files/<rest:path>", "file")
result = [router.url("user", id=42), router.url("post", id=7, slug="a b/ä~"), router.url("post"), router.url("file", rest="x y/z.txt")]
"""
    assert subject.evaluate(code) == ["/users/42/", "/users/7/posts/a%20b%2F%C3%A4~", "/latest", "/files/x%20y/z.txt"]


def test_urls_that_cannot_be_made_are_errors(subject):
    code = """
from router import Router
router = Router()
router.add("/users/<id:int>", "user")
router.add("/x/<s>", "x")
result = []
for handler, values in cases:
    try:
        result.append(router.url(handler, **values))
    except ValueError:
        pass
"""
    cases = [["user", {}], ["user", {"id": "x"}], ["user", {"id": -1}], ["user", {"id": 1, "more": 2}], ["nobody", {}], ["x", {"s": ""}]]
    assert subject.evaluate(code, cases=cases) == []


def test_there_and_back(subject):
    code = """
from router import Router
router = Router()
router.add("/<a>/x/<b:int>/<c:path>", "h")
values = {"a": "50% & more/?#", "b": 12, "c": "p/q r/ü+"}
result = router.match(router.url("h", **values))[1] == values
"""
    assert subject.evaluate(code) is True
