"""0.1's name of ``vllm_hpc.schedulers.in_script.resubmit``: scripts of 0.1 run it."""

import sys

from vllm_hpc.schedulers.in_script.resubmit import main_of_0_1 as main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
