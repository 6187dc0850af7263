import json


def answer(subject):
    return json.loads(subject.read("answer.json"))


def test_endpoint(subject):
    assert answer(subject)["endpoint"] == subject.expected["endpoint"]


def test_number_of_requests(subject):
    assert answer(subject)["requests"] == subject.expected["requests"]


def test_median(subject):
    assert abs(answer(subject)["median"] - subject.expected["median"]) < 0.06
