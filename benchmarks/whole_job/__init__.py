"""Whole jobs beside other batch tools: the same file of chats, from the command to the last row."""
