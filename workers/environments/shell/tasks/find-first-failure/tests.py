import json


def answer(subject):
    return json.loads(subject.read("answer.json"))


def test_request(subject):
    assert answer(subject)["request"] == subject.expected["request"]


def test_user(subject):
    assert answer(subject)["user"] == subject.expected["user"]


def test_release(subject):
    assert answer(subject)["release"] == subject.expected["release"]


def test_number_of_failures(subject):
    assert answer(subject)["failures"] == subject.expected["failures"]
