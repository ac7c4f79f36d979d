"""The script that runs inside the sandbox. It imports nothing but the standard library.

Standard input: {"source", "entry" or null, "limits", "output_bytes", "tests"}; a test is {"args"} for a function or
{"stdin"} for a program. Standard output: a line {"ready": true}, then one line for each test, {"value": ...} or
{"failed": why}. Expected values never come here. Deadlines are kept outside: whoever runs this script kills it.

Every test runs in a process of its own, so a test that dies ends no other test. Files that it leaves are removed
before the next one; if they cannot be, no other test runs.
"""
import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
CLONE_THREAD = 0x10000

# Machine -> (its name in filters, which of the numbers below are its own). None: it has no such call.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# What a submission may not do: signal, watch or write another process, leave its group, keep memory outside of its
# own, or ask the kernel for what no program of a task needs.
REFUSED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "setsid": (112, 157), "setpgid": (109, 154),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "chroot": (161, 51), "pivot_root": (155, 41),
    "io_uring_setup": (425, 425), "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241),
}
FORK, VFORK, CLONE, CLONE3 = (57, None), (58, None), (56, 220), (435, 435)
KILL, TGKILL, PRCTL, FCNTL, IOCTL = (62, 129), (234, 131), (157, 167), (72, 25), (16, 29)
# Signals that a file sends: F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP.
BY_FILES = ((FCNTL, (8, 10, 15)), (IOCTL, (0x8901, 0x8902)))

# Of classic BPF: load a word of the call, jump on the loaded word, end.
LOAD, EQUAL, AT_LEAST, ANY_BIT, END = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NUMBER, MACHINE, ARGUMENTS = 0, 4, 16       # offsets in what the kernel shows of a call


def instruction(code, value, then=0, otherwise=0):
    return struct.pack("=HBBI", code, then, otherwise, value)


def end(problem=0):
    return instruction(END, REFUSE | problem if problem else ALLOW)


def when(test, value, body):
    """The body if the loaded word passes, else what follows."""
    return [instruction(test, value, 0, len(body)), *body]


def argument(index):
    return instruction(LOAD, ARGUMENTS + 8 * index)


def call_filter(pid):
    """The filter of system calls, as bytes, of a submission in the process `pid`: it is one process, with threads,
    and signals itself only. Raises OSError for a machine whose numbers are not known."""
    name = os.uname().machine
    if name not in MACHINES:
        raise OSError(f"no table of system calls for {name}")
    machine, column = MACHINES[name]

    def of(numbers, body):
        return when(EQUAL, numbers[column], body) if numbers[column] is not None else []

    no, own = end(errno.EPERM), [*when(EQUAL, pid, [end()]), end(errno.EPERM)]
    parts = [instruction(LOAD, MACHINE), instruction(EQUAL, machine, 1, 0), no, instruction(LOAD, NUMBER)]
    # Numbers of the x32 calls, which no program needs.
    parts += when(AT_LEAST, 0x40000000, [no])
    for numbers in REFUSED.values():
        parts += of(numbers, [no])
    parts += of(FORK, [end(errno.EAGAIN)]) + of(VFORK, [end(errno.EAGAIN)])
    # Its flags stand in memory, which a filter cannot read: C libraries fall back to clone.
    parts += of(CLONE3, [end(errno.ENOSYS)])
    parts += of(CLONE, [argument(0), *when(ANY_BIT, CLONE_THREAD, [end()]), end(errno.EAGAIN)])
    parts += of(KILL, [argument(0), *own]) + of(TGKILL, [argument(0), *own])
    parts += of(PRCTL, [argument(0), *when(EQUAL, PR_SET_PDEATHSIG, [no]), end()])
    for numbers, values in BY_FILES:
        parts += of(numbers, [argument(1), *(each for value in values for each in when(EQUAL, value, [no])), end()])
    return b"".join([*parts, end()])


def prctl(option, *values):
    given = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in (*values, 0, 0, 0, 0)[:4]]
    if LIBC.prctl(option, *given) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def shut_in():
    """From here on, this process obeys the filter, and so does whatever it becomes."""
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    instructions = call_filter(os.getpid())
    prctl(PR_SET_SECCOMP, 2, ctypes.byref(Program(len(instructions) // 8, instructions)))


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
    with open("stdin", "w+b") as given:
        os.unlink("stdin")
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


def run_test(job, test):
    """One test in a process of its own -> {"value": ...} or {"failed": ...}."""
    mine, its = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(mine)
            os.close(job["out"])
            if LIBC is not None:
                shut_in()
            (call if job["entry"] else execute)(job, test, its)
            status = 0
        finally:
            os._exit(status)
    os.close(its)
    data = b""
    while len(data) <= job["output_bytes"] and (piece := os.read(mine, 65536)):
        data += piece
    os.close(mine)
    if len(data) > job["output_bytes"]:
        os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1]:
        return {"failed": "too much output" if len(data) > job["output_bytes"] else "it ended with an error"}
    try:
        return {"value": json.loads(data) if job["entry"] else data.decode("utf-8", "replace")}
    except (ValueError, RecursionError) as problem:
        return {"failed": type(problem).__name__}


def emptied(folder):
    """Whether nothing is left in the folder. What stands in a folder is moved up first: no path gets long."""
    moved = 0
    try:
        while entries := list(os.scandir(folder)):
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                for inner in list(os.scandir(entry.path)):
                    while os.path.lexists(free := os.path.join(folder, str(moved))):
                        moved += 1
                    os.rename(inner.path, free)
                os.rmdir(entry.path)
    except OSError:
        return False
    return True


def main():
    job = json.loads(sys.stdin.buffer.read())
    for name, value in job["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if LIBC is not None:
        # The submission runs as the same user: it may neither trace this process nor open its files in /proc.
        prctl(PR_SET_DUMPABLE, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    job["out"], folder = os.dup(1), os.getcwd()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    write_all(job["out"], b'{"ready": true}\n')
    for test in job["tests"]:
        write_all(job["out"], json.dumps(run_test(job, test)).encode() + b"\n")
        if not emptied(folder):
            return


if __name__ == "__main__":
    main()
