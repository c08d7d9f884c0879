"""What a driver got, step by step, as lines of text that two runs can be compared by."""

import hashlib


def say(step, value):
    text = repr(value)
    if len(text) > 300:
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        text = f"{text[:20]}... {len(text)} characters, {digest}"
    print(f"{step}: {text}", flush=True)


def fails(step, error_class, work):
    """Runs what must fail, and says how."""
    try:
        say(step, ("unexpected", work()))
    except error_class as error:
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        say(step, (type(error).__name__, code, str(error)))


def numbers(first, last):
    return "".join(f"{i}\tcopied {i}\n" for i in range(first, last))
