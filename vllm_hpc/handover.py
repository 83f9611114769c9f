"""0.1's name of ``vllm_hpc.schedulers.in_script.export_environment``: scripts of 0.1 run it."""

import sys

from vllm_hpc.schedulers.in_script.export_environment import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
