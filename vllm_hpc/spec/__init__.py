"""What the user asked for, as frozen values (request, profile, layout, plan), and checks of single values."""
