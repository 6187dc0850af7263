BANNED = ["fnmatch", "glob", "pathlib", "re"]


def evaluated(subject, code, **inputs):
    return subject.evaluate(code, of="globs", without=BANNED, **inputs)


def table(subject, pattern, paths):
    code = "from globs import matches\nresult = [matches(pattern, path) for path in paths]"
    return evaluated(subject, code, pattern=pattern, paths=list(paths)) == list(paths.values())


def test_stars_and_question_marks_stay_within_a_part(subject):
    assert table(subject, "*.py", {"a.py": True, ".py": True, "a/b.py": False, "a.pyc": False})
    assert table(subject, "src/?.c", {"src/a.c": True, "src/.c": False, "src/ab.c": False, "src//.c": False})


def test_double_star_takes_any_number_of_parts(subject):
    assert table(subject, "a/**/b", {"a/b": True, "a/x/b": True, "a/x/y/b": True, "a/xb": False, "ab": False})
    assert table(subject, "**/b", {"b": True, "x/b": True, "x/y/b": True, "xb": False})
    assert table(subject, "a/**", {"a/b": True, "a/b/c": True, "a": False, "b/c": False})
    assert table(subject, "**", {"a": True, "a/b": True})
    assert table(subject, "**/x/**/y", {"x/y": True, "a/x/b/y": True, "y/x": False, "x/y/z": False})


def test_double_star_within_a_part_is_a_star(subject):
    assert table(subject, "a**b", {"ab": True, "axxb": True, "a/b": False})


def test_sets_of_characters(subject):
    assert table(subject, "[a-c1]x", {"ax": True, "cx": True, "1x": True, "dx": False, "x": False})
    assert table(subject, "[!a-c]x", {"dx": True, "ax": False, "/x": False})
    assert table(subject, "[]a]", {"]": True, "a": True, "b": False})
    assert table(subject, "[!]a]", {"]": False, "b": True})
    assert table(subject, "[-x]", {"-": True, "x": True, "y": False})
    assert table(subject, "[a-]", {"-": True, "a": True, "b": False})
    assert table(subject, "[ab", {"[ab": True, "a": False})


def test_alternatives(subject):
    assert table(subject, "*.{py,pyi}", {"a.py": True, "a.pyi": True, "a.pyc": False})
    assert table(subject, "{a,b/c}/d", {"a/d": True, "b/c/d": True, "c/d": False})
    assert table(subject, "x{,y}", {"x": True, "xy": True, "xx": False})
    assert table(subject, "{a{1,2},b?}", {"a1": True, "a2": True, "bz": True, "a3": False, "b": False})
    assert table(subject, "{**/,}m", {"m": True, "a/m": True, "a/b/m": True, "am": False})
    assert table(subject, "a{b", {"a{b": True, "ab": False})
    assert table(subject, "a}b", {"a}b": True})


def test_backslashes(subject):
    assert table(subject, "\\*.c", {"*.c": True, "a.c": False})
    assert table(subject, "\\{a,b}", {"{a,b}": True, "a": False})
    assert table(subject, "{a\\,b,c}", {"a,b": True, "c": True, "a": False})
    assert table(subject, "\\[a]", {"[a]": True, "a": False})


def test_whole_path_must_match(subject):
    assert table(subject, "abc", {"abc": True, "xabc": False, "abcd": False, "abc/": False})
    assert table(subject, "", {"": True, "a": False})


def test_hard_patterns_are_quick(subject):
    code = "from globs import matches\nresult = [matches(pattern, 'a' * 2000), matches(pattern, 'a' * 2000 + 'b')]"
    assert evaluated(subject, code, cpu_seconds=8, pattern="*a" * 12 + "*b") == [False, True]
    code = "from globs import matches\nresult = matches('**/a/' * 8 + 'b', 'a/' * 60 + 'c')"
    assert evaluated(subject, code, cpu_seconds=8) is False
