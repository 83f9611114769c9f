"""What others try: a second Unix user on the same machine, hostile files, hostile input, damaged folders."""
