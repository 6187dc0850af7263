def evaluated(subject, code, **inputs):
    return subject.evaluate(code, of="settings", without=["configparser"], **inputs)


def parsed(subject, text):
    return evaluated(subject, "from settings import parse\nresult = parse(text)", text=text)


def test_sections_and_settings(subject):
    text = "a = 1\n[one]\nx=y = z\n\n[two]\n[one]\n w = v\n"
    text = text.replace(" w = v", "w = v")
    assert parsed(subject, text) == {"": {"a": "1"}, "one": {"x": "y = z", "w": "v"}, "two": {}}


def test_nothing_gives_nothing(subject):
    assert parsed(subject, "\n# only a comment\n   ; and another\n") == {}


def test_values_go_on(subject):
    text = "[s]\nkey = one\n  two\n# between\n\n\tthree = 3\nnext = n\n"
    assert parsed(subject, text) == {"s": {"key": "one\ntwo\nthree = 3", "next": "n"}}


def test_values_may_be_empty(subject):
    assert parsed(subject, "k =\nl = \n  more") == {"": {"k": "", "l": "\nmore"}}


def test_quotes(subject):
    text = r'''a = "  kept  "
b = "say \"hi\"\\ and \n go"
c = "# no comment"
d = ""
'''
    assert parsed(subject, text) == {
        "": {"a": "  kept  ", "b": 'say "hi"\\ and \n go', "c": "# no comment", "d": ""}
    }


def test_comment_signs_within_values_are_text(subject):
    assert parsed(subject, "url = http://x/#top ; not a comment") == {
        "": {"url": "http://x/#top ; not a comment"}
    }


def line_of_error(subject, text):
    code = """
from settings import parse, ParseError
try:
    parse(text)
    result = None
except ParseError as error:
    result = [isinstance(error, ValueError), error.line]
"""
    return evaluated(subject, code, text=text)


def test_key_set_twice_is_an_error(subject):
    assert line_of_error(subject, "[a]\nk = 1\n[b]\nk = 2\n[a]\nk = 3\n") == [True, 6]


def test_lines_of_no_kind_are_errors(subject):
    assert line_of_error(subject, "[a]\n\nnonsense\n") == [True, 3]
    assert line_of_error(subject, "= value\n") == [True, 1]
    assert line_of_error(subject, "a = 1\n[open\n") == [True, 2]


def test_going_on_with_nothing_is_an_error(subject):
    assert line_of_error(subject, "\n  dangling\n") == [True, 2]
    assert line_of_error(subject, "a = 1\n[s]\n  dangling\n") == [True, 3]
