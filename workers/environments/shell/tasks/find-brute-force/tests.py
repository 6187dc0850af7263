def test_address_and_account(subject):
    assert subject.read("answer.txt").split() == subject.expected.split()
