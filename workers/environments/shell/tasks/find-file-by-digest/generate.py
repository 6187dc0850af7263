"""A tree of look-alike binary files."""

import hashlib
from random import Random


def generate(random: Random) -> tuple[dict[str, str | bytes], dict[str, str]]:
    words = "alpha beta gamma delta old new copy final draft .cache backup v2".split()
    files: dict[str, bytes] = {}
    template = random.randbytes(600)
    while len(files) < 160:
        folders = [random.choice(words) for _ in range(random.randrange(0, 5))]
        name = random.choice(["data.bin", ".data.bin", "data (1).bin", "DATA.BIN", "-data.bin", "data.bin.bak"])
        content = bytearray(template)
        content[random.randrange(600)] = random.randrange(256)
        files["/".join(["archive", *folders, name])] = bytes(content)
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    unique = [path for path, digest in sorted(digests.items()) if list(digests.values()).count(digest) == 1]
    wanted = random.choice([path for path in unique if path.count("/") > 2])
    everything: dict[str, str | bytes] = {**files, "wanted.txt": digests[wanted] + "\n"}
    return everything, {"path": wanted, "digest": digests[wanted]}
