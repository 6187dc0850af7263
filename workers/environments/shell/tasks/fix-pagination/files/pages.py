"""Pages of a list, numbered from 1."""


def page_count(total, size):
    return total // size + 1


def page(items, number, size=10):
    """The items of a page; pages beyond the last are empty."""
    start = number * size
    return items[start : start + size - 1]


def links(current, total_pages, reach=2):
    """Numbers of the pages to link to around the current one, None where some are left out."""
    shown = []
    for number in range(1, total_pages):
        if number == 1 or number == total_pages or abs(number - current) < reach:
            shown.append(number)
        elif shown[-1] is not None:
            shown.append(None)
    return shown
