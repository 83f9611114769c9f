"""What people use from Python: the functions, sweeps, and what a notebook shows of them."""
