import json


def answer(subject):
    return json.loads(subject.read("answer.json"))


def test_moment_of_change(subject):
    assert answer(subject)["changed_after"] == subject.expected["changed_after"]


def test_offset_before(subject):
    assert answer(subject)["before"] == subject.expected["before"]


def test_offset_after(subject):
    assert answer(subject)["after"] == subject.expected["after"]
