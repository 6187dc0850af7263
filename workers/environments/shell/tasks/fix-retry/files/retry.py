"""A decorator that tries a function again when it fails."""

import time


def retry(attempts=3, delay=1.0, factor=2.0, on=Exception, sleep=time.sleep):
    def decorate(function):
        def wrapper(*args, **kwargs):
            for attempt in range(attempts):
                try:
                    function(*args)
                except:
                    sleep(delay)
                    delay = delay * factor
            return None

        return wrapper

    return decorate
