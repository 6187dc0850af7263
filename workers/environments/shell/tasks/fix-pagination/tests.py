def test_page_counts(subject):
    code = "from pages import page_count\nresult = [page_count(total, 10) for total in (0, 1, 9, 10, 11, 20, 21)]"
    assert subject.evaluate(code) == [0, 1, 1, 1, 2, 2, 3]


def test_pages_hold_everything_once(subject):
    code = "from pages import page\nitems = list(range(23))\nresult = [page(items, number, 10) for number in (1, 2, 3, 4)]"
    assert subject.evaluate(code) == [list(range(10)), list(range(10, 20)), [20, 21, 22], []]


def test_default_size(subject):
    assert subject.call("pages.page", list(range(30)), 2) == list(range(10, 20))


def test_bad_numbers_are_errors(subject):
    for arguments in ([[1], 0], [[1], -1], [[1], 1, 0]):
        assert "ValueError" in subject.raised("from pages import page\npage(*arguments)", arguments=arguments)


def test_links_in_the_middle(subject):
    assert subject.call("pages.links", 10, 20) == [1, None, 8, 9, 10, 11, 12, None, 20]
    assert subject.call("pages.links", 10, 20, 1) == [1, None, 9, 10, 11, None, 20]


def test_links_at_the_ends(subject):
    assert subject.call("pages.links", 1, 9) == [1, 2, 3, None, 9]
    assert subject.call("pages.links", 9, 9) == [1, None, 7, 8, 9]
    assert subject.call("pages.links", 1, 1) == [1]
    assert subject.call("pages.links", 1, 3) == [1, 2, 3]
    assert subject.call("pages.links", 1, 0) == []


def test_single_page_is_never_left_out(subject):
    assert subject.call("pages.links", 5, 20) == [1, 2, 3, 4, 5, 6, 7, None, 20]
    assert subject.call("pages.links", 5, 9) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
