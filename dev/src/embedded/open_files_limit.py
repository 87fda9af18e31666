"""`python -m embedded.open_files_limit 1024 ledger app` runs the module with at most 1,024 open files."""

import resource
import runpy
import sys

if __name__ == "__main__":
    files, module = int(sys.argv[1]), sys.argv[2]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    sys.argv[:] = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
