"""What fits, which layout, which engine settings, how long it takes."""
