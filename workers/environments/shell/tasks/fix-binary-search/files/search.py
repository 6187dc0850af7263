def first_at_least(values, wanted):
    """The index of the first of the sorted values that is not less than `wanted`."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if values[middle] <= wanted:
            low = middle
        else:
            high = middle - 1
    return low
