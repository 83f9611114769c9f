"""What is asked for, as frozen values: request, profile, layout, plan; and the checks of single values."""
