def test_answer_is_the_port(subject):
    assert subject.output.strip().rstrip(".") == "10065"
