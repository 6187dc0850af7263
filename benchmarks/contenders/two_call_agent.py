"""An agent that makes two model calls with the standard library alone, and times them where it is told to.

Its model is at OPENAI_BASE_URL. With the number of CALLS as an argument it makes so many, of one conversation
each, over one connection, and prints the microseconds to the first byte of each answer as JSON; a second
argument has them streamed. Without arguments it makes two that go on from each other, and prints nothing.
"""

import http.client
import json
import os
import sys
import time
from urllib.parse import urlsplit


def main() -> None:
    url = urlsplit(os.environ["OPENAI_BASE_URL"])
    connection = http.client.HTTPConnection(url.hostname or "", url.port)
    headers = {"authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "content-type": "application/json"}

    stream = len(sys.argv) > 2

    def ask(messages: list[dict[str, object]]) -> tuple[bytes, float]:
        """The answer, and the seconds to its first byte."""
        body = json.dumps({"model": "mock", "messages": messages, "stream": stream}).encode()
        began = time.perf_counter()
        connection.request("POST", f"{url.path}/chat/completions", body, headers)
        answer = connection.getresponse()
        said = answer.read(1)
        seconds = time.perf_counter() - began
        said += answer.read()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {said[:500]!r}")
        return said, seconds

    if len(sys.argv) > 1:
        calls = range(int(sys.argv[1]))
        seconds = [ask([{"role": "user", "content": f"question {call}"}])[1] for call in calls]
        # In whole microseconds: of an agent's output only the last bytes are kept, and all calls must fit.
        print(json.dumps([round(each * 1e6) for each in seconds], separators=(",", ":")))
        return
    messages: list[dict[str, object]] = [{"role": "user", "content": "go"}]
    said = json.loads(ask(messages)[0])["choices"][0]["message"]
    ask([*messages, {"role": "assistant", "content": said["content"]}, {"role": "user", "content": "more"}])


main()
