"""The script that runs inside the sandbox. It imports nothing but the standard library.

Standard input: {"source", "entry" or null, "seconds", "limits", "output_bytes", "tests"}; a test is {"args"}
for a function or {"stdin"} for a program. Standard output: a line {"ready": true}, then one line for each test,
{"test": i, "value": ...} or {"test": i, "failed": why}. Expected values never come here.

Every test runs in a process of its own, so a test that dies ends no other test. After a test that
ran out of time, the remaining tests do not run.
"""
import contextlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time


def plain(value, depth=0):
    """The value as plain JSON, by exact type: a subclass could run code of its own."""
    kind = type(value)
    if depth > 50:
        raise ValueError("nested too deeply")
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (list, tuple):
        return [plain(each, depth + 1) for each in value]
    if kind is dict and all(type(key) is str for key in value):
        return {key: plain(each, depth + 1) for key, each in value.items()}
    raise TypeError(f"a value of type {kind.__name__} is not plain JSON")


def call(job, test, pipe):
    """Run the submission and write its function's value as JSON."""
    names = {"__name__": "submission"}
    exec(compile(job["source"], "<submission>", "exec"), names)
    value = plain(names[job["entry"]](*test["args"]))
    write_all(pipe, json.dumps(value).encode())


def execute(job, test, pipe):
    """Run the submission as a program with its input and output redirected."""
    with tempfile.TemporaryFile() as given:
        given.write(test["stdin"].encode("utf-8", "replace"))
        given.seek(0)
        os.dup2(given.fileno(), 0)
    os.dup2(pipe, 1)
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="replace")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace")
    names = {"__name__": "__main__", "exit": sys.exit, "quit": sys.exit}
    with contextlib.suppress(SystemExit):
        exec(compile(job["source"], "<submission>", "exec"), names)
    sys.stdout.flush()


def write_all(descriptor, data):
    while data:
        data = data[os.write(descriptor, data):]


def read_all(pipe, child, seconds, most):
    """(output, exit status, failure) of a child; a failure is out of time, or too much output. The child has
    ended and is reaped when this returns. Processes that it leaves behind are not waited for."""
    end, data, status, failure = time.monotonic() + seconds, b"", None, None
    while failure is None:
        if select.select([pipe], [], [], 0 if status is not None else 0.02)[0]:
            piece = os.read(pipe, 65536)
            data += piece
            failure = "too much output" if len(data) > most else None
            if piece:
                continue
            # The pipe is closed: the child ends now, or has closed it to go on without.
            time.sleep(0.0005)
        if status is not None:
            return data, status, None
        ended, found = os.waitpid(child, os.WNOHANG)
        status = found if ended else None
        if time.monotonic() > end and status is None:
            failure = "out of time"
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return data, status, failure


def run_test(job, test):
    """One test in a process of its own -> {"value": ...} or {"failed": ...}."""
    mine, its = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(mine)
            os.close(job["out"])
            (call if job["entry"] else execute)(job, test, its)
            status = 0
        finally:
            os._exit(status)
    os.close(its)
    data, status, failure = read_all(mine, child, job["seconds"], job["output_bytes"])
    os.close(mine)
    if failure or status:
        return {"failed": failure or "it ended with an error"}
    try:
        return {"value": json.loads(data) if job["entry"] else data.decode("utf-8", "replace")}
    except (ValueError, RecursionError) as problem:
        return {"failed": type(problem).__name__}


def main():
    job = json.loads(sys.stdin.buffer.read())
    for name, value in job["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    job["out"] = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    write_all(job["out"], b'{"ready": true}\n')
    for index, test in enumerate(job["tests"]):
        found = run_test(job, test)
        write_all(job["out"], json.dumps({"test": index, **found}).encode() + b"\n")
        if found.get("failed") == "out of time":
            return


if __name__ == "__main__":
    main()
