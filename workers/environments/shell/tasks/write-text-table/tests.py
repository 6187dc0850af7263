def test_numbers_go_right_and_text_goes_left(subject):
    table = subject.call("table.render", ["name", "count"], [["apples", 7], ["figs", 1200]])
    assert table == "name    count\n------  -----\napples      7\nfigs     1200"


def test_column_is_as_wide_as_its_widest_cell(subject):
    table = subject.call("table.render", ["a", "b"], [["long cell", "x"], ["y", "another"]])
    assert table == "a          b\n---------  -------\nlong cell  x\ny          another"


def test_none_is_empty_and_nothing_trails(subject):
    table = subject.call("table.render", ["k", "v"], [["one", None], [None, 2.5]])
    assert table == "k    v\n---  ---\none\n     2.5"


def test_truth_values_are_no_numbers(subject):
    table = subject.call("table.render", ["flag", "n"], [[True, 1], [False, 10]])
    assert table == "flag   n\n-----  --\nTrue    1\nFalse  10"


def test_header_alone(subject):
    assert subject.call("table.render", ["x", "yy"], []) == "x  yy\n-  --"


def test_row_of_wrong_length_is_an_error(subject):
    assert "ValueError" in subject.raised("from table import render\nrender(['a', 'b'], [['x']])")
