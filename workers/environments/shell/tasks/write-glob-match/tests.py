BANNED = ["fnmatch", "glob", "pathlib", "re"]


def evaluated(subject, code, **inputs):
    return subject.evaluate(code, of="globs", without=BANNED, **inputs)


def tables(subject, *cases):
    code = "from globs import matches\nresult = [[matches(pattern, path) for path in paths] for pattern, paths in cases]"
    found = evaluated(subject, code, cases=[[pattern, list(paths)] for pattern, paths in cases])
    for (pattern, paths), answers in zip(cases, found, strict=True):
        assert answers == list(paths.values()), pattern


def test_stars_and_question_marks_stay_within_a_part(subject):
    tables(
        subject,
        ("*.py", {"a.py": True, ".py": True, "a/b.py": False, "a.pyc": False}),
        ("src/?.c", {"src/a.c": True, "src/.c": False, "src/ab.c": False, "src//.c": False}),
    )


def test_double_star_takes_any_number_of_parts(subject):
    tables(
        subject,
        ("a/**/b", {"a/b": True, "a/x/b": True, "a/x/y/b": True, "a/xb": False, "ab": False}),
        ("**/b", {"b": True, "x/b": True, "x/y/b": True, "xb": False}),
        ("a/**", {"a/b": True, "a/b/c": True, "a": False, "b/c": False}),
        ("**", {"a": True, "a/b": True}),
        ("**/x/**/y", {"x/y": True, "a/x/b/y": True, "y/x": False, "x/y/z": False}),
    )


def test_double_star_within_a_part_is_a_star(subject):
    tables(
        subject,
        ("a**b", {"ab": True, "axxb": True, "a/b": False}),
    )


def test_sets_of_characters(subject):
    tables(
        subject,
        ("[a-c1]x", {"ax": True, "cx": True, "1x": True, "dx": False, "x": False}),
        ("[!a-c]x", {"dx": True, "ax": False, "/x": False}),
        ("[]a]", {"]": True, "a": True, "b": False}),
        ("[!]a]", {"]": False, "b": True}),
        ("[-x]", {"-": True, "x": True, "y": False}),
        ("[a-]", {"-": True, "a": True, "b": False}),
        ("[ab", {"[ab": True, "a": False}),
    )


def test_alternatives(subject):
    tables(
        subject,
        ("*.{py,pyi}", {"a.py": True, "a.pyi": True, "a.pyc": False}),
        ("{a,b/c}/d", {"a/d": True, "b/c/d": True, "c/d": False}),
        ("x{,y}", {"x": True, "xy": True, "xx": False}),
        ("{a{1,2},b?}", {"a1": True, "a2": True, "bz": True, "a3": False, "b": False}),
        ("{**/,}m", {"m": True, "a/m": True, "a/b/m": True, "am": False}),
        ("a{b", {"a{b": True, "ab": False}),
        ("a}b", {"a}b": True}),
    )


def test_backslashes(subject):
    tables(
        subject,
        ("\\*.c", {"*.c": True, "a.c": False}),
        ("\\{a,b}", {"{a,b}": True, "a": False}),
        ("{a\\,b,c}", {"a,b": True, "c": True, "a": False}),
        ("\\[a]", {"[a]": True, "a": False}),
    )


def test_whole_path_must_match(subject):
    tables(
        subject,
        ("abc", {"abc": True, "xabc": False, "abcd": False, "abc/": False}),
        ("", {"": True, "a": False}),
    )


def test_hard_patterns_are_quick(subject):
    code = "from globs import matches\nresult = [matches(pattern, 'a' * 2000), matches(pattern, 'a' * 2000 + 'b')]"
    assert evaluated(subject, code, cpu_seconds=8, pattern="*a" * 12 + "*b") == [False, True]
    code = "from globs import matches\nresult = matches('**/a/' * 8 + 'b', 'a/' * 60 + 'c')"
    assert evaluated(subject, code, cpu_seconds=8) is False
