import json


def test_service(subject):
    assert json.loads(subject.read("answer.json"))["service"] == subject.expected["service"]


def test_growth(subject):
    found = json.loads(subject.read("answer.json"))["mb_per_hour"]
    assert abs(found - subject.expected["mb_per_hour"]) < 0.051
