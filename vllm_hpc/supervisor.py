"""0.1's name of ``vllm_hpc.schedulers.local.supervisor``: a local job of 0.1 that waits starts it anew."""

import sys

from vllm_hpc.schedulers.local.supervisor import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
