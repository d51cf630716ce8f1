"""The tests, and then the end of the process without C++ destructors: `make test`.

Native threads of Ray and gRPC live as long as the process does. Once, when all tests had passed,
one of them ran into what a destructor had taken away, and the process ended with SIGSEGV instead of
pytest's verdict. What Python itself does at exit is done.
"""

from __future__ import annotations

import atexit
import os
import sys

import pytest


def main() -> None:
    code = int(pytest.main(sys.argv[1:]))
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
