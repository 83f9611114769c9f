"""The job's own store: what the ranks of one world tell each other, and count together.

torch has such a store, too, but asks nobody who they are: any user of the machine can read, set and list its keys.
"""
